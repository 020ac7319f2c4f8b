"""Removal requests + a root -> the same root without the documents that they mean.

`request` is the command: it records requests in `forgotten`, searches all datasets and has them
rewritten; `rewrite` finds a root's datasets, and removes the documents from their files.
"""

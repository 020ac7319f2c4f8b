"""Evaluation: in come a model and held-out shards or task files; out come losses and scores.

In order: loss (held-out text, as a whole and by domain), tasks (answers by log-likelihood).
"""

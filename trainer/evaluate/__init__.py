"""Evaluation: in come a model and held-out shards or task files; out come losses and scores.

In order: loss (held-out text, also by domain), tasks (rows to candidates), likelihood (scores).
"""

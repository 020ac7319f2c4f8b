"""A run: in come a recipe, shards and perhaps weights; out come checkpoints, a log and a report.

In order: request, weights, run, step, optimizer; run_folder and loss_plot write the files.
"""

"""Chat files -> shards of conversations with a loss mask, without an engine.

`conversations` is the command and its steps; `row_files` writes the two lists beside the shards,
which `jobs.takedown` takes rows out of.
"""

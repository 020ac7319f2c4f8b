"""In: a folder of token shards and a recipe's `[data]`. Out: batches of token ids, by step.

Order: `spec` (what a batch depends on), `shards` (opened and checked), `packing` (documents into
rows), `epoch_plan` (all rows of an epoch), `rows` (their tokens), `loader` (batches of a mixture).
"""

"""In: the canonical texts. Out: token shards, in an order and split that depend on no engine.

bpe.py trains a tokenizer where the recipe asks for one, splits.py assigns each document to train or
validation, shards.py encodes texts and writes the files.
"""

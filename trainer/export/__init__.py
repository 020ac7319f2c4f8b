"""Export: in comes a checkpoint, out comes a Hugging Face folder; and the way back.

One module, hf: export, load, and compare an exported folder with its checkpoint.
"""

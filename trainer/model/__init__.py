"""In: token ids and a recipe's `[model]`. Out: logits, and checkpoints on disk.

Order: `model` (the decoder), `precision` (bf16 or fp32), `cost` (sizes by depth, FLOPs, memory),
`step_folders` (which ones a run names, without torch), `checkpoint` (save, load and prune).
"""

"""`trainer export`: write a checkpoint as a folder that transformers, vLLM and llama.cpp read."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from schemas.errors import UserError
from trainer.commands import flags

_EXPORT = """\
Write a checkpoint as a Hugging Face model: config.json, model.safetensors, tokenizer.json and the
chat template. transformers loads it with AutoModelForCausalLM and AutoTokenizer, and runs none of
our code.

  trainer export --to hf out/hf --checkpoint demo/model
  trainer export --to hf out/hf --checkpoint demo/model --dtype bfloat16 --check
"""


def add_parser(commands: Any) -> None:
    """Add `trainer export` to the command line's subparsers."""
    command = flags.add_command(
        commands, "export", run, "write a model for transformers and other tools", _EXPORT
    )
    add = command.add_argument
    # fmt: off
    add("folder", type=Path, metavar="DIR", help="write to this folder, new or empty")
    add("--to", choices=["hf"], required=True, help="write this format; hf: Hugging Face")
    flags.add_checkpoint(command)
    add("--dtype", choices=["float32", "bfloat16"], default="float32",
        help="store the weights as this type (default: float32)")
    add("--check", action="store_true",
        help="compare logits and greedy generation with an installed transformers")
    # fmt: on


def run(arguments: argparse.Namespace) -> None:
    """`trainer export`; `UserError` if `--check` finds a difference in fp32."""
    import torch  # takes seconds; --help should not

    from schemas.printing import PlainConsole
    from trainer.export import hf
    from trainer.model import checkpoint
    from trainer.progress import say

    console, folder, dtype = PlainConsole(), arguments.folder, arguments.dtype
    hf.require_empty(folder)
    loaded = checkpoint.load(arguments.checkpoint, torch.device("cpu"))
    hf.export(loaded, folder, dtype)
    say(console, f"{folder}: {loaded.model.num_parameters:,} parameters in {dtype}")
    for path in sorted(folder.iterdir()):
        say(console, f"  {path.name}  {path.stat().st_size:,} bytes")
    if not arguments.check:
        return

    chats = loaded.state.get("kind") == "sft"
    found = hf.compare(loaded.model, loaded.tokenizer, folder, dtype, chats)
    largest = f"the largest logit is {found.largest:.1f}"
    agree = f"the likeliest token agrees at {found.bf16_agrees:.1%} of positions"
    say(console, "Compared with transformers on the CPU:")
    say(console, f"  logits in fp32 differ by at most {found.fp32:.1e}; {largest}")
    say(console, f"  logits in bf16 differ by at most {found.bf16:.1e}; {agree}")
    say(console, f"  greedy generation: {found.num_equal} of {found.num_greedy} tokens are equal")
    if not found.fp32 <= hf.MAX_DIFFERENCE or found.num_equal < found.num_greedy:
        raise UserError(
            f"{folder}: differs in transformers: logits by {found.fp32:.1e}, at most "
            f"{hf.MAX_DIFFERENCE} is allowed; {found.num_equal} of {found.num_greedy} tokens agree"
        )

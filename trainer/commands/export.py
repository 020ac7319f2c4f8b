"""`trainer export`: a checkpoint as a folder that transformers, vLLM and llama.cpp read."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from schemas.errors import UserError

_EXPORT = """\
Write a checkpoint as a Hugging Face model: config.json, model.safetensors, tokenizer.json and the
chat template. transformers loads it with AutoModelForCausalLM and AutoTokenizer, without code of
ours.

  trainer export --to hf out/hf --checkpoint demo/model
  trainer export --to hf out/hf --checkpoint demo/model --dtype bfloat16 --check

--check loads it with transformers, which must be installed, and prints how far logits and greedy
generation are from the checkpoint's.
"""


def add_parser(commands: Any) -> None:
    """Add `trainer export` to the command line's subparsers."""
    command = commands.add_parser(
        "export",
        help="write a model for transformers and other tools",
        description=_EXPORT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.set_defaults(run=run)
    add = command.add_argument
    add("--to", choices=["hf"], required=True, help="hf: Hugging Face's form")
    add("folder", type=Path, metavar="DIR", help="folder to write, new or empty")
    add("--checkpoint", required=True, type=Path, metavar="RUN", help="a run, or one of its steps")
    text = "of the weights in the file (float32)"
    add("--dtype", choices=["float32", "bfloat16"], default="float32", help=text)
    add("--check", action="store_true", help="compare with transformers afterwards")


def run(arguments: argparse.Namespace) -> None:
    """`trainer export`; `UserError` where `--check` finds logits that differ in fp32."""
    import torch  # takes seconds; --help should not

    from schemas.printing import PlainConsole
    from trainer.export import hf
    from trainer.model import checkpoint
    from trainer.progress import say

    console, folder = PlainConsole(), arguments.folder
    hf.require_empty(folder)
    loaded = checkpoint.load(arguments.checkpoint, torch.device("cpu"))
    hf.export(loaded, folder, arguments.dtype)
    say(console, f"{folder}: {loaded.model.num_parameters:,} parameters in {arguments.dtype}")
    for path in sorted(folder.iterdir()):
        say(console, f"  {path.name}  {path.stat().st_size:,} bytes")
    if arguments.check:
        _check(loaded, folder, arguments.dtype, console)


def _check(loaded: Any, folder: Path, dtype: str, console: Any) -> None:
    from trainer.export import hf
    from trainer.progress import say

    chats = loaded.state.get("kind") == "sft"
    found = hf.compare(loaded.model, loaded.tokenizer, folder, dtype, chats)
    say(console, "Against transformers, on the CPU:")
    largest = f"the greatest is {found.largest:.1f}"
    say(console, f"  logits in fp32 differ by at most {found.fp32:.1e}; {largest}")
    agree = f"the likeliest token is the same at {found.bf16_agrees:.1%} of the places"
    say(console, f"  logits in bf16 differ by at most {found.bf16:.1e}; {agree}")
    say(console, f"  greedy generation: {found.num_equal} of {found.num_greedy} tokens are equal")
    if not found.fp32 <= hf.MAX_DIFFERENCE or found.num_equal < found.num_greedy:
        raise UserError(
            f"{folder}: transformers computes something else: logits differ by {found.fp32:.1e}, "
            f"at most {hf.MAX_DIFFERENCE} is right"
        )

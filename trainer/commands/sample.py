"""The command `trainer sample`: a base model continues a prompt. And the flags of drawing."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from schemas.config import from_dict
from schemas.errors import UserError
from trainer.settings import SampleSettings

_SAMPLE = """\
Let a trained model continue a prompt. Temperature 0 always takes the likeliest token; --prompt ""
begins any document.

  trainer sample --checkpoint demo/model --prompt "The water"
  trainer sample --checkpoint demo/model --prompt "The water" --temperature 0
  trainer sample --checkpoint demo/model --prompt "The water" --num-samples 3 --stop "."
  trainer sample --checkpoint demo/model/step-000320 --prompt "" --top-k 0 --min-p 0.1 --seed 7
"""
_DRAWING = ("max_tokens", "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "seed")


def add_parser(commands: Any) -> None:
    """Add `trainer sample` to the command line's subparsers."""
    command = commands.add_parser(
        "sample",
        help="let a model write",
        description=_SAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.set_defaults(run=run)
    add_checkpoint(command)
    command.add_argument("--prompt", required=True, metavar="TEXT", help="what to continue")
    command.add_argument(
        "--num-samples", type=int, default=1, metavar="N", help="write so many, all at once (1)"
    )
    add_drawing(command, max_tokens=200)


def add_checkpoint(command: argparse.ArgumentParser) -> None:
    """Which model, and on what."""
    add = command.add_argument
    add("--checkpoint", required=True, type=Path, metavar="RUN", help="a run, or one of its steps")
    add(
        "--device", choices=["auto", "cpu", "cuda"], default="auto",
        help="auto takes a GPU where there is one",
    )  # fmt: skip


def add_drawing(command: argparse.ArgumentParser, max_tokens: int) -> None:
    """How tokens are drawn; the settings of a recipe's [sample]."""
    d = SampleSettings()
    add = command.add_argument
    add("--max-tokens", type=int, default=max_tokens, metavar="N", help=f"at most ({max_tokens})")
    add(
        "--temperature", type=float, default=d.temperature, metavar="T",
        help=f"0: the likeliest token; 1: as the model says ({d.temperature})",
    )  # fmt: skip
    add(
        "--top-k", type=int, default=d.top_k, metavar="K",
        help=f"draw from the K likeliest; 0: from all ({d.top_k})",
    )  # fmt: skip
    add(
        "--top-p", type=float, default=d.top_p, metavar="P",
        help="draw from the fewest tokens that reach probability P (1: all)",
    )  # fmt: skip
    add(
        "--min-p", type=float, default=d.min_p, metavar="P",
        help="draw from tokens at least P times as likely as the likeliest (0: all)",
    )  # fmt: skip
    add(
        "--repetition-penalty", type=float, default=d.repetition_penalty, metavar="X",
        help="above 1 what stands there already is less likely (1)",
    )  # fmt: skip
    add("--seed", type=int, default=d.seed, metavar="N", help="equal seed, equal text (0)")
    add(
        "--stop", action="append", default=[], metavar="TEXT",
        help="end before this text; can be given several times",
    )  # fmt: skip


def settings_of(arguments: argparse.Namespace, command: str) -> SampleSettings:
    """The settings that `add_drawing`'s flags say; `UserError` names one that makes no sense."""
    flags = {name: getattr(arguments, name) for name in _DRAWING}
    flags |= {"prompt": arguments.prompt or "", "stop": arguments.stop}
    return from_dict(flags, SampleSettings, command)


def run(arguments: argparse.Namespace) -> None:
    """`trainer sample`."""
    from trainer.distributed import ranks
    from trainer.generate.generate import TextReader, generate_batch, stream
    from trainer.generate.streaming import Screen
    from trainer.model import checkpoint  # torch takes seconds; --help should not

    settings, count = settings_of(arguments, "trainer sample"), arguments.num_samples
    if count < 1:
        raise UserError(f"--num-samples {count}: must be at least 1")
    with ranks(arguments.device) as group:
        loaded, screen = checkpoint.load(arguments.checkpoint, group.device), Screen()
        model, tokenizer, prompt = loaded.model, loaded.tokenizer, settings.prompt
        if count > 1:
            batch = generate_batch(model, tokenizer, [prompt] * count, settings)
            for seed, one in enumerate(batch, settings.seed):
                screen.line(f"--- seed {seed}, ended by {one.finish}\n{prompt}{one.text}")
            return
        reader = TextReader(tokenizer, settings.stop)
        pieces = stream(model, tokenizer, [prompt], settings, [reader])
        screen.text(prompt)
        for _, piece in pieces:
            screen.text(piece.text)
        screen.text("\n")

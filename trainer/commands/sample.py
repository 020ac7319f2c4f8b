"""`trainer sample`: a base model continues a prompt."""

from __future__ import annotations

import argparse
from typing import Any

from schemas.errors import UserError
from trainer.commands import flags

_SAMPLE = """\
Let a base model continue a prompt; --prompt "" begins a document.

  trainer sample --checkpoint demo/model --prompt "The water"
  trainer sample --checkpoint demo/model --prompt "The water" --temperature 0
  trainer sample --checkpoint demo/model --prompt "The water" --num-samples 3 --stop "."
  trainer sample --checkpoint demo/model/step-000320 --prompt "" --top-k 0 --min-p 0.1 --seed 7
"""


def add_parser(commands: Any) -> None:
    """Add `trainer sample` to the command line's subparsers."""
    command = flags.add_command(
        commands, "sample", run, "continue a prompt with a base model", _SAMPLE
    )
    flags.add_checkpoint(command)
    flags.add_device(command)
    add = command.add_argument
    # fmt: off
    add("--prompt", required=True, metavar="TEXT", help="continue this text")
    add("--num-samples", type=int, default=1, metavar="N",
        help="write N samples in one batch, seeded --seed, --seed + 1, ... (default: 1)")
    # fmt: on
    flags.add_sampling(command, max_tokens=200)


def run(arguments: argparse.Namespace) -> None:
    """`trainer sample`."""
    from trainer.distributed import ranks
    from trainer.generate.generate import TextReader, generate_batch, stream
    from trainer.generate.streaming import Screen
    from trainer.model import checkpoint  # torch takes seconds; --help should not

    settings, count = flags.sampling_settings(arguments, "trainer sample"), arguments.num_samples
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
        events = stream(model, tokenizer, [prompt], settings, [reader])
        screen.text(prompt)
        for _, event in events:
            screen.text(event.text)
        screen.text("\n")

"""`trainer eval`: how well a model predicts held-out text, and how well it answers questions.

Losses are in nats per token and bits per byte, scores are shares or perplexities. Raises
`UserError` for flags that don't fit together and for shards of another tokenizer.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from schemas.errors import UserError
from schemas.printing import printable
from trainer.commands import flags
from trainer.evaluate.tasks import TASKS, read_examples

if TYPE_CHECKING:
    import torch

    from trainer.distributed import Ranks
    from trainer.evaluate.likelihood import TaskResult
    from trainer.evaluate.loss import DomainResult, Validation
    from trainer.model.checkpoint import Checkpoint

SHOWN_DOMAINS = 20
_EVAL = """\
Measure the loss on the held-out text of shards, as pretraining does:
  trainer eval --checkpoint demo/model --shards demo/corpus/shards

Measure it for each registered domain, too:
  trainer eval --checkpoint demo/model --shards demo/corpus/shards --by domain

Score answers to questions by log-likelihood, with standard error and chance level:
  trainer eval --checkpoint demo/model --task arc_easy --data arc_easy.jsonl
"""


def add_parser(commands: Any) -> None:
    """Add `trainer eval` to the command line's subparsers."""
    command = flags.add_command(
        commands, "eval", run, "measure held-out loss, also by domain; score tasks", _EVAL
    )
    flags.add_checkpoint(command)
    flags.add_device(command)
    add = command.add_argument
    # fmt: off
    add("--shards", nargs="+", type=Path, default=[], metavar="DIR",
        help="measure the held-out text of these folders of shards")
    add("--by", choices=["domain"], help="with --shards: list the loss by registered domain, too")
    add("--max-rows", type=int, default=0, metavar="N",
        help="with --shards: read the first N rows of each folder; 0: all (default: %(default)s)")
    add("--batch-size", type=int, default=8, metavar="B",
        help="with --shards: read B rows at a time (default: %(default)s)")
    add("--task", choices=list(TASKS), help="score this task")
    add("--data", type=Path, metavar="FILE",
        help="with --task: read its questions from this file, one JSON object per line")
    add("--max-examples", type=int, default=0, metavar="N",
        help="with --task: read the first N questions; 0: all (default: %(default)s)")
    add("--dtype", choices=["float32", "bfloat16", "auto"], default="float32",
        help="compute in this type; auto: the faster one (default: float32)")
    add("--json", action="store_true", help="print a JSON object, with all domains")
    # fmt: on


def run(arguments: argparse.Namespace) -> None:
    """`trainer eval`."""
    _check(arguments)
    from trainer.distributed import ranks
    from trainer.model import checkpoint  # torch takes seconds; --help should not
    from trainer.model.precision import choose_dtype

    with ranks(arguments.device) as group:
        loaded = checkpoint.load(arguments.checkpoint, group.device)
        dtype = choose_dtype(arguments.dtype, group)
        if arguments.shards:
            _evaluate_shards(arguments, loaded, group, dtype)
        if arguments.task:
            _evaluate_task(arguments, loaded, group, dtype)


def _check(arguments: argparse.Namespace) -> None:
    if not arguments.shards and not arguments.task:
        raise UserError("give --shards DIR (held-out text) or --task NAME (questions)")
    if bool(arguments.task) != (arguments.data is not None):
        given, missing = ("--task", "--data FILE") if arguments.task else ("--data", "--task NAME")
        raise UserError(f"{given} needs {missing}")
    if arguments.by and not arguments.shards:
        raise UserError(f"--by {arguments.by}: needs --shards DIR; questions have no domain")
    for flag, value, least in (
        ("--max-rows", arguments.max_rows, 0),
        ("--batch-size", arguments.batch_size, 1),
        ("--max-examples", arguments.max_examples, 0),
    ):
        if value < least:
            raise UserError(f"{flag} {value}: must be at least {least}")


def _evaluate_shards(
    arguments: argparse.Namespace, loaded: Checkpoint, group: Ranks, dtype: torch.dtype
) -> None:
    from trainer.data.loader import Loader
    from trainer.evaluate.loss import bytes_of_tokens, validate, validate_by_domain

    loader = Loader(
        arguments.shards,
        seq_len=loaded.model.config.max_position_embeddings,
        rows=arguments.batch_size,
        packing="best_fit",
        split="validation",
        check_files=arguments.by is not None,  # provenance has no other hash
    )
    own, theirs = loaded.tokenizer, loader.shards.tokenizer
    if own.hash != theirs.hash:
        raise UserError(
            f"{arguments.shards[0]}: tokenized with {theirs.name} ({theirs.hash[:12]}), but the "
            f"model of {loaded.folder} uses {own.name} ({own.hash[:12]}); give shards of that one"
        )
    sizes, rows = bytes_of_tokens(own).to(group.device), arguments.max_rows
    domains = None
    if arguments.by:
        found, domains = validate_by_domain(
            loaded.model, loader, sizes, group, dtype, max_rows=rows
        )
    else:
        found = validate(loaded.model, loader, sizes, group, dtype, max_rows=rows)
    if not group.is_first:
        return
    if arguments.json:
        more = {} if domains is None else {"domains": [asdict(domain) for domain in domains]}
        folders = [str(folder) for folder in arguments.shards]
        _print_json(loaded, dtype, shards=folders, **asdict(found), **more)
    else:
        _show_validation(loaded, found, domains)


def _evaluate_task(
    arguments: argparse.Namespace, loaded: Checkpoint, group: Ranks, dtype: torch.dtype
) -> None:
    from rich.progress import Progress

    from schemas.printing import PlainConsole
    from trainer.evaluate.likelihood import evaluate_task

    task = TASKS[arguments.task]
    examples = read_examples(task, arguments.data, arguments.max_examples)
    errors = PlainConsole(stderr=True)
    hidden = not (group.is_first and errors.is_terminal)
    with Progress(console=errors, transient=True, disable=hidden) as bar:
        done = bar.add_task(task.name, total=len(examples))
        found = evaluate_task(
            task, examples, loaded.model, loaded.tokenizer, group, dtype,
            done=lambda count: bar.advance(done, count),
        )  # fmt: skip
    if not group.is_first:
        return
    if arguments.json:
        metrics = {
            m.name: {k: v for k, v in m._asdict().items() if k != "name"} for m in found.metrics
        }
        values = {**asdict(found), "metrics": metrics}
        _print_json(loaded, dtype, data=str(arguments.data), **values)
    else:
        _show_task(loaded, found)


def _print_json(loaded: Checkpoint, dtype: torch.dtype, **values: Any) -> None:
    model = {"checkpoint": str(loaded.folder), "step": loaded.state["step"]}
    print(json.dumps(_finite({**model, "dtype": str(dtype).removeprefix("torch."), **values})))


def _finite(value: Any) -> Any:
    """The value with null for infinity and NaN, which JSON does not have."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _show_validation(
    loaded: Checkpoint, found: Validation, domains: list[DomainResult] | None
) -> None:
    print(f"{loaded.folder}, held-out text:")
    print(f"  loss           {found.loss:.4f} nats per token, {found.targets:,} targets")
    print(f"  bits per byte  {found.bits_per_byte:.4f}, {found.text_bytes:,} bytes of text")
    if domains is None:
        return
    rows = [
        (d.domain, f"{d.documents:,}", f"{d.text_bytes:,}", f"{d.bits_per_byte:.4f}")
        for d in domains[:SHOWN_DOMAINS]
    ]
    print()
    _print_table(("domain", "documents", "bytes", "bits per byte"), rows)
    if more := len(domains) - len(rows):
        print(f"and {more:,} domains with less text; --json prints all of them")


def _show_task(loaded: Checkpoint, found: TaskResult) -> None:
    print(f"{loaded.folder}, {found.task}, {found.examples:,} examples:")
    if found.cut:
        context = loaded.model.config.max_position_embeddings
        print(f"truncated at the start to the context of {context} tokens: {found.cut:,} examples")
    print()
    rows = [
        (
            m.name,
            f"{m.score:.5g}" if m.chance is None else f"{m.score:.4f}",
            "-" if m.stderr is None else f"± {m.stderr:.4f}",
            "-" if m.chance is None else f"{m.chance:.4f}",
            "-" if m.above_chance is None else f"{m.above_chance:+.1f}",
            f"{found.examples:,}",
        )
        for m in found.metrics
    ]
    _print_table(("", "score", "std. error", "chance", "z above chance", "n"), rows)


def _print_table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    """Columns under their heads, the first aligned left and the others right."""
    lines = [tuple(map(printable, row)) for row in (head, *rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for first, *others in lines:
        cells = [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        print("  ".join([f"  {first.ljust(widths[0])}", *cells]))

"""The command `trainer eval`: how well a model predicts held-out text, and answers questions."""

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
from trainer.commands.sample import add_checkpoint
from trainer.evaluate.tasks import TASKS, read_examples

if TYPE_CHECKING:
    import torch

    from trainer.data.loader import Loader
    from trainer.distributed import Ranks
    from trainer.evaluate.likelihood import TaskResult
    from trainer.evaluate.loss import DomainResult, Validation
    from trainer.model.checkpoint import Checkpoint

SHOWN_DOMAINS = 20
_EVAL = """\
Evaluate a model on the held-out text of shards, as pretraining does:
  trainer eval --checkpoint demo/model --shards demo/corpus/shards

The same, and the sites with the most text, each with its bits per byte:
  trainer eval --checkpoint demo/model --shards demo/corpus/shards --by domain

On questions, by the log-likelihood of their answers, beside chance and standard error:
  trainer eval --checkpoint demo/model --task arc_easy --data arc_easy.jsonl

--json prints a JSON object instead of a table, with all domains.
"""


def add_parser(commands: Any) -> None:
    """Add `trainer eval` to the command line's subparsers."""
    command = commands.add_parser(
        "eval",
        help="loss on held-out text, by domain too; scores of tasks",
        description=_EVAL,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.set_defaults(run=run)
    add_checkpoint(command)
    add = command.add_argument
    add("--shards", nargs="+", type=Path, default=[], metavar="DIR", help="folders of shards")
    add("--by", choices=["domain"], help="also by the registered domain of the pages")
    add("--max-rows", type=int, default=0, metavar="N", help="first rows of each folder (0: all)")
    add("--batch-size", type=int, default=8, metavar="B", help="rows at a time (8)")
    add("--task", choices=list(TASKS), help="what the questions are")
    add(
        "--data", type=Path, metavar="FILE", help="with --task: the questions, a JSON object a line"
    )
    add("--max-examples", type=int, default=0, metavar="N", help="first questions (0: all)")
    add(
        "--dtype", choices=["float32", "bfloat16", "auto"], default="float32",
        help="auto takes bfloat16 where a short benchmark finds it faster (float32)",
    )  # fmt: skip
    add("--json", action="store_true", help="print JSON, no table")


def run(arguments: argparse.Namespace) -> None:
    """`trainer eval`."""
    _check(arguments)
    from trainer.distributed import ranks
    from trainer.model import checkpoint  # torch takes seconds; --help should not
    from trainer.model.precision import choose_dtype

    with ranks(arguments.device) as group:
        loaded, dtype = (
            checkpoint.load(arguments.checkpoint, group.device),
            choose_dtype(arguments.dtype, group),
        )
        if arguments.shards:
            _evaluate_shards(arguments, loaded, group, dtype)
        if arguments.task:
            _evaluate_task(arguments, loaded, group, dtype)


def _check(arguments: argparse.Namespace) -> None:
    if not arguments.shards and not arguments.task:
        raise UserError("give --shards DIR (held-out text) or --task NAME (questions)")
    if bool(arguments.task) != (arguments.data is not None):
        given, missing = ("--task", "--data FILE") if arguments.task else ("--data", "--task NAME")
        raise UserError(f"{given} needs {missing}: the two go together")
    if arguments.by and not arguments.shards:
        raise UserError(f"--by {arguments.by}: needs --shards DIR, questions have no domain")
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
    from trainer.evaluate.loss import bytes_of_tokens, validate, validate_by_domain

    loader, domains = _open(arguments, loaded), None
    sizes = bytes_of_tokens(loaded.tokenizer).to(group.device)
    if arguments.by:
        found, domains = validate_by_domain(
            loaded.model, loader, sizes, group, dtype, max_rows=arguments.max_rows
        )
    else:
        found = validate(loaded.model, loader, sizes, group, dtype, max_rows=arguments.max_rows)
    if not group.is_first:
        return
    if arguments.json:
        more = {} if domains is None else {"domains": [asdict(domain) for domain in domains]}
        folders = [str(folder) for folder in arguments.shards]
        _print_json(loaded, dtype, shards=folders, **asdict(found), **more)
    else:
        _show_validation(loaded, found, domains)


def _open(arguments: argparse.Namespace, loaded: Checkpoint) -> Loader:
    """The held-out rows, once it is known that the model reads their tokens."""
    from trainer.data.loader import Loader

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
            f"{arguments.shards[0]}: tokenizer {theirs.name} ({theirs.hash[:12]}), the model of "
            f"{loaded.folder} reads {own.name} ({own.hash[:12]})"
        )
    return loader


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
        asked = bar.add_task(task.name, total=len(examples))
        found = evaluate_task(
            task, examples, loaded.model, loaded.tokenizer, group, dtype,
            done=lambda count: bar.advance(asked, count),
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
    named = {"checkpoint": str(loaded.folder), "step": loaded.state["step"]}
    named["dtype"] = str(dtype).removeprefix("torch.")
    print(json.dumps(_finite({**named, **values})))


def _finite(value: Any) -> Any:
    """The value with null for what JSON has no number for."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _show_validation(
    loaded: Checkpoint, found: Validation, domains: list[DomainResult] | None
) -> None:
    print(f"{loaded.folder}, held-out text:")
    print(f"  loss           {found.loss:.4f} nats a target, {found.targets:,} targets")
    print(f"  bits per byte  {found.bits_per_byte:.4f}, {found.text_bytes:,} bytes of text")
    if domains is None:
        return
    shown = domains[:SHOWN_DOMAINS]
    rows = [
        (d.domain, f"{d.documents:,}", f"{d.text_bytes:,}", f"{d.bits_per_byte:.4f}") for d in shown
    ]
    print()
    _print_table(("domain", "documents", "bytes", "bits per byte"), rows)
    if len(domains) > len(shown):
        print(f"and {len(domains) - len(shown):,} domains with less text; --json has all of them")


def _show_task(loaded: Checkpoint, found: TaskResult) -> None:
    print(f"{loaded.folder}, {found.task}, {found.examples:,} examples:")
    if found.cut:
        context = loaded.model.config.max_position_embeddings
        print(
            f"longer than the {context} tokens that the model reads, their beginning cut: "
            f"{found.cut:,}"
        )
    print()
    rows = [
        (
            m.name,
            f"{m.score:.5g}" if m.chance is None else f"{m.score:.4f}",
            _or_none(m.stderr, "± {:.4f}"),
            _or_none(m.chance, "{:.4f}"),
            _or_none(m.above_chance, "{:+.1f}"),
            f"{found.examples:,}",
        )
        for m in found.metrics
    ]
    _print_table(("", "score", "std. error", "chance", "z above chance", "n"), rows)


def _or_none(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)


def _print_table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    """Columns under their heads, the first to the left and the others to the right."""
    lines = [tuple(map(printable, row)) for row in (head, *rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for first, *others in lines:
        cells = [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        print("  ".join([f"  {first.ljust(widths[0])}", *cells]))

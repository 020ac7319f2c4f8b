"""Conversations for a terminal: what was read and refused in a table, and what is learned marked.

Texts are shown as they come out of the token ids, so that what is seen is what a model sees; what
controls a terminal is not let through.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from corpus import conversations
from corpus.conversations import COUNTS, Accepted, Conversations
from jobs.whatif_answer import printable
from schemas.console import PlainConsole
from schemas.manifest import Manifest
from schemas.tokenizer import Tokenizer

_CONTROL, _TARGET, _END_OF_TARGET = "dim cyan", "bold green", "bold green reverse"
_LINE = ("\n", "")
_MARKS = ("⟦", "⟧")  # around what is learned where there are no colours


def table(made: Manifest) -> Table:
    """Counts of each form, and of all where there are several."""
    spent = f"{made.made['seconds']:.1f} s, tokenizer {made.extra['tokenizer']['name']}"
    drawn = Table(
        "",
        title=Text(printable(f"conversations: {spent}"), "table.title"),
        title_justify="left",
        show_edge=False,
    )
    forms: list[dict[str, Any]] = made.extra["forms"]
    if len(forms) > 1:
        forms = [*forms, {"form": "all", **{n: sum(one[n] for one in forms) for n in COUNTS}}]
    for form in forms:
        drawn.add_column(Text(printable(form["form"])), justify="right")
    for name in COUNTS:
        drawn.add_row(name.replace("_", " "), *[f"{form[name]:,}" for form in forms])
    return drawn


def ending(made: Manifest, folder: Path) -> Text:
    """Rejected rows by reason and where they are listed, then shards and tokens by split."""
    lines = []
    if made.extra.get("forgotten"):
        lines.append(f"forgotten: {made.extra['forgotten']:,} rows, left out and listed nowhere")
    reasons: dict[str, int] = made.extra["reasons"]
    if reasons:
        counted = ", ".join(f"{reason} {n:,}" for reason, n in reasons.items())
        lines.append(
            f"rejected: {counted}; line by line in {folder / made.extra['rejected']['name']}"
        )
    for split, tokens in made.extra["tokens"].items():
        files = [file for file in made.files if file.extra["split"] == split]
        rows = sum(file.rows for file in files)
        lines.append(f"{split}: {rows:,} conversations, {tokens:,} tokens, {len(files):,} shards")
    return Text("\n".join(lines))


def show(inputs: Sequence[Path], tokenizer: Tokenizer, settings: Conversations, most: int) -> None:
    """Print the first `most` conversations of the files to standard output."""
    console = PlainConsole()
    rows = (row for path in inputs for row in conversations.read_file(path, tokenizer, settings))
    accepted = (row for row in rows if isinstance(row, Accepted))
    for one in itertools.islice(accepted, most):
        console.print(drawn(one, tokenizer, marks=not console.is_terminal), soft_wrap=True)


def drawn(one: Accepted, tokenizer: Tokenizer, marks: bool = False) -> Text:
    """One conversation, a turn a line, what is learned in another style and, if asked, in marks."""
    made = one.framed
    cut = f", {one.num_cut} turns cut off" if one.num_cut else ""
    text = Text(printable(f"{one.id} ({one.file_path}, offset {one.record_offset:,}): {one.form}, "
                          f"{len(made.tokens):,} tokens, {made.mask.count(1):,} learned{cut}"),
                style="bold")  # fmt: skip
    shown = Text()
    for target, tokens in _runs(made.tokens.tolist(), made.mask):
        begin, end = _MARKS if marks and target else ("", "")
        parts = list(_parts(tokens, target, tokenizer))
        last = parts.pop() if parts[-1] == _LINE else ("", "")
        for part, style in [(begin, ""), *parts, (end, ""), last]:
            shown.append(part, style)
    return Text("\n").join([text, shown, Text()])


def _runs(tokens: Sequence[int], mask: Sequence[int]) -> Iterator[tuple[bool, list[int]]]:
    """Stretches of tokens that are all targets, or all are not."""
    start = 0
    for target, run in itertools.groupby(mask):
        end = start + sum(1 for _ in run)
        yield bool(target), list(tokens[start:end])
        start = end


def _parts(tokens: list[int], target: bool, tokenizer: Tokenizer) -> Iterator[tuple[str, str]]:
    """Text and style; a turn's end ends the line."""
    names = {token: name for name, token in tokenizer.chat_ids.items()}
    names[tokenizer.boundary] = ""  # begins every conversation
    for control, run in itertools.groupby(tokens, key=lambda token: token in names):
        if not control:
            plain = printable(tokenizer.decode(list(run)), keep="\n\t ")
            yield plain, _TARGET if target else ""
            continue
        for name in (names[token] for token in run):
            yield name, _END_OF_TARGET if target else _CONTROL
            if name in ("<|end|>", "<|tool_result_end|>"):
                yield _LINE

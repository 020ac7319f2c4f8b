"""show-batch: what is learned, what is padding and where documents begin, as the batch has it."""

from __future__ import annotations

import argparse
import io
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from schemas.errors import UserError
from schemas.tokenizer import Tokenizer
from trainer.commands import show_batch
from trainer.commands.show_batch import BatchRow, row_of
from trainer.data.loader import IGNORED, Batch, Loader
from trainer.data.packing import PADS

T = 64


def a_batch(rows: list[list[list[int]]], learned: list[int], seq_len: int) -> Batch:
    """A batch of rows of documents; `learned` are the ids that are targets."""
    flat = [np.array([t for document in row for t in document]) for row in rows]
    assert all(len(row) == seq_len + 1 for row in flat)
    tokens = np.stack(flat)
    targets = np.where(np.isin(tokens, learned), tokens, IGNORED)
    lengths = np.array([len(document) for row in rows for document in row], np.int32)
    ends = np.cumsum([len(row) for row in rows])
    return Batch(3, tokens[:, :-1], targets[:, 1:], lengths, ends)


def test_what_is_learned_stands_in_marks_and_documents_have_lines(tokenizer: Tokenizer) -> None:
    ids = tokenizer.chat_ids
    begin, user, end = tokenizer.boundary, ids["<|user|>"], ids["<|end|>"]
    chat = [begin, user, *b"hi", end, ids["<|assistant|>"], *b"yo", end]
    other = [begin, *b"a[\x1b[2J]"]
    padding = [begin] * 4
    batch = a_batch([[chat, other, padding]], [*b"yo", 27], len([*chat, *other, *padding]) - 1)
    row = row_of(batch, 0, tokenizer.boundary)
    assert (row.num_documents, row.num_padding) == (2, 3)  # the last token is no input
    text = show_batch.row_text(row, tokenizer, marks=True).plain
    assert text.split("\n") == [
        "<|endoftext|><|user|>hi<|end|><|assistant|>⟦yo⟧<|end|>",
        "<|endoftext|>a[⟦\N{REPLACEMENT CHARACTER}⟧[2J]",
        "(3 of padding)",
    ]


def test_the_last_target_is_shown_and_a_boundary_there_begins_a_document(
    tokenizer: Tokenizer,
) -> None:
    begin = tokenizer.boundary
    batch = a_batch([[[begin, *b"abc"], [begin]], [[begin, *b"abcd"]]], [begin, *b"abcd"], 4)
    shown = [row_of(batch, row, begin) for row in (0, 1)]
    assert shown[0] == BatchRow([begin, *b"abc", begin], [False, *[True] * 4], [0, 0, 0, 0, 1], 4)
    assert show_batch.row_text(shown[1], tokenizer, marks=True).plain == "<|endoftext|>⟦abcd⟧"


def test_characters_of_several_tokens_stay_whole(tokenizer: Tokenizer) -> None:
    begin, text = tokenizer.boundary, list("é東".encode())
    batch = a_batch([[[begin, *text]]], [], len(text))
    row = row_of(batch, 0, begin)
    assert show_batch.row_text(row, tokenizer, marks=True).plain.startswith("<|endoftext|>é")


@pytest.mark.parametrize("packing", ["concat", "best_fit"])
def test_padding_and_targets_of_real_rows_are_those_of_the_plan(
    folders: dict[str, Path], packing: str
) -> None:
    pages, cache = folders["pages"], folders["cache"]
    loader = Loader([pages], seq_len=T, rows=4, packing=packing, cache=cache)
    plan = loader.sources[0].plan(0)
    for number in range(plan.num_rows):
        segments = plan.segments(number, number + 1)
        padding = int(segments.lengths[segments.kinds == PADS].sum())
        batch = loader.batch(number // 4)
        row = row_of(batch, number % 4, loader.shards.tokenizer.boundary)
        assert row.num_padding == max(0, padding - 1)
        assert sum(row.learned) == (batch.targets[number % 4] != IGNORED).sum()
        assert row.num_documents == len(segments.kinds) - (padding > 0) or padding in (0, 1)


def _run(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser()
    show_batch.add_parser(parser.add_subparsers())
    known = parser.parse_args(["show-batch", *arguments])
    known.run(known)


def test_the_command_packs_conversations_and_says_the_share(
    folders: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    shards = str(folders["chats"])
    _run(["--shards", shards, "--step", "1", "--rows", "2", "--seq-len", str(T)])
    said = capsys.readouterr().out
    loader = Loader([shards], seq_len=T, rows=8, packing="best_fit", cache=folders["cache"])
    learned = int((loader.batch(1).targets != IGNORED).sum())
    assert f"all 8 rows: {learned} of 512 tokens ({learned / 512:.1%}) learned" in said
    assert "step 1, row 1: " in said
    assert "step 1, row 2: " not in said
    assert "⟦" in said
    _run(["--shards", str(folders["pages"]), "--seq-len", str(T), "--rows", "99"])
    said = capsys.readouterr().out
    assert said.count("step 0, row ") == 8
    assert "(100.0%) learned" in said


def test_on_a_terminal_colours_take_the_place_of_marks(folders: dict[str, Path]) -> None:
    loader = Loader([folders["chats"]], seq_len=T, rows=2, packing="best_fit")
    terminal = Console(file=io.StringIO(), force_terminal=True, color_system="standard")
    show_batch.show(terminal, loader.batch(0), loader.shards.tokenizer, 2)
    said = terminal.file.getvalue()  # type: ignore[attr-defined]
    assert "\x1b[32m" in said  # green
    assert "⟦" not in said


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--step", "-1"], "--step -1: must be at least 0"),
        (["--rows", "0"], "--rows 0: must be at least 1"),
        (["--seq-len", "1"], "seq_len = 1: must be at least 2"),
        ([], "--run RUN"),
    ],
)
def test_flags_that_make_no_sense_are_named(
    folders: dict[str, Path], flags: list[str], said: str
) -> None:
    with pytest.raises(UserError, match=said):
        _run([*(["--shards", str(folders["pages"])] if flags else []), *flags])

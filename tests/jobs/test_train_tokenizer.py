"""`gristmill train-tokenizer`: the shard stage's own ids, on every engine, and what is printed."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import pytest

from corpus.recipe import Recipe
from jobs import train_tokenizer
from jobs.engine.session import Engine
from jobs.engine.stage import Job
from schemas import tokenizer
from schemas.errors import UserError

KEPT = [f"the miller {word} the corn, {number} sacks; naïve 東京" for number in range(40)
        for word in ("ground", "sold", "lost", "weighed", "dried")]  # fmt: skip


def canonical(root: Path, texts: list[str]) -> None:
    """A root whose `canonical` holds `texts`."""
    import pyarrow as pa

    from jobs.engine import dataset_io
    from schemas import manifest
    from schemas.datasets import CANONICAL
    from schemas.manifest import Manifest

    rows = [
        dict.fromkeys(CANONICAL.names)
        | {"id": f"id-{i}", "text": text, "file_path": "a.warc.gz", "record_offset": i}
        for i, text in enumerate(texts)
    ]
    table = pa.Table.from_pylist(rows, CANONICAL)
    file = dataset_io.write_table(root / "canonical", table, "language")
    made = {"engine": "none", "seconds": 0.0}
    listed = Manifest("canonical", "r", {}, {}, (file,), {"kept": len(rows)}, made=made)
    manifest.write(root / "canonical", listed)


def job(engine: Engine, root: Path, **settings: int) -> Job:
    known = dataclasses.replace(Recipe().tokenizer, **{"vocab_size": 320, **settings})
    return Job(dataclasses.replace(Recipe(name="r", filters=()), tokenizer=known), root, engine)


def test_the_tokenizer_is_the_shard_stages_own(
    sample_roots: dict[str, Path], sample_recipe: Recipe, engine: Engine
) -> None:
    for root in sample_roots.values():
        at = Job(sample_recipe, root, engine)
        trained = train_tokenizer.train(at)
        assert trained.tokenizer.hash == at.manifest("shards").extra.tokenizer.hash
        assert trained.sample.documents == at.manifest("canonical").rows
        assert not trained.held_out.documents


def test_the_order_of_rows_changes_nothing_and_what_follows_the_sample_is_held_out(
    engine: Engine, tmp_path: Path
) -> None:
    canonical(tmp_path, KEPT)
    size = sum(len(text.encode()) for text in KEPT)
    trained = train_tokenizer.train(job(engine, tmp_path, sample_bytes=size // 2))
    assert trained.sample.size >= size // 2
    assert trained.sample.size + trained.held_out.size == size
    assert trained.sample.documents + trained.held_out.documents == len(KEPT)
    assert trained.held_out.bytes_per_token(trained.tokenizer) > 1
    assert set(trained.sample.kept).isdisjoint(trained.held_out.kept)
    again = train_tokenizer.train(job(engine, tmp_path, sample_bytes=size // 2))
    assert again.tokenizer.spec == trained.tokenizer.spec


def arguments(*flags: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    train_tokenizer.add_parser(parser.add_subparsers())
    return parser.parse_args(["train-tokenizer", *flags])


def test_the_command_writes_both_files_and_prints_what_it_measured(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    import contextlib

    monkeypatch.setattr(train_tokenizer, "open_engine", lambda *_: contextlib.nullcontext(engine))
    canonical(tmp_path / "root", KEPT)
    (tmp_path / "r.toml").write_text('name = "r"\n[tokenizer]\nvocab_size = 300\n')
    output, exported = tmp_path / "new" / "bpe.json", tmp_path / "hf"
    given = arguments("--recipe", str(tmp_path / "r.toml"), "--root", str(tmp_path / "root"),
                      "--output", str(output), "--export-hf", str(exported))  # fmt: skip
    assert given.command(given) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "300 ids: 256 bytes, 35 merges" in printed
    assert "200 documents" in printed
    assert "name =" in printed
    known, other = tokenizer.load(output), tokenizer.load(exported / "tokenizer.json")
    assert known.vocab_size == other.vocab_size == 300
    assert all(known.encode(text) == other.encode(text) for text in KEPT)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--output", "bpe.bin"], "--output bpe.bin: must end in .json"),
        (["--output", "a/tokenizer.json", "--export-hf", "a"], "--export-hf a: is --output itself"),
    ],
)
def test_flags_that_cannot_work_are_refused_before_anything_is_read(
    tmp_path: Path, flags: list[str], message: str
) -> None:
    (tmp_path / "r.toml").write_text('name = "r"\n')
    given = arguments("--recipe", str(tmp_path / "r.toml"), "--root", str(tmp_path), *flags)
    with pytest.raises(UserError, match=message):
        given.command(given)

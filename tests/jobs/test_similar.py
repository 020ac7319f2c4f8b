"""`gristmill similar`: what it finds is what an oracle and datasketch's LSH find."""

from __future__ import annotations

import dataclasses
import io
import itertools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasketch
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from corpus import recipe, worker_tasks
from corpus.dedup.minhash import MinHash, fingerprints
from corpus.dedup.precision_recall import Verify
from corpus.dedup.word_hashes import normalise
from corpus.recipe import Recipe
from jobs import cli, pipeline
from jobs.engine import dataset_io
from jobs.engine.roots import locked
from jobs.engine.session import Engine
from jobs.engine.stage import Job
from jobs.reports import explain, similar
from schemas import manifest
from schemas.datasets import DOCUMENTS
from schemas.errors import UserError
from schemas.manifest import Manifest

Judged = Callable[..., Recipe]
Row = dict[str, Any]
Shingles = set[tuple[str, ...]]
# Letters only: normalising takes all numbers for one.
WORDS = np.array(["".join(letters) for letters in itertools.product("abcdefgh", repeat=4)])
EVIL = {"url": "https://evil.example/[red]x[/oops]\n\x1b[2J\u202e", "id": "<urn:\x1b]0;x\x07>"}
PLANTED = 0  # a text of 100 different words; no other has one of them


def texts() -> list[str]:
    """The planted text, then 15 of 200 words with copies in which ever more words are changed."""
    found = [" ".join(f"planted{chr(97 + i // 26)}{chr(97 + i % 26)}" for i in range(100))]
    random = np.random.default_rng(5)
    for _ in range(15):
        original = random.choice(WORDS, 200)
        for changed in (0, 0, 1, 2, 4, 8, 12, 20):
            copy = original.copy()
            copy[random.choice(200, changed, replace=False)] = random.choice(WORDS, changed)
            found.append(" ".join(copy))
    return [*found, "too short", "evil " + found[1]]


TEXTS = texts()
ROWS: list[Row] = [{"text": text} for text in TEXTS[:-1]] + [{"text": TEXTS[-1], **EVIL}]


def shingles(text: str, ngram: int) -> Shingles:
    """The shingles as words, by a way that shares no code with their hashes."""
    words = normalise(text).split()
    return {tuple(words[i : i + ngram]) for i in range(len(words) - ngram + 1)}


def exact_jaccard(a: Shingles, b: Shingles) -> float:
    return len(a & b) / len(a | b)


def build(root: Path, engine: Engine, settings: Recipe) -> Path:
    pipeline.run(Job(settings, root, engine), pipeline.WITH["dedup"])
    return root


@pytest.fixture(scope="module")
def root(
    engines: Callable[[str], Engine], judged: Judged, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """`ROWS`, deduplicated under the default recipe; record_offset is the place in `TEXTS`."""
    folder = tmp_path_factory.mktemp("similar")
    return build(folder, engines("sail"), judged(folder, ROWS, 3))


def ask(capsys: pytest.CaptureFixture[str], root: Path, text: Path | str, *more: str) -> str:
    assert cli.main(["similar", "--root", str(root), "--text", str(text), *more]) == 0
    return capsys.readouterr().out


def found_by(answer: similar.Answer) -> dict[int, float]:
    return {match.record_offset: match.similarity for match in answer.matches}


@pytest.mark.parametrize(
    "settings", [MinHash(), MinHash(ngram=2, threshold=0.5, num_hashes=64)], ids=["stored", "other"]
)
def test_it_finds_all_that_share_a_band_under_the_stored_settings(
    root: Path, engines: Callable[[str], Engine], judged: Judged, tmp_path: Path, settings: MinHash
) -> None:
    if settings != MinHash():
        root = build(tmp_path, engines("sail"), judged(tmp_path, ROWS, minhash=settings))
    for text in (*TEXTS[1::7], " ".join(WORDS[:300]), TEXTS[8] + " " + TEXTS[20]):
        prints = fingerprints([text, *TEXTS], settings)
        own, others = prints.bands[0], prints.bands[1:]
        shared = ((others == own) & (prints.num_shingles[1:, None] > 0)).any(axis=1)
        mine = shingles(text, settings.ngram)
        expected = {
            int(i): exact_jaccard(mine, shingles(TEXTS[i], settings.ngram))
            for i in shared.nonzero()[0]
        }
        answer = similar.similar(root, text, 0.0, 1000)
        assert found_by(answer) == expected
        assert answer.num_candidates == answer.num_compared == len(expected)
        similarities = [match.similarity for match in answer.matches]
        assert similarities == sorted(similarities, reverse=True)


def test_it_finds_what_datasketch_finds(root: Path) -> None:
    """At 0.9 and more each misses a document with a probability of 0.0004 at most."""

    def sketch(text: str) -> datasketch.MinHash:
        made = datasketch.MinHash(num_perm=112, seed=3)
        made.update_batch([" ".join(words).encode() for words in shingles(text, 5)])
        return made

    index = datasketch.MinHashLSH(params=(14, 8), num_perm=112)
    for number, text in enumerate(TEXTS):
        if shingles(text, 5):
            index.insert(number, sketch(text))
    compared = 0
    for text in TEXTS[1:-2:2]:
        mine = shingles(text, 5)
        theirs = {i: exact_jaccard(mine, shingles(TEXTS[i], 5)) for i in index.query(sketch(text))}
        expected = {i: s for i, s in theirs.items() if s >= 0.9}
        assert found_by(similar.similar(root, text, 0.9, 1000)) == expected
        compared += len(expected)
    assert compared > 100


def test_a_planted_near_duplicate_is_found_with_its_exact_similarity(root: Path) -> None:
    """One of 100 different words is changed: 5 of 96 shingles."""
    words = TEXTS[PLANTED].upper().split()
    text = "«" + ", ".join([*words[:50], "Other", *words[51:]]) + "!»"
    answer = similar.similar(root, text)
    assert found_by(answer) == {PLANTED: 91 / 101}
    assert answer.num_shingles == 96
    assert answer.matches[0].outcome == "kept"


def test_an_exact_duplicate_has_similarity_one(root: Path) -> None:
    found = found_by(similar.similar(root, "  " + TEXTS[1].replace(" ", "\n")))
    assert {number for number, s in found.items() if s == 1.0} == {1, 2}


def test_the_outcome_is_that_of_clusters(root: Path) -> None:
    clusters = {
        row["record_offset"]: row
        for row in explain.open_root(root).find("clusters", pa.compute.scalar(True))
    }
    seen = set[str | None]()
    for text in TEXTS[1:-2:8]:
        for match in similar.similar(root, text).matches:
            row = clusters[match.record_offset]
            assert match.outcome == (row["duplicate_kind"] or "kept")
            fate = ("id", "cluster", "cluster_size", "duplicate_of", "duplicate_root")
            assert [getattr(match, name) for name in fate] == [row[name] for name in fate]
            seen.add(match.outcome)
    assert seen == {"kept", "exact_duplicate", "near_duplicate"}


def test_the_least_similarity_is_the_recipes_unless_given(
    root: Path, engines: Callable[[str], Engine], judged: Judged, tmp_path: Path
) -> None:
    steepest = similar.similar(root, TEXTS[1])
    assert steepest.min_similarity == MinHash().threshold_estimate
    assert all(match.similarity >= steepest.min_similarity for match in steepest.matches)
    assert len(similar.similar(root, TEXTS[1], 0.97).matches) < len(steepest.matches)
    settings = judged(tmp_path, ROWS[:9], verify=Verify(0.95))
    strict = similar.similar(build(tmp_path, engines("sail"), settings), TEXTS[1])
    assert strict.min_similarity == 0.95
    assert 0 < len(strict.matches) < len(steepest.matches)


def test_limits_keep_the_most_similar(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = similar.similar(root, TEXTS[9], 0.0, 1000)
    first = similar.similar(root, TEXTS[9], 0.0, 2)
    assert first.matches == whole.matches[:2]
    assert first.num_similar == whole.num_similar == len(whole.matches) > 3
    prints = fingerprints(TEXTS, MinHash())
    shared = (prints.bands == prints.bands[9]).sum(axis=1)
    monkeypatch.setattr(similar, "MAX_COMPARED", 3)
    few = similar.similar(root, TEXTS[9], 0.0)
    assert (few.num_candidates, few.num_compared) == (whole.num_candidates, 3)
    left_out = set(found_by(whole)) - set(found_by(few))
    assert min(shared[list(found_by(few))]) >= max(shared[list(left_out)])


def test_a_page_of_a_crawl_is_found(
    small_crawl: Any,
    engines: Callable[[str], Engine],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder, text = tmp_path / "root", tmp_path / "text"
    stages = [stage for stage in pipeline.STAGES if stage.name in "extract filter bands dedup"]
    with locked(folder):
        settings = recipe.load(small_crawl.recipe)
        pipeline.run(Job(settings, folder, engines("sail"), small_crawl.inputs), tuple(stages))
    canonical = manifest.read(folder / "canonical")
    judged = manifest.read(folder / "judged")
    assert canonical
    assert judged
    kept = pq.read_table(canonical.paths(folder / "canonical")).to_pylist()
    stored = pq.read_table(judged.paths(folder / "judged"), columns=["id", "text"]).to_pylist()
    text_of = {row["id"]: row["text"] for row in stored}
    assert len(kept) > 5
    for row in kept:
        text.write_text(text_of[row["id"]], encoding="utf-8")
        first = json.loads(ask(capsys, folder, text, "--json"))["matches"][0]
        assert first["similarity"] == 1.0
        if row["cluster_size"] == 1:
            assert (first["id"], first["outcome"]) == (row["id"], "kept")
            assert (first["url"], first["record_offset"]) == (row["url"], row["record_offset"])


# Reading


def commit(root: Path, name: str, rows: pa.Table, settings: Row, inputs: dict[str, str]) -> str:
    made = Manifest(name, "r", settings, inputs, (dataset_io.write_table(root / name, rows),), {})
    manifest.write(root / name, made)
    return made.fingerprint


def test_memory_is_bounded_and_only_texts_of_candidates_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """40,000 documents, of which one, in row group 20, is similar."""
    number, settings = 40_000, Recipe(name="r", filters=())
    random = np.random.default_rng(8)
    rows = [
        dict.fromkeys(DOCUMENTS.names)
        | {"id": f"{i}", "url": f"http://a.example/{i}", "file_path": "a", "record_offset": i}
        | {"text": " ".join(random.choice(WORDS, 40)), "date": "2024-01-01T00:00:00Z"}
        for i in range(number)
    ]
    judged = pa.Table.from_pylist(rows, DOCUMENTS)
    nodes = judged.append_column("signal", pa.nulls(number, pa.float64()))
    made = [b for batch in nodes.to_batches() for b in worker_tasks.bands(settings, batch)]
    first = commit(tmp_path, "documents", judged.slice(0, 1), {}, {})
    second = commit(tmp_path, "judged", judged, settings.settings("filters"), {"documents": first})
    chosen, inputs = (
        settings.settings("minhash", "survivor"),
        {"minhash.scheme": similar.minhash.SCHEME},
    )
    bands = pa.Table.from_batches(made)
    commit(tmp_path, "bands", bands, chosen, {"judged": second, **inputs})
    assert bands.nbytes > 6 << 20
    reads = list[tuple[int, list[str]]]()
    read_row_group = pq.ParquetFile.read_row_group

    def counted(file: pq.ParquetFile, group: int, columns: list[str]) -> pa.Table:
        reads.append((group, columns))
        return read_row_group(file, group, columns=columns)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", counted)
    pool, before = pa.proxy_memory_pool(pa.default_memory_pool()), pa.default_memory_pool()
    pa.set_memory_pool(pool)
    try:
        answer = similar.similar(tmp_path, rows[20_500]["text"] + " and more")
    finally:
        pa.set_memory_pool(before)
    assert found_by(answer) == {20_500: 36 / 38}
    assert (answer.matches[0].outcome, answer.absent) == (None, "not built yet")
    assert [group for group, columns in reads if "text" in columns] == [20]
    assert [group for group, columns in reads if "node" in columns] == [20]
    assert 0 < pool.max_memory() < 2 << 20, f"{pool.max_memory() / 2**20:.1f} MiB"


def test_a_damaged_file_is_named(root: Path, tmp_path: Path) -> None:
    for dataset, column, wrong in (
        ("bands", "bands", pa.array([[1, 2]] * 1, pa.list_(pa.int64()))),
        ("bands", "bands", pa.array(["x"])),
        ("judged", "text", None),
        ("clusters", "node", pa.array(["x"])),
    ):
        copy = tmp_path / f"{dataset}-{column}-{wrong is None or wrong.type}"
        shutil.copytree(root, copy)
        listed = manifest.read(copy / dataset)
        assert listed
        for path in listed.paths(copy / dataset):
            table = pq.read_table(path)
            place = table.schema.get_field_index(column)
            if wrong is None:
                table = table.remove_column(place)
            else:
                values = pa.chunked_array([wrong.take(pa.array([0] * len(table)))])
                table = table.set_column(place, column, values)
            pq.write_table(table, path)
        with pytest.raises(UserError, match=rf"{copy / dataset}/.*{column}"):
            similar.similar(copy, TEXTS[1])
        Path(path).write_bytes(b"PAR1")
        with pytest.raises(UserError, match=f"{copy / dataset}/.*cannot be read"):
            similar.similar(copy, TEXTS[1])


def test_a_text_that_bands_list_and_judged_lacks_is_named(root: Path, tmp_path: Path) -> None:
    copy = tmp_path / "root"
    shutil.copytree(root, copy)
    listed = manifest.read(copy / "judged")
    assert listed
    for path in listed.paths(copy / "judged"):
        table = pq.read_table(path)
        place = table.schema.get_field_index("text")
        pq.write_table(table.set_column(place, "text", pa.nulls(len(table), pa.string())), path)
    with pytest.raises(UserError, match=r"judged: has no text of a.warc.gz, offset \d"):
        similar.similar(copy, TEXTS[1])


# The command


def test_the_table_has_all_of_a_match(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "text"
    text.write_text(TEXTS[PLANTED] + " more", encoding="utf-8")
    shown = ask(capsys, root, text)
    words = " ".join(shown.replace("│", " ").split())
    assert f"{96 / 97:.4f} kept http://site.example/0 id-0000 a.warc.gz, offset 0" in words
    assert "share a band with the text: 1; at least 0.719 similar: 1; shown: 1" in words
    missed = (1 - MinHash().threshold_estimate ** 8) ** 14
    assert f"of similarity 0.719 is missed with probability {missed:.2g}" in words
    text.write_text(TEXTS[9], encoding="utf-8")
    shown = ask(capsys, root, text, "--limit", "3")
    assert shown.count("http://site.example/") == 3
    assert "cluster " in shown
    assert "shown: 3" in shown


def test_nothing_similar_is_said(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "text"
    text.write_text("These words are nowhere in that corpus of ours.", encoding="utf-8")
    assert "share a band with the text: 0" in ask(capsys, root, text)
    assert json.loads(ask(capsys, root, text, "--json"))["matches"] == []


def test_standard_input_is_read(
    root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    given = io.TextIOWrapper(io.BytesIO(TEXTS[PLANTED].encode()))
    monkeypatch.setattr("sys.stdin", given)
    answer = json.loads(ask(capsys, root, "-", "--json"))
    assert [match["id"] for match in answer["matches"]] == ["id-0000"]
    assert answer["minhash"] == dataclasses.asdict(MinHash())


def test_what_is_printed_of_the_web_is_text(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "text"
    text.write_text(TEXTS[-1], encoding="utf-8")
    shown = ask(capsys, root, text, "--limit", "1")
    mark = "\N{REPLACEMENT CHARACTER}"
    assert f"https://evil.example/[red]x[/oops] {mark}[2J{mark}" in shown
    assert f"<urn:{mark}]0;x{mark}>" in shown
    assert not set(shown) & set("\x1b\x07\u202e")
    assert not set(ask(capsys, root, text, "--json")) & set("\x1b\x07\u202e")


@pytest.mark.parametrize(
    ("content", "more", "message"),
    [
        (b"", [], "has fewer than 5 words"),
        (b"  \n ", [], "has fewer than 5 words"),
        (b"one two three four", [], "has fewer than 5 words"),
        (b"... !!! ???", [], "has fewer than 5 words"),
        (b"\xff\xfe", [], "is not UTF-8: byte 0"),
        (b"x" * 101, [], "is longer than 100 bytes"),
        (None, [], "cannot be read: No such file"),
        (b"a b c d e", ["--min-similarity", "1.5"], "--min-similarity 1.5: must be at least 0"),
        (b"a b c d e", ["--min-similarity", "nan"], "--min-similarity nan: must be at least 0"),
        (b"a b c d e", ["--limit", "0"], "--limit 0: must be at least 1 and at most 10,000"),
        (b"a b c d e", ["--limit", "10001"], "--limit 10001: must be at least 1"),
    ],
)
def test_invalid_input_is_named(
    root: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    content: bytes | None,
    more: list[str],
    message: str,
) -> None:
    monkeypatch.setattr(similar, "MAX_TEXT_BYTES", 100)
    text = tmp_path / "text\x1b"
    if content is not None:
        text.write_bytes(content)
    assert cli.main(["similar", "--root", str(root), "--text", str(text), *more]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert "\x1b" not in said


def test_a_folder_is_no_text(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["similar", "--root", str(root), "--text", str(root)]) == 2
    assert "cannot be read: Is a directory" in capsys.readouterr().err


def test_an_endless_text_is_refused(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["similar", "--root", str(root), "--text", "/dev/zero"]) == 2
    assert "is longer than 16,777,216 bytes" in capsys.readouterr().err


def test_a_root_without_usable_bands_is_named(root: Path, tmp_path: Path, judged: Judged) -> None:
    with pytest.raises(UserError, match="no run was committed there"):
        similar.similar(tmp_path, TEXTS[1])
    judged(tmp_path, ROWS[:3])
    with pytest.raises(UserError, match="'bands' not built yet"):
        similar.similar(tmp_path, TEXTS[1])
    copy = tmp_path / "copy"
    shutil.copytree(root, copy)
    bands = manifest.read(copy / "bands")
    assert bands
    inputs = bands.inputs | {"minhash.scheme": "gristmill-minhash-1"}
    manifest.write(copy / "bands", dataclasses.replace(bands, inputs=inputs))
    with pytest.raises(UserError, match=r"minhash.scheme = 'gristmill-minhash-1'"):
        similar.similar(copy, TEXTS[1])
    settings = {"minhash": {"bands": 0}}
    manifest.write(copy / "bands", dataclasses.replace(bands, settings=settings))
    with pytest.raises(UserError, match=r"manifest.json: \[minhash\]: bands = 0: must be"):
        similar.similar(copy, TEXTS[1])
    judged(copy, ROWS[:3], files=2, filters=("c4",))
    with pytest.raises(UserError, match="'bands' was built from a different 'judged'"):
        similar.similar(copy, TEXTS[1])
    extra = manifest.ForgottenExtra(unfinished=True)
    manifest.write(copy / "forgotten", Manifest("forgotten", "r", {}, {}, (), {}, extra))
    with pytest.raises(UserError, match="a takedown did not finish there"):
        similar.similar(copy, TEXTS[1])

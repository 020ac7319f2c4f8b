"""The quality classifier: training, the file's format, and the filter that reads it."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
from pathlib import Path

import fasttext
import floret
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from corpus.filters.classifier import QualityClassifier, check_model, model_sha256, probability
from corpus.filters.registry import judge
from corpus.filters.rules import Document
from corpus.filters.train_classifier import Training, auc, point, read_texts, to_fasttext, train
from schemas.errors import UserError

SETTINGS = Training(dim=8, epochs=20, word_ngrams=2, buckets=1000, learning_rate=0.5, held_out=0.3)
GOOD = [f"The miller of village {i} ground the corn\nand people thanked him." for i in range(60)]
BAD = [f"Buy cheap shoes {i} now! Click here,\nbest price, free shipping." for i in range(60)]


def write_texts(folder: Path, texts: list[str]) -> Path:
    folder.mkdir()
    for i, text in enumerate(texts):
        (folder / f"{i:03}.txt").write_text(text)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("texts")
    return write_texts(folder / "good", GOOD), write_texts(folder / "bad", BAD)


@pytest.fixture(scope="module")
def model(folders: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("model") / "quality.bin"
    trained = train(*folders, path, SETTINGS)
    assert trained.auc == 1
    assert trained.num_trained + trained.num_wanted + trained.num_others == 120
    return str(path)


def test_wanted_texts_score_high(model: str) -> None:
    assert probability("Another miller ground the corn of the village", model, "hq") > 0.8
    assert probability("Buy shoes now! Click here", model, "hq") < 0.2


def test_the_filter_keeps_what_reaches_the_threshold(model: str) -> None:
    score = probability(GOOD[0], model, "hq")
    exact = QualityClassifier(model=model, label="__label__hq", min_score=score)
    verdict = judge(Document(GOOD[0]), {"quality_classifier": exact})
    assert (verdict.rejected_by, verdict.signals) == (
        None,
        {"quality_classifier": {"score": score}},
    )
    verdict = judge(Document(BAD[0]), {"quality_classifier": exact})
    assert verdict.rejected_by == "quality_classifier.low_score"


def test_training_again_gives_the_same_bytes(
    model: str, folders: tuple[Path, Path], tmp_path: Path
) -> None:
    again = tmp_path / "again.bin"
    train(*folders, again, SETTINGS)
    assert again.read_bytes() == Path(model).read_bytes()
    assert model_sha256(model) == hashlib.sha256(again.read_bytes()).hexdigest()
    assert [path.name for path in tmp_path.iterdir()] == ["again.bin"]


@pytest.mark.parametrize("word_ngrams", [1, 2])
def test_a_converted_model_predicts_as_florets_own(tmp_path: Path, word_ngrams: int) -> None:
    lines = tmp_path / "lines"
    texts = [f"__label__a {g}\n__label__b {b}\n" for g, b in zip(GOOD, BAD, strict=True)]
    lines.write_text("".join(t.replace("\n", " ").replace(" __label__b", "\n__label__b") + "\n"
                             for t in texts))  # fmt: skip
    trained = floret.train_supervised(
        input=str(lines), wordNgrams=word_ngrams, bucket=500, dim=5, thread=1, verbose=0
    )
    trained.save_model(str(tmp_path / "floret"))
    with (tmp_path / "floret").open("rb") as source, (tmp_path / "ft").open("wb") as target:
        to_fasttext(source, target)
    converted = fasttext.load_model(str(tmp_path / "ft"))
    for text in ("the miller", "cheap shoes now", "", "words never seen", "corn \0 shoes"):
        expected = trained.f.predict(f"{text}\n", -1, 0.0, "strict")
        labels, scores = converted.predict(text, k=-1)
        assert list(zip(scores, labels, strict=True)) == expected


def test_only_a_model_in_the_known_mode_is_converted() -> None:
    for head in (b"", b"junk" * 20):
        with pytest.raises(ValueError, match="must be a model of floret"):
            to_fasttext(io.BytesIO(head), io.BytesIO())


def test_a_missing_or_foreign_model_and_a_missing_label_are_named(
    model: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"quality_classifier\.model = '': must name"):
        QualityClassifier().measure(Document("x"))
    with pytest.raises(UserError, match=r"none\.bin: no such classifier model"):
        model_sha256(str(tmp_path / "none.bin"))
    (tmp_path / "other.bin").write_bytes(b"no model" * 100)
    with pytest.raises(UserError, match=r"other\.bin: not a fastText classifier"):
        probability("x", str(tmp_path / "other.bin"), "hq")
    with pytest.raises(UserError, match=r"has no label 'good'; its labels are cc, hq"):
        probability("x", model, "good")


def test_a_model_is_checked_before_work_starts(model: str) -> None:
    check_model(QualityClassifier(model=model, label="__label__cc"))
    with pytest.raises(UserError, match="has no label 'good'"):
        check_model(QualityClassifier(model=model, label="good"))
    with pytest.raises(UserError, match=r"quality_classifier\.model = ''"):
        check_model(QualityClassifier())


def test_a_word_that_looks_like_a_label_is_none(tmp_path: Path) -> None:
    bad = write_texts(tmp_path / "bad", [f"__label__evil {text}" for text in BAD])
    good = write_texts(tmp_path / "good", GOOD)
    train(good, bad, tmp_path / "m.bin", SETTINGS)
    assert set(fasttext.load_model(str(tmp_path / "m.bin")).predict("", k=-1)[0]) == {
        "__label__hq",
        "__label__cc",
    }


def test_folders_that_teach_nothing_are_named(tmp_path: Path, folders: tuple[Path, Path]) -> None:
    good, _ = folders
    blank = write_texts(tmp_path / "blank", [" \n "])
    with pytest.raises(UserError, match="blank: its documents hold no text"):
        train(good, blank, tmp_path / "m.bin", SETTINGS)
    few = write_texts(tmp_path / "few", ["one text", "two texts"])
    with pytest.raises(UserError, match=r"held_out = 1e-06: holds out 0 wanted"):
        train(good, few, tmp_path / "m.bin", Training(dim=2, held_out=1e-6))
    assert not (tmp_path / "m.bin").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dim": 0}, "dim = 0: must be at least 1"),
        ({"held_out": 1.0}, r"held_out = 1\.0: must be above 0 and below 1"),
        ({"label": "two words"}, "label = 'two words': must be one word"),
        ({"other_label": "hq"}, "other_label = hq: must differ"),
        ({"learning_rate": 0.0}, r"learning_rate = 0\.0: must be above 0"),
    ],
)
def test_settings_of_training_are_checked(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Training(**settings)  # type: ignore[arg-type]


SCORES = st.lists(st.sampled_from([0.0, 0.1, 0.5, 0.5001, 1.0]), min_size=1, max_size=30)


@given(SCORES, SCORES)
def test_auc_is_the_share_of_pairs_in_the_right_order(
    wanted: list[float], others: list[float]
) -> None:
    pairs = [(w > o) + (w == o) / 2 for w in wanted for o in others]
    assert auc(np.array(wanted), np.array(others)) == pytest.approx(sum(pairs) / len(pairs))


def test_a_point_says_what_its_threshold_keeps() -> None:
    wanted, others = np.array([0.2, 0.9, 0.95, 0.99]), np.arange(100) / 100
    found = point(wanted, others, 0.1)
    assert (found.min_score, found.kept_others, found.recall) == (0.9, 0.1, 0.75)
    assert found.precision == pytest.approx(3 / 13)


def test_texts_are_read_from_every_form(tmp_path: Path) -> None:
    lines = [json.dumps({"text": f"text {i}", "url": "u"}) for i in range(3)]
    (tmp_path / "a.jsonl").write_text(lines[0] + "\n\n")
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(lines[1].encode()))
    (tmp_path / "c.jsonl.zst").write_bytes(zstandard.compress(lines[2].encode()))
    (tmp_path / "d").mkdir()
    pq.write_table(pa.table({"text": ["text 3", None]}), tmp_path / "d" / "e.parquet")
    (tmp_path / "f.txt").write_text("text 4\nwith two lines")
    (tmp_path / "manifest.json").write_text("{}")
    assert list(read_texts(tmp_path)) == [
        *(f"text {i}" for i in range(4)),
        "text 4\nwith two lines",
    ]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"text": 1}', r"a\.jsonl:1: must be a JSON object with a string 'text'"),
        ("a.jsonl", b"[]\n", r"a\.jsonl:1: must be"),
        ("a.jsonl.gz", gzip.compress(b'{"text": "x"}' * 99)[:-9], r"a\.jsonl\.gz: cannot be read"),
        ("a.jsonl.zst", b"junk", r"a\.jsonl\.zst: cannot be read"),
        ("a.txt", b"\xff", r"a\.txt: cannot be read"),
        ("a.parquet", b"PAR1", r"a\.parquet: cannot be read"),
        ("a.html", b"", r"holds no \*\.txt"),
    ],
)
def test_what_cannot_be_read_is_named(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        list(read_texts(tmp_path))
    with pytest.raises(UserError, match="no such folder"):
        list(read_texts(tmp_path / "none"))

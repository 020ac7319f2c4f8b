"""The exported tokenizer.json: equal ids in our encode, in tiktoken's Encoding and in the file."""

from __future__ import annotations

import functools
import json
import random
from pathlib import Path
from typing import Any

import pytest
import tiktoken_ext.openai_public
import tokenizers
from hypothesis import example, given
from hypothesis import strategies as st

from corpus.tokens import bpe
from schemas import hf_export, tokenizer
from schemas.errors import UserError
from schemas.tokenizer import Tokenizer

KNOWN = (Path(__file__).parent / "known_chat_tokens.txt").read_text(encoding="utf-8").split("\n")
LITERALS = [line for line in KNOWN if line]
POINTS = [chr(point) for point in range(0x110000) if not 0xD800 <= point < 0xE000]
SCRIPTS = [
    "the cat sat on the mat", "Don't WE'LL i'Ve 'ſ ʼn 'tis", "1234567890 ١٢٣٤٥ 一二三 ½ Ⅻ 3.14e-10",
    "東京は日本の首都です。中文字符，標點！", "مرحبا بالعالم، كيف الحال؟", "한국어 문장 하나",
    "नमस्ते दुनिया", "สวัสดีครับ", "שלום עולם", "👩‍👩‍👧‍👦🏳️‍🌈🇩🇪🎉", "e\u0301 a\u0308\u0323",
    "\r\n\n \n\t\v\f\x85", "\u00a0\u1680\u2003\u2028\u2029\u202f\u205f\u3000\ufeff\u200b",
    "x \n y\n\n z  \n", "--==>>***___", "\x00\x1c\x1f\x7f\ufffd\uffff\U0010ffff", "ﬁ ß ẞ İ ı K Å",
    "https://a.b/c?d=e&f#g", "  lead", "trail  ",
]  # fmt: skip
TEXTS = st.one_of(
    st.text(max_size=300),
    st.lists(st.sampled_from([*SCRIPTS, " ", "\n", "'", "0"]), max_size=20).map("".join),
)


def sample_texts() -> list[str]:
    draw = random.Random(0)
    return [
        " ".join(
            draw.choices([*" ".join(SCRIPTS).split(), *map(str, range(150)), *dir(str)], k=200)
        )
        for _ in range(20)
    ]


class Exported:
    """A tokenizer, and what the `tokenizers` package makes of its exported file."""

    def __init__(self, known: Tokenizer, folder: Path) -> None:
        self.known = known
        self.path = hf_export.export(known, folder)
        self.file = tokenizers.Tokenizer.from_file(str(self.path))
        self.specials = known.special_tokens | known.control_ids

    @functools.cached_property
    def again(self) -> tokenizers.Tokenizer:
        """The file of the file: read as a source and exported once more."""
        content = hf_export.to_json(tokenizer.load(self.path))
        return tokenizers.Tokenizer.from_str(json.dumps(content))

    def differences(self, text: str) -> list[str]:
        """Which of the package's ids and text are not those of the tokenizer."""
        ids = self.known.encode(text)
        equal = {"ordinary ids": self.known.encoding.encode_ordinary(text) == ids}
        if not any(token in text for token in self.specials):
            equal["ids of the file"] = self.file.encode(text).ids == ids
            equal["text of the file"] = self.file.decode(ids) == text
        return [name for name, is_equal in equal.items() if not is_equal]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    known = bpe.train(sample_texts(), 700, "bpe")
    return Exported(known, tmp_path_factory.mktemp("bpe"))


@pytest.fixture(scope="module")
def cl100k(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return Exported(tokenizer.named("cl100k_base"), tmp_path_factory.mktemp("cl100k"))


@given(text=TEXTS)
@example(text="12345678901234567890 1 12 123 1234\n")
@example(text=" \n\n  \r\n \t end \n ")
def test_a_trained_tokenizer_has_equal_ids_in_all_three(trained: Exported, text: str) -> None:
    assert trained.differences(text) == []


@given(text=TEXTS)
def test_cl100k_base_has_equal_ids_in_all_three(cl100k: Exported, text: str) -> None:
    assert cl100k.differences(text) == []


def in_parts(points: list[str], around: str) -> list[str]:
    return ["".join(map(around.format, points[i : i + 512])) for i in range(0, len(points), 512)]


def test_every_code_point_has_equal_ids(trained: Exported) -> None:
    for text in in_parts(POINTS, "{}"):
        assert trained.differences(text) == []


@pytest.mark.parametrize("around", ["a{}", " {}b", "'{}", "1{}2", "\n{} "])
def test_every_code_point_has_equal_ids_in_any_company(
    trained: Exported, around: str, request: pytest.FixtureRequest
) -> None:
    step = 1 if request.config.getoption("--soak") else 11
    for text in in_parts(POINTS[::step], around):
        assert trained.differences(text) == []


@pytest.mark.parametrize("run", [" ", "\n", "\t", "\u3000", " \n", "a", "é", "東", "7", "-", "👩‍"])
def test_long_runs_have_equal_ids(trained: Exported, run: str) -> None:
    for size in (1, 2, 3, 7, 64, 1000, 20_000):
        for text in (run * size, f"x{run * size}", f"{run * size}y", f" {run * size}.\n"):
            assert trained.differences(text) == []


@pytest.mark.parametrize("name", ["trained", "cl100k"])
def test_a_special_tokens_literal_is_a_control_id_to_the_file_alone(
    name: str, request: pytest.FixtureRequest
) -> None:
    exported: Exported = request.getfixturevalue(name)
    known = exported.known
    for literal in LITERALS:
        ids, text = known.encode(f"a{literal}b"), f"a{literal}b"
        assert not set(exported.specials.values()) & set(ids)
        found = exported.file.encode(text).ids
        if literal in exported.specials:
            sides = known.encode("a"), known.encode("b")
            assert found == [*sides[0], exported.specials[literal], *sides[1]]
        else:
            assert found == ids


@pytest.mark.parametrize("name", ["trained", "cl100k"])
def test_the_file_is_a_source_of_the_same_ids(name: str, request: pytest.FixtureRequest) -> None:
    exported: Exported = request.getfixturevalue(name)
    known, read = exported.known, tokenizer.load(exported.path)
    assert read.control_ids == known.control_ids
    assert read.special_tokens == exported.specials
    assert read.token_bytes == known.token_bytes
    assert read.undefined_ids == known.undefined_ids
    for text in (*SCRIPTS, *LITERALS):
        assert read.encode(text) == known.encode(text)


@given(text=st.lists(st.sampled_from([*SCRIPTS, *LITERALS])).map("".join))
def test_a_source_that_was_exported_again_is_the_same(trained: Exported, text: str) -> None:
    assert trained.again.encode(text).ids == trained.file.encode(text).ids


def test_merges_are_those_that_were_learned() -> None:
    model = bpe.train_merges(sample_texts(), 691)
    learned = json.loads(model.to_str())["model"]["merges"]
    content = hf_export.to_json(bpe.train(sample_texts(), 700, "bpe"))
    assert content["model"]["merges"] == learned


def test_a_token_that_no_merge_makes_is_refused_by_name(tmp_path: Path) -> None:
    tokens = [bytes([i]) for i in range(256)]
    known = tokenizer.from_tokens("jump", [*tokens, b"abc"])
    with pytest.raises(UserError, match=r"tokenizer jump: .*token 256 \(b'abc'\) is no pair"):
        hf_export.export(known, tmp_path)


@pytest.mark.parametrize("name", ["gpt2", "r50k_base", "p50k_base", "o200k_base"])
def test_the_split_patterns_of_other_encodings_export_too(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_ranks(*_: Any, **__: Any) -> dict[bytes, int]:  # the real ones would be downloaded
        return {bytes([i]): i for i in range(256)}

    monkeypatch.setattr(tiktoken_ext.openai_public, "load_tiktoken_bpe", no_ranks)
    monkeypatch.setattr(tiktoken_ext.openai_public, "data_gym_to_mergeable_bpe_ranks", no_ranks)
    pattern = getattr(tiktoken_ext.openai_public, name)()["pat_str"]
    pairs = [b"th", b"he", b" t", b"  ", b"\n\n", b"12", b"'s", b"\xe6\x9d"]
    known = tokenizer.from_tokens(name, [*no_ranks(), *pairs], pattern)
    exported = Exported(known, tmp_path)
    for text in SCRIPTS:
        assert exported.differences(text * 3) == []


def test_versions_that_split_otherwise_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    known = tokenizer.from_tokens("x", [*(bytes([i]) for i in range(256)), b"12"])
    monkeypatch.setattr(hf_export, "oniguruma_pattern", lambda pattern: r"\p{L}+|\p{N}|.")
    with pytest.raises(UserError, match="split text differently near U"):
        hf_export.check_equal(known, hf_export.to_json(known))


def test_a_folder_gets_the_configuration_too_and_a_file_stands_alone(
    trained: Exported, tmp_path: Path
) -> None:
    assert trained.path.name == "tokenizer.json"
    config = json.loads((trained.path.parent / "tokenizer_config.json").read_text())
    assert config["eos_token"] == "<|endoftext|>"
    hf_export.export(trained.known, tmp_path / "one" / "bpe.json")
    assert [path.name for path in (tmp_path / "one").iterdir()] == ["bpe.json"]

"""A Hugging Face tokenizer as a source: its own ids on every text, no special token from any."""

from __future__ import annotations

import copy
import json
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, models, normalizers, pre_tokenizers, processors, trainers

from schemas import hf_export, tokenizer
from schemas.errors import UserError
from schemas.tokenizer import CHAT_TOKENS, DOCUMENT_BOUNDARY, GPT4_SPLIT_PATTERN, Tokenizer

KNOWN = (Path(__file__).parent / "known_chat_tokens.txt").read_text(encoding="utf-8").split("\n")
LITERALS = [line for line in KNOWN if line]
LESSON = "the cat sat on the mat, it's 1234 o'clock; naïve 東京 " * 40 + "<|im_start|> [INST]" * 9


def as_bytes(use_regex: bool) -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex)


def split_as_gpt4() -> pre_tokenizers.PreTokenizer:
    pattern = tokenizers.Regex(hf_export.oniguruma_pattern(GPT4_SPLIT_PATTERN))
    cut = pre_tokenizers.Split(pattern, behavior="isolated")
    return pre_tokenizers.Sequence([cut, as_bytes(False)])


def digits_first() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), as_bytes(True)])


def learned(
    steps: pre_tokenizers.PreTokenizer, specials: list[str], first: bool
) -> tokenizers.Tokenizer:
    """A BPE of 400 ids; its special tokens come before or after all others."""
    made = tokenizers.Tokenizer(models.BPE())
    made.pre_tokenizer = steps
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=specials if first else [], show_progress=False,
    )  # fmt: skip
    made.train_from_iterator([LESSON], trainer=trainer)
    if not first:
        made.add_special_tokens([AddedToken(token, special=True) for token in specials])
    return made


def gpt2_like() -> dict[str, Any]:
    return json.loads(learned(as_bytes(True), [DOCUMENT_BOUNDARY], first=False).to_str())


def llama3_like() -> dict[str, Any]:
    """Whole pieces before merges, a frame around every text, texts cut and padded."""
    made = learned(split_as_gpt4(), ["<|begin_of_text|>", *LITERALS[:60]], first=False)
    begin = ("<|begin_of_text|>", made.token_to_id("<|begin_of_text|>"))
    made.post_processor = processors.TemplateProcessing(
        single="<|begin_of_text|> $A", special_tokens=[begin]
    )
    made.enable_truncation(8)
    made.enable_padding(length=12)
    content = json.loads(made.to_str())
    content["model"]["ignore_merges"] = True
    return content


def smol_like() -> dict[str, Any]:
    return json.loads(learned(digits_first(), LITERALS, first=True).to_str())


def qwen_like() -> dict[str, Any]:
    """NFC first; <think> is added, but not as a special token."""
    made = learned(split_as_gpt4(), ["<|endoftext|>", "<|im_start|>"], first=False)
    made.normalizer = normalizers.NFC()
    made.add_tokens([AddedToken("<think>", normalized=False)])
    return json.loads(made.to_str())


KINDS: dict[str, Callable[[], dict[str, Any]]] = {
    "gpt2": gpt2_like, "llama3": llama3_like, "smol": smol_like, "qwen": qwen_like,
}  # fmt: skip
SOURCES = {name: tokenizer.from_hugging_face(name, make()) for name, make in KINDS.items()}
# The package's own answer, with nothing taken out of it but the frame.
OWN = {name: tokenizers.Tokenizer.from_str(json.dumps(make())) for name, make in KINDS.items()}
for own in OWN.values():
    own.no_truncation()
    own.no_padding()

TEXTS = st.one_of(
    st.text(max_size=200),
    st.lists(st.sampled_from([*LESSON.split(), *LITERALS, " ", "\n", "12", "é"]))
    .map("".join),
)  # fmt: skip


def own_literals(name: str) -> set[str]:
    return {token["content"] for token in KINDS[name]()["added_tokens"]}


@pytest.mark.parametrize("name", KINDS)
@given(text=TEXTS)
def test_ids_are_the_packages_own_where_no_special_token_is_named(name: str, text: str) -> None:
    if not any(literal in text for literal in SOURCES[name].special_tokens):
        own = OWN[name].encode(text, add_special_tokens=False).ids
        assert SOURCES[name].encode(text) == own


@pytest.mark.parametrize("name", KINDS)
@given(before=TEXTS, literal=st.sampled_from(LITERALS), after=TEXTS, cut=st.integers(0, 20))
def test_no_text_or_fields_become_a_special_token(
    name: str, before: str, literal: str, after: str, cut: int
) -> None:
    known = SOURCES[name]
    controls = {*known.special_tokens.values(), *known.control_ids.values()}
    fields = [before + literal[:cut], literal[cut:] + after]
    for texts in (fields, ["".join(fields)]):
        ids = [i for text in texts for i in known.encode(text)]
        assert not controls & set(ids)
        assert known.decode(ids) == "".join(map(known.normalized, texts))


@pytest.mark.parametrize("name", KINDS)
def test_the_package_itself_makes_special_tokens_of_text(name: str) -> None:
    for literal in SOURCES[name].special_tokens:
        number = SOURCES[name].special_tokens[literal]
        assert number in OWN[name].encode(f"a{literal}b", add_special_tokens=False).ids
        assert number not in SOURCES[name].encode(f"a{literal}b")


@pytest.mark.parametrize("name", KINDS)
def test_saved_and_loaded_it_is_the_same(name: str, tmp_path: Path) -> None:
    known = SOURCES[name]
    known.save(tmp_path / "t.json")
    loaded = tokenizer.load(tmp_path / "t.json")
    assert (loaded.hash, loaded.name, loaded.control_ids) == (known.hash, name, known.control_ids)
    assert loaded.encode(LESSON) == known.encode(LESSON)


def test_a_file_is_read_as_it_is_and_named_after_its_folder(tmp_path: Path) -> None:
    path = tmp_path / "some-model" / "tokenizer.json"
    path.parent.mkdir()
    path.write_text(json.dumps(llama3_like()))
    known = tokenizer.find(str(path))
    assert known.name == "some-model"
    assert known.hash == SOURCES["llama3"].hash
    (tmp_path / "other.json").write_text(json.dumps(gpt2_like()))
    assert tokenizer.find(str(tmp_path / "other.json")).name == "other"


def test_control_tokens_that_the_file_has_keep_their_ids_and_others_come_last() -> None:
    known = SOURCES["gpt2"]
    assert known.boundary == known.special_tokens[DOCUMENT_BOUNDARY]
    last = known.encoding.n_vocab
    assert list(known.chat_ids.values()) == list(range(last, last + len(CHAT_TOKENS)))
    assert SOURCES["smol"].chat_ids["<|user|>"] == SOURCES["smol"].special_tokens["<|user|>"]
    assert SOURCES["smol"].vocab_size == 400


@pytest.mark.parametrize("name", KINDS)
def test_undefined_ids_are_exactly_those_that_do_not_decode(name: str) -> None:
    known = SOURCES[name]
    for i in range(known.padded_vocab_size):
        if i in known.undefined_ids:
            with pytest.raises(UserError, match=str(i)):
                known.decode_bytes([i])
        else:
            assert known.decode_bytes([i])


@given(st.text())
def test_nfc_is_kept_where_the_file_asks_for_it(text: str) -> None:
    known = SOURCES["qwen"]
    assert known.decode(known.encode(text)) == known.normalized(text)
    assert known.normalized("e\u0301") == unicodedata.normalize("NFC", "e\u0301")
    assert SOURCES["gpt2"].normalized(text) == text


def test_half_a_surrogate_is_encoded_as_the_replacement_character() -> None:
    for known in (SOURCES["gpt2"], tokenizer.named("cl100k_base")):
        assert known.encode("a\ud800b") == known.encode("a\ufffdb")
        assert known.normalized("a\ud800b") == "a\ufffdb"


def change(**parts: Any) -> dict[str, Any]:
    content = copy.deepcopy(gpt2_like())
    for name, value in parts.items():
        content[name] = {**content[name], **value} if name == "model" else value
    return content


def without_a_byte() -> dict[str, Any]:
    content = gpt2_like()
    content["model"]["vocab"]["unused"] = content["model"]["vocab"].pop("Ġ")  # no gap in the ids
    content["model"]["merges"] = []
    return content


def special(token: str) -> dict[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": 999, "content": token, "special": True, **flags}


STRIP = {"type": "Strip", "strip_left": True, "strip_right": True}
REMOVED = {
    "type": "Split", "pattern": {"String": " "}, "behavior": "Removed", "invert": False,
}  # fmt: skip
PREFIX = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (change(model={"type": "WordPiece"}), "its model is WordPiece: only byte-level BPE"),
        (change(model={"type": "Unigram"}), "its model is Unigram: only byte-level BPE"),
        (change(model={"byte_fallback": True}), "BPE over characters"),
        (change(model={"dropout": 0.1}), "dropout = 0.1: must be null"),
        (change(model={"end_of_word_suffix": "</w>"}), "end_of_word_suffix = '</w>'"),
        (change(model={"merges": [["x", "nowhere"]]}), "the tokenizers package cannot read it"),
        (change(normalizer={"type": "Lowercase"}), "normalizer Lowercase changes the text"),
        (change(normalizer={"type": "Sequence", "normalizers": [STRIP]}), "normalizer Strip"),
        (change(pre_tokenizer=None), "no pre_tokenizer ByteLevel"),
        (change(pre_tokenizer={"type": "Whitespace"}), "pre_tokenizer Whitespace drops"),
        (change(pre_tokenizer=REMOVED), "pre_tokenizer Split drops"),
        (change(pre_tokenizer=PREFIX), "add_prefix_space = true: must be false"),
        (change(added_tokens=[special("the")]), "added token 'the' is also one that its merges"),
        (without_a_byte(), "no token for byte 0x20"),
    ],
)
def test_what_cannot_be_used_is_refused_by_file_and_reason(
    tmp_path: Path, content: dict[str, Any], message: str
) -> None:
    (tmp_path / "t.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"t\.json: not a Hugging Face tokenizer") as caught:
        tokenizer.load(tmp_path / "t.json")
    assert message in str(caught.value)


def test_another_split_or_merge_is_another_hash() -> None:
    known = SOURCES["gpt2"]

    def hash_of(content: dict[str, Any]) -> str:
        return tokenizer.from_hugging_face("gpt2", content).hash

    fewer = gpt2_like()
    fewer["model"]["merges"].pop()
    split = {"type": "Sequence", "pretokenizers": [
        {"type": "Digits", "individual_digits": True}, gpt2_like()["pre_tokenizer"],
    ]}  # fmt: skip
    assert hash_of(gpt2_like()) == known.hash
    assert hash_of({**gpt2_like(), "post_processor": None, "truncation": None}) == known.hash
    assert len({known.hash, hash_of(fewer), hash_of(change(pre_tokenizer=split))}) == 3


def of_all_kinds() -> list[Tokenizer]:
    tokens = [bytes([i]) for i in range(256)] + [b"th", b"<|", b"|>", b"im", b"[I"]
    return [tokenizer.named("cl100k_base"), tokenizer.from_tokens("bpe", tokens), SOURCES["qwen"]]


@pytest.mark.parametrize("known", of_all_kinds(), ids=lambda known: known.name)
def test_every_known_chat_token_is_text_to_every_source(known: Tokenizer) -> None:
    controls = {*known.special_tokens.values(), *known.control_ids.values()}
    assert len(LITERALS) >= 60
    assert set(known.special_tokens) | set(known.control_ids) <= {*LITERALS}
    for literal in LITERALS:
        for text in (literal, f"a{literal}b", literal * 3, f" {literal}\n", literal.upper()):
            ids = known.encode(text)
            assert not controls & set(ids)
            assert known.decode(ids) == text

"""Validation against slow readers that go document by document, each with a forward of its own."""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor

from corpus.tokens import shards
from schemas import manifest as manifests
from schemas.manifest import Manifest
from schemas.tokenizer import Tokenizer
from trainer.data.loader import Loader, Mixed
from trainer.distributed import Ranks
from trainer.evaluate.loss import (
    IGNORED,
    DomainResult,
    Validation,
    bytes_of_tokens,
    single_sources,
    validate,
    validate_by_domain,
)
from trainer.model.model import LanguageModel

CPU = torch.device("cpu")
ALONE = Ranks(CPU)
SETTINGS = shards.Shard(tokens_per_shard=1, rows_per_group=7)
SITES = ["a.example.org", "www.example.org", "example.com", "example.co.uk", "x.github.io"]
Document = tuple[str | None, list[int], list[int]]  # URL, tokens, loss mask


@dataclasses.dataclass(frozen=True)
class Recorded(Ranks):
    """A rank that remembers what it would add up with the others'."""

    sums: list[Tensor] = dataclasses.field(default_factory=list)

    def sum(self, values: Tensor) -> Tensor:
        self.sums.append(values.clone())
        return values


def make_documents(tokenizer: Tokenizer, count: int, seed: int) -> list[Document]:
    """Documents shorter and longer than a row, of control tokens too, masked at random."""
    draw, made = random.Random(seed), []
    for i in range(count):
        length = draw.choice([0, 1, 5, 20, 31, 32, 33, 90])
        tokens = [draw.randrange(tokenizer.boundary) for _ in range(length)]
        if length == 20:
            tokens[3] = tokenizer.chat_ids["<|user|>"]
        mask = [draw.randrange(2) for _ in tokens]
        made.append((f"https://{SITES[i % 5]}/{i}", [tokenizer.boundary, *tokens], [0, *mask]))
    return made


def write(folder: Path, documents: list[Document], tokenizer: Tokenizer, kind: str) -> Path:
    """One shard to train on, of the first document, and one of all to validate on."""
    files = []
    for split, rows in (("train", documents[:1]), ("validation", documents)):
        ids = [f"<urn:{split}:{i}>" for i in range(len(rows))]
        columns: dict[str, Any] = {
            "tokens": pa.array([tokens for _, tokens, _ in rows], pa.list_(pa.int32())),
            "token_count": pa.array([len(tokens) for _, tokens, _ in rows], pa.int64()),
            "id": pa.array(ids),
            "url": pa.array([url for url, _, _ in rows]),
            "file_path": pa.array(["a.warc.gz"] * len(rows)),
            "record_offset": pa.array(range(len(rows)), pa.int64()),
            "split": pa.array([split] * len(rows)),
            "order_key": pa.array(shards.to_signed(shards.order_keys(ids, 0))),
            "text_bytes": pa.array(np.ones(len(rows), np.int64)),
        }
        if kind == "conversations":
            columns["loss_mask"] = pa.array([mask for _, _, mask in rows], pa.list_(pa.uint8()))
        files.append(shards.write_shard(pa.table(columns), folder, split, 0, SETTINGS))
    shards.save_tokenizer(tokenizer, folder)
    extra = shards.describe(files, tokenizer, kind)
    made = Manifest("shards", "test", {}, {}, tuple(shards.in_order(files)), {}, extra)
    manifests.write(folder, made)
    return folder


MakeLoader = Callable[..., Loader]


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("evaluate")
    return {
        "pages": write(root / "pages", make_documents(tokenizer, 60, 0), tokenizer, "documents"),
        "books": write(root / "books", make_documents(tokenizer, 30, 1), tokenizer, "documents"),
        "chats": write(
            root / "chats", make_documents(tokenizer, 50, 2), tokenizer, "conversations"
        ),
    }


@pytest.fixture
def open_loader(folders: dict[str, Path], tmp_path: Path) -> MakeLoader:
    def open_(*names: str, rows: int = 4, **more: Any) -> Loader:
        mixed = [Mixed(folders[name], weight) for name, weight in zip(names, (1, 3), strict=False)]
        flags = {"packing": "best_fit", "split": "validation", "cache": tmp_path / "plans", **more}
        return Loader(mixed, seq_len=32, rows=rows, **flags)

    return open_


def pieces(folder: Path, seq_len: int) -> Iterator[tuple[list[int], list[int]]]:
    """Tokens and mask of each stretch of a document that fits a row, read from the file alone."""
    (path,) = folder.glob("validation-*.parquet")
    table = pq.read_table(path).to_pydict()
    for i, tokens in enumerate(table["tokens"]):
        mask = table["loss_mask"][i] if "loss_mask" in table else [1] * len(tokens)
        for start in range(0, len(tokens) - 1, seq_len):
            end = start + seq_len + 1
            yield tokens[start:end], mask[start:end]


def by_document(model: LanguageModel, folder: Path, tokenizer: Tokenizer) -> tuple[float, int]:
    """Bits per byte and bytes of the text that counts, a document at a time."""
    nats, size = 0.0, 0
    for tokens, mask in pieces(folder, 32):
        with torch.no_grad():
            logs = model(torch.tensor([tokens[:-1]]))[0].double().log_softmax(-1)
        for i, token in enumerate(tokens[1:]):
            if mask[i + 1] and token in tokenizer.token_bytes:
                nats -= float(logs[i, token])
                size += len(tokenizer.token_bytes[token])
    return nats / math.log(2) / size, size


def by_row(model: LanguageModel, loader: Loader) -> tuple[float, int]:
    """Nats a target and targets of the first epoch: a row at a time, a document at a time."""
    nats, count = 0.0, 0
    for row in range(loader.num_rows()):
        batch = loader.batch(0, range(row, row + 1))
        inputs, targets, documents = batch.inputs[0], batch.targets[0], batch.document_ids[0]
        for document in range(int(documents.max()) + 1):
            here = documents == document
            with torch.no_grad():
                logs = model(torch.tensor(inputs[here])[None])[0].double().log_softmax(-1)
            for i, token in enumerate(targets[here].tolist()):
                if token != IGNORED:
                    nats -= float(logs[i, token])
                    count += 1
    return nats / count, count


@pytest.mark.parametrize("name", ["pages", "chats"])
@pytest.mark.parametrize("rows", [1, 4, 1000])
def test_validation_is_what_a_reader_of_one_document_at_a_time_finds(
    name: str,
    rows: int,
    open_loader: MakeLoader,
    folders: dict[str, Path],
    model: LanguageModel,
    tokenizer: Tokenizer,
) -> None:
    loader = open_loader(name, rows=rows)
    found = validate(model, loader, bytes_of_tokens(tokenizer), ALONE, torch.float32)
    bits, size = by_document(model, folders[name], tokenizer)
    loss, targets = by_row(model, loader)
    assert found.text_bytes == size
    assert found.bits_per_byte == pytest.approx(bits, rel=1e-6)
    assert found.targets == targets
    assert found.loss == pytest.approx(loss, rel=1e-6)


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_share_the_rows_and_find_what_one_finds(
    world_size: int, open_loader: MakeLoader, model: LanguageModel, tokenizer: Tokenizer
) -> None:
    loader, sizes = open_loader("pages"), bytes_of_tokens(tokenizer)
    group = [Recorded(CPU, rank, world_size) for rank in range(world_size)]
    for rank in [Recorded(CPU), *group]:
        validate(model, loader, sizes, rank, torch.float32)
        if rank.world_size == 1:
            whole = rank.sums[0]
    assert all(rank.sums[0][1] > 0 for rank in group)
    torch.testing.assert_close(sum(rank.sums[0] for rank in group), whole, rtol=1e-12, atol=0)


def test_a_mixture_is_measured_source_by_source_whatever_the_weights(
    open_loader: MakeLoader, model: LanguageModel, tokenizer: Tokenizer
) -> None:
    sizes = bytes_of_tokens(tokenizer)
    both = validate(model, open_loader("pages", "books"), sizes, ALONE, torch.float32)
    each = [
        validate(model, open_loader(name), sizes, ALONE, torch.float32)
        for name in ("pages", "books")
    ]
    assert both.targets == sum(one.targets for one in each)
    assert both.text_bytes == sum(one.text_bytes for one in each)
    bits = sum(one.bits_per_byte * one.text_bytes for one in each) / both.text_bytes
    assert both.bits_per_byte == pytest.approx(bits, rel=1e-12)


def test_a_source_alone_has_the_rows_it_has_in_the_mixture(open_loader: MakeLoader) -> None:
    mixture = open_loader("pages", "books")
    for source, single in zip(mixture.sources, single_sources(mixture), strict=True):
        segments = source.gather(range(5))[0].segments
        again = single.sources[0].gather(range(5))[0].segments
        np.testing.assert_array_equal(segments.starts, again.starts)


def test_max_rows_measures_the_first_rows(
    open_loader: MakeLoader, model: LanguageModel, tokenizer: Tokenizer
) -> None:
    loader = open_loader("pages")
    targets = (loader.batch(0, range(6)).targets != IGNORED).sum()
    sizes = bytes_of_tokens(tokenizer)
    found = validate(model, loader, sizes, ALONE, torch.float32, max_rows=6)
    assert found.targets == targets
    more = validate(model, loader, sizes, ALONE, torch.float32, max_rows=10**6)
    assert more == validate(model, loader, sizes, ALONE, torch.float32)


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_left_in_the_mode_it_was_in(
    training: bool, open_loader: MakeLoader, model: LanguageModel, tokenizer: Tokenizer
) -> None:
    model.train(training)
    validate(model, open_loader("books"), bytes_of_tokens(tokenizer), ALONE, torch.float32)
    assert model.training == training
    assert torch.is_grad_enabled()


def test_a_model_that_knows_nothing_needs_the_logarithm_of_the_vocabulary(
    open_loader: MakeLoader, model: LanguageModel, tokenizer: Tokenizer
) -> None:
    with torch.no_grad():
        model.lm_head.weight.zero_()
    found = validate(model, open_loader("pages"), bytes_of_tokens(tokenizer), ALONE, torch.float32)
    assert found.loss == pytest.approx(math.log(tokenizer.padded_vocab_size), rel=1e-6)
    assert isinstance(found, Validation)


def test_bytes_of_tokens_are_those_of_the_text(tokenizer: Tokenizer) -> None:
    sizes = bytes_of_tokens(tokenizer)
    text = "the cat sat, naïve \N{GRINNING FACE}"
    assert int(sizes[tokenizer.encode(text)].sum()) == len(text.encode())
    assert int(sizes[[*tokenizer.control_ids.values(), *tokenizer.undefined_ids]].sum()) == 0


def domains_by_document(
    model: LanguageModel, folder: Path, tokenizer: Tokenizer
) -> dict[str, DomainResult]:
    """Documents, bytes and bits per byte of each site, a document at a time."""
    (path,) = folder.glob("validation-*.parquet")
    names = dict(zip(SITES, ["example.org", "example.org", *SITES[2:4], "github.io"], strict=True))
    found: dict[str, list[float]] = {}
    for row in pq.read_table(path).to_pylist():
        site = names[row["url"].split("/")[2]]
        sums = found.setdefault(site, [0, 0, 0])
        sums[0] += len(row["tokens"]) > 1
        for start in range(0, len(row["tokens"]) - 1, 32):
            tokens = row["tokens"][start : start + 33]
            with torch.no_grad():
                logs = model(torch.tensor([tokens[:-1]]))[0].double().log_softmax(-1)
            for i, token in enumerate(tokens[1:]):
                if token in tokenizer.token_bytes:
                    sums[1] += len(tokenizer.token_bytes[token])
                    sums[2] -= float(logs[i, token])
    return {
        name: DomainResult(name, int(count), int(size), nats / math.log(2) / max(1, size))
        for name, (count, size, nats) in found.items()
    }


@pytest.mark.parametrize("window_tokens", [1, 300, 1 << 22])
def test_domains_are_what_a_reader_of_one_document_at_a_time_finds(
    window_tokens: int,
    open_loader: MakeLoader,
    folders: dict[str, Path],
    model: LanguageModel,
    tokenizer: Tokenizer,
) -> None:
    loader, sizes = open_loader("pages", window_tokens=window_tokens), bytes_of_tokens(tokenizer)
    whole, found = validate_by_domain(model, loader, sizes, ALONE, torch.float32)
    expected = domains_by_document(model, folders["pages"], tokenizer)
    assert {result.domain for result in found} == set(expected)
    for result in found:
        slow = expected[result.domain]
        assert (result.documents, result.text_bytes) == (slow.documents, slow.text_bytes)
        assert result.bits_per_byte == pytest.approx(slow.bits_per_byte, rel=1e-6)
    assert [r.text_bytes for r in found] == sorted((r.text_bytes for r in found), reverse=True)
    assert whole == validate(model, loader, sizes, ALONE, torch.float32)
    assert sum(result.text_bytes for result in found) == whole.text_bytes


def test_ranks_number_the_domains_alike(
    open_loader: MakeLoader, model: LanguageModel, tokenizer: Tokenizer
) -> None:
    loader, sizes = open_loader("pages", "books"), bytes_of_tokens(tokenizer)
    group = [Recorded(CPU), Recorded(CPU, 0, 2), Recorded(CPU, 1, 2)]
    for rank in group:
        validate_by_domain(model, loader, sizes, rank, torch.float32, max_rows=9)[1]
    alone, *pair = [rank.sums[0] for rank in group]
    torch.testing.assert_close(pair[0] + pair[1], alone, rtol=1e-12, atol=0)


def test_a_document_without_a_url_is_of_no_site(
    tmp_path: Path, model: LanguageModel, tokenizer: Tokenizer
) -> None:
    documents = [(None, [tokenizer.boundary, 5, 6, 7], [0, 1, 1, 1])] * 3
    folder = write(tmp_path / "shards", documents, tokenizer, "documents")
    loader = Loader(
        [folder],
        seq_len=8,
        rows=2,
        packing="best_fit",
        split="validation",
        cache=tmp_path / "plans",
    )
    sizes = bytes_of_tokens(tokenizer)
    (found,) = validate_by_domain(model, loader, sizes, ALONE, torch.float32)[1]
    assert (found.domain, found.documents, found.text_bytes) == ("(no URL)", 3, 9)

"""Generate text from prompts: several rows at once, one token per row and step, with a KV cache.

A row is a prompt, a random generator, and a reader: it says which ids may come next and turns ids
into text. Rows that end leave the batch. Rows draw and attend independently, so a row's ids in a
batch are those it gets alone, up to rounding of fp32 sums in another order: greedy ids can differ
where two logits agree to about six digits.

Cost per token: one forward pass over it, with attention to all tokens before it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from schemas.errors import UserError
from schemas.tokenizer import Tokenizer
from trainer.generate.sampling import pick
from trainer.generate.streaming import TextStream
from trainer.model.model import KeyValueCache, LanguageModel
from trainer.settings import SampleSettings

Finish = Literal["boundary", "end", "stop", "max_tokens", "context"]


class StreamEvent(NamedTuple):
    """Something to show now: generated text, or what `trainer.generate.chat` adds to it."""

    kind: Literal["text", "call", "cut_call", "result", "note"]
    text: str


class Reader(Protocol):
    """Reads a row's ids as they are drawn."""

    finish: Finish | None  # set when the row has ended
    ids: list[int]

    def allowed(self) -> Tensor:
        """Which ids may come next: V, bool."""

    def take(self, token: int) -> list[StreamEvent]:
        """Read one id; returns what can be shown now."""

    def close(self, finish: Finish) -> list[StreamEvent]:
        """The row ends because of `finish`; returns what was held back."""


@dataclass(frozen=True)
class Generation:
    """Text without the prompt, its ids, and what ended it."""

    text: str
    ids: tuple[int, ...]
    finish: Finish


def generate(model: LanguageModel, tokenizer: Tokenizer, settings: SampleSettings) -> Generation:
    """Continue `settings.prompt`, which begins a document; `UserError` if it is too long."""
    return generate_batch(model, tokenizer, [settings.prompt], settings)[0]


def generate_batch(
    model: LanguageModel, tokenizer: Tokenizer, prompts: Sequence[str], settings: SampleSettings
) -> list[Generation]:
    """Continue several prompts at once; row i has the seed `settings.seed` + i."""
    readers = [TextReader(tokenizer, settings.stop) for _ in prompts]
    texts = [""] * len(prompts)
    for row, event in stream(model, tokenizer, prompts, settings, readers):
        texts[row] += event.text
    return [
        Generation(text, tuple(reader.ids), reader.finish or "max_tokens")
        for text, reader in zip(texts, readers, strict=True)
    ]


def stream(
    model: LanguageModel,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    settings: SampleSettings,
    readers: Sequence[Reader],
) -> Iterator[tuple[int, StreamEvent]]:
    """Yield row and event as text is generated; each prompt begins a document."""
    ids = [[tokenizer.boundary, *tokenizer.encode(prompt)] for prompt in prompts]
    context = model.config.max_position_embeddings
    for prompt in ids:
        if len(prompt) > context:
            raise UserError(f"prompt: {len(prompt)} tokens, this model reads at most {context}")
    randoms = [torch.Generator().manual_seed(settings.seed + i) for i in range(len(prompts))]
    return stream_ids(model, tokenizer, ids, readers, randoms, settings)


@torch.no_grad()
def stream_ids(
    model: LanguageModel,
    tokenizer: Tokenizer,
    prompts: Sequence[list[int]],
    readers: Sequence[Reader],
    randoms: Sequence[torch.Generator],
    settings: SampleSettings,
    use_cache: bool = True,
) -> Iterator[tuple[int, StreamEvent]]:
    """Draw up to `max_tokens` ids after each prompt, fewer if the context is full.

    Yields row and event. `use_cache=False` reads all tokens again for each one, which tests the
    cache.
    """
    rows = [
        _Row(i, prompt, reader, random, settings)
        for i, (prompt, reader, random) in enumerate(zip(prompts, readers, randoms, strict=True))
    ]
    text = allowed_ids(tokenizer) if settings.repetition_penalty != 1 else None
    for row in rows:
        yield from row.begin(model.config.max_position_embeddings, text)
    rows = [row for row in rows if row.reader.finish is None]
    context = _Context(model, max((len(row.new) + row.left for row in rows), default=0), use_cache)
    was_training = model.training
    model.eval()
    try:
        while rows:
            for row, logits in zip(rows, context.read([row.new for row in rows]), strict=True):
                yield from row.take(logits)
            going = [i for i, row in enumerate(rows) if row.reader.finish is None]
            if going and len(going) < len(rows):
                context.keep(going)
            rows = [rows[i] for i in going]
    finally:
        model.train(was_training)


@dataclass
class _Row:
    """A row that is being generated."""

    number: int
    new: list[int]  # what the model has not read yet
    reader: Reader
    random: torch.Generator
    settings: SampleSettings
    left: int = 0  # ids that may still be drawn
    full: Finish = "max_tokens"  # what ends it when none is left
    text: Tensor | None = None  # V bool: ids that are penalized when seen; None: none is
    seen: Tensor | None = None

    def begin(self, context: int, text: Tensor | None) -> Iterator[tuple[int, StreamEvent]]:
        """Set how many ids may be drawn; the row ends at once if that is none."""
        room = context - len(self.new)
        self.left = min(self.settings.max_tokens, room)
        self.full = "max_tokens" if self.settings.max_tokens <= room else "context"
        if text is not None:
            self.text, self.seen = text, torch.zeros_like(text)
            self._see(self.new)
        if not self.left:
            yield from ((self.number, event) for event in self.reader.close(self.full))

    def take(self, logits: Tensor) -> Iterator[tuple[int, StreamEvent]]:
        """Draw the next id from `logits` (V); yields what can be shown now."""
        logits = logits.masked_fill(~self.reader.allowed(), -torch.inf)
        self.new = [pick(logits, self.settings, self.random, self.seen)]
        self.left -= 1
        self._see(self.new)
        events = self.reader.take(self.new[0])
        if self.reader.finish is None and not self.left:
            events = [*events, *self.reader.close(self.full)]
        yield from ((self.number, event) for event in events)

    def _see(self, ids: list[int]) -> None:
        if self.text is not None and self.seen is not None:
            self.seen[ids] = self.text[ids]


class _Context:
    """What a model has read: in its cache, or as ids to read again."""

    def __init__(self, model: LanguageModel, capacity: int, use_cache: bool) -> None:
        num_layers = model.config.settings.num_hidden_layers
        self.model, self.device = model, model.lm_head.weight.device
        self.cache = KeyValueCache(num_layers, capacity) if use_cache else None
        self.tokens: list[list[int]] = []

    def read(self, new: list[list[int]]) -> Tensor:
        """Read more ids of each row; returns logits (B x V, fp32, CPU) of the next id."""
        self.tokens = self.tokens or [[] for _ in new]
        for own, more in zip(self.tokens, new, strict=True):
            own.extend(more)
        rows = self.tokens if self.cache is None else new
        longest = max(map(len, rows))
        padding = self.model.config.boundary  # any id: no token attends to later ones
        padded = [row + [padding] * (longest - len(row)) for row in rows]
        hidden = self.model.model(torch.tensor(padded, device=self.device), self.cache)
        if self.cache is not None and len(set(map(len, rows))) > 1:
            self.cache.cut([len(row) for row in self.tokens])
        last = torch.tensor([len(row) - 1 for row in rows], device=self.device)
        head = self.model.lm_head(hidden[torch.arange(len(rows), device=self.device), last])
        return head.float().cpu()  # type: ignore[no-any-return]

    def keep(self, rows: list[int]) -> None:
        """Keep these rows only."""
        self.tokens = [self.tokens[row] for row in rows]
        if self.cache is not None:
            self.cache.keep(rows)


class TextReader:
    """Reads the text of a base model, up to the document boundary or a stop text."""

    def __init__(self, tokenizer: Tokenizer, stops: tuple[str, ...] = ()) -> None:
        self.finish: Finish | None = None
        self.ids: list[int] = []
        self._tokenizer, self._stream = tokenizer, TextStream(stops)
        self._allowed = allowed_ids(tokenizer, [tokenizer.boundary])

    def allowed(self) -> Tensor:
        """Ids of text, and the boundary."""
        return self._allowed

    def take(self, token: int) -> list[StreamEvent]:
        """Read one id; returns the text that it completes."""
        if token == self._tokenizer.boundary:
            return self.close("boundary")
        self.ids.append(token)
        text = self._stream.take(self._tokenizer.decode_bytes([token]))
        if self._stream.stopped:
            self.finish = "stop"
        return [StreamEvent("text", text)] if text else []

    def close(self, finish: Finish) -> list[StreamEvent]:
        """Return the text that was held back."""
        text = self._stream.close()
        self.finish = "stop" if self._stream.stopped else finish
        return [StreamEvent("text", text)] if text else []


def allowed_ids(tokenizer: Tokenizer, control: Iterable[int] = ()) -> Tensor:
    """Mask of the ids that may be drawn, V bool: those that text can produce, and `control`."""
    allowed = torch.zeros(tokenizer.padded_vocab_size, dtype=torch.bool)
    allowed[[*tokenizer.token_bytes, *control]] = True
    return allowed

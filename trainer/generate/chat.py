"""A conversation with a model: turns in, replies out as they are written, tool calls answered.

Every reply is written anew from the turns so far, as `schemas.chat` frames them, so the model reads
what training showed it. What may come next follows the grammar: text, a call, the end of the turn;
no other control token is ever drawn. Where the turns no longer fit the model's context, the oldest
exchanges are left out, and the user is told.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator

import torch
from torch import Tensor

from schemas.chat import FOLLOWS, HOLDS_TEXT, Place, Turn, next_place, parse_reply, read_call
from schemas.chat import reply_prompt as prompt_of
from schemas.errors import UserError
from schemas.tokenizer import Tokenizer
from trainer.generate.generate import Finish, Piece, allowed_ids, write
from trainer.generate.search import Passage
from trainer.generate.streaming import TextStream
from trainer.model.model import LanguageModel
from trainer.settings import SampleSettings

Tool = Callable[[str], list[Passage]]  # a query's answers, the best first
Masks = dict[Place, Tensor]  # V bool: what may come next at a place


def grammar_masks(tokenizer: Tokenizer) -> Masks:
    """For each place in a reply, which ids may come next."""
    masks: Masks = {}
    for place, follows in FOLLOWS.items():
        control = [tokenizer.chat_ids[name] for name in follows]
        masks[place] = allowed_ids(tokenizer, control)
        if place not in HOLDS_TEXT:
            masks[place] &= ~allowed_ids(tokenizer)
    return masks


class ReplyReader:
    """Reads a reply's ids: text as it comes, a call once it is whole."""

    def __init__(self, tokenizer: Tokenizer, masks: Masks, stops: tuple[str, ...] = ()) -> None:
        self.finish: Finish | None = None
        self.ids: list[int] = []
        self.text = ""  # without a stop text
        self._tokenizer, self._masks = tokenizer, masks
        self._place: Place = "text"
        self._stream = TextStream(stops)

    def allowed(self) -> Tensor:
        """What the grammar has here."""
        return self._masks[self._place]

    def take(self, token: int) -> list[Piece]:
        """Read one id; what can be shown now."""
        before, after = self._place, next_place(self._place, token, self._tokenizer)
        assert after is not None, f"id {token} was drawn where the grammar has none"
        self.ids.append(token)
        self._place = after
        if after == before:
            data = self._tokenizer.decode_bytes([token]) if after == "text" else b""
            return self._say(self._stream.take(data))
        pieces = self._say(self._stream.close()) if before == "text" else []
        if after == "called":
            pieces.append(Piece("call", self.calls[-1]))
        if after == "end":
            self.finish = self.finish or "end"
        return pieces

    def close(self, finish: Finish) -> list[Piece]:
        """The reply is cut: what was held back, or the call that does not end."""
        self.finish = finish
        if self._place == "call":
            return [Piece("cut_call", parse_reply(self.ids, self._tokenizer).cut_call or "")]
        return self._say(self._stream.close())

    @property
    def calls(self) -> tuple[str, ...]:
        """The whole calls so far."""
        return parse_reply(self.ids, self._tokenizer).calls

    def _say(self, text: str) -> list[Piece]:
        self.text += text
        if self._stream.stopped:
            self.finish = "stop"
        return [Piece("text", text)] if text else []


class Chat:
    """A conversation. `turns` begin with the system's, if there is one.

    `search` answers calls of a tool of that name, at most `max_tool_calls` for a message.
    """

    def __init__(
        self,
        model: LanguageModel,
        tokenizer: Tokenizer,
        settings: SampleSettings,
        system: str = "",
        search: Tool | None = None,
        max_tool_calls: int = 3,
    ) -> None:
        self.model, self.tokenizer, self.settings = model, tokenizer, settings
        self.search, self.max_tool_calls = search, max_tool_calls
        self.turns: list[Turn] = []
        self.reset(system)
        self._masks = grammar_masks(tokenizer)
        self._random = torch.Generator().manual_seed(settings.seed)

    def reset(self, system: str | None = None) -> None:
        """Begin anew, with another system text or (None) the same."""
        if system is None:
            self.turns = [turn for turn in self.turns[:1] if turn.role == "system"]
        else:
            self.turns = [Turn("system", (system,))] if system.strip() else []

    def say(self, text: str) -> Generator[Piece, None, None]:
        """Say something as the user; yields what the reply shows as it is written.

        A reply that is broken off (the generator closed) stays as far as it came. `UserError` on
        a message that does not fit the context; it is forgotten then, as one without a reply is.
        """
        before = len(self.turns)
        message = Turn("user", (text,))
        self.turns.append(message)
        try:
            yield from self._answer()
        finally:
            before = next((i for i, turn in enumerate(self.turns) if turn is message), before)
            while len(self.turns) > before and self.turns[-1].role != "assistant":
                self.turns.pop()

    def _answer(self) -> Iterator[Piece]:
        """Replies, and results of tools between them."""
        left = self.max_tool_calls
        while True:
            reader = ReplyReader(self.tokenizer, self._masks, self.settings.stop)
            yield from self._reply(reader)
            queries = [_query(call) for call in reader.calls]
            if self.search is None or reader.finish != "end" or not queries or None in queries:
                return
            left -= len(queries)
            if left < 0:
                yield Piece("note", f"no more than {self.max_tool_calls} tool calls a message")
                return
            room = self._room_for_results(len(queries))
            if room < 1:
                yield Piece("note", "the context is full: no room for what the tool says")
                return
            for query in queries:
                result = self._result(self.search(query or ""), room)
                self.turns.append(Turn("tool", (result,)))
                yield Piece("result", result)

    def _reply(self, reader: ReplyReader) -> Iterator[Piece]:
        left_out = self._forget_oldest()
        if left_out:
            yield Piece("note", f"left out, the context is full: the {left_out} oldest turns")
        prompt = prompt_of(self.turns, self.tokenizer)
        rows = write(self.model, self.tokenizer, [prompt], [reader], [self._random], self.settings)
        try:
            for _, piece in rows:
                yield piece
        finally:
            if reader.text or reader.calls:
                self.turns.append(Turn("assistant", (reader.text,), reader.calls))
        yield from _remarks(reader)

    def _forget_oldest(self) -> int:
        """Drop the oldest exchanges that do not fit; returns how many turns those are."""
        head, starts = self._exchanges()
        for start in [head, *starts[1:]]:
            size = self._size(head, start)
            if size <= self._most:
                del self.turns[head:start]
                return start - head
        context = self.model.config.max_position_embeddings
        raise UserError(
            f"message: {size} tokens with the turns that belong to it, at most {self._most} fit: "
            f"this model reads {context}, {context - self._most} are kept for the reply"
        )

    @property
    def _most(self) -> int:
        """Tokens that a prompt may have; a quarter of the context is kept for the reply."""
        context = self.model.config.max_position_embeddings
        return context - min(self.settings.max_tokens, context // 4)

    def _exchanges(self) -> tuple[int, list[int]]:
        """Where the turns begin that may be forgotten, and those of the user among them."""
        head = int(self.turns[0].role == "system")
        return head, [i for i, turn in enumerate(self.turns) if i >= head and turn.role == "user"]

    def _size(self, head: int, start: int) -> int:
        return len(prompt_of([*self.turns[:head], *self.turns[start:]], self.tokenizer))

    def _room_for_results(self, count: int) -> int:
        """Tokens that each of `count` results may have: all together a quarter of the context."""
        head, starts = self._exchanges()
        room = self._most - self._size(head, starts[-1])
        quarter = self.model.config.max_position_embeddings // 4
        return min(quarter, room) // count - 2  # the result's control tokens

    def _result(self, passages: list[Passage], most: int) -> str:
        """As many whole passages as `most` tokens hold, with their URLs where those fit, too."""
        kept: list[str] = []
        for one in passages:
            forms = [f"{one.text}\n{one.url}", one.text] if one.url else [one.text]
            longer = (form for form in forms if self._fits("\n\n".join([*kept, form]), most))
            if (form := next(longer, None)) is None:
                break
            kept.append(form)
        if kept or not passages:
            return "\n\n".join(kept) or "Nothing was found."
        ids = self.tokenizer.encode(passages[0].text)[:most]
        return self.tokenizer.decode_bytes(ids).decode("utf-8", errors="ignore")

    def _fits(self, text: str, most: int) -> bool:
        return len(self.tokenizer.encode(text)) <= most


def reply_text(
    model: LanguageModel, tokenizer: Tokenizer, settings: SampleSettings, system: str = ""
) -> str:
    """The reply to `settings.prompt` as one text, calls included: a sample while training."""
    pieces = list(Chat(model, tokenizer, settings, system).say(settings.prompt))
    return "".join(shown(piece) for piece in pieces if piece.kind != "note")


def shown(piece: Piece) -> str:
    """A piece as it is shown; all but text stand on a line of their own."""
    marks = {"call": "tool call", "cut_call": "tool call, cut", "result": "tool result"}
    return piece.text if piece.kind == "text" else f"[{marks[piece.kind]}] {piece.text}"


def _remarks(reader: ReplyReader) -> Iterator[Piece]:
    """What the reply itself does not show."""
    if reader.finish in ("max_tokens", "context"):
        yield Piece("note", f"the reply was cut after {len(reader.ids)} tokens")
    elif not reader.text and not reader.calls:
        yield Piece("note", "the model said nothing")


def _query(call: str) -> str | None:
    """What a call of the search tool asks for; None for any other call."""
    parsed = read_call(call)
    query = parsed.arguments.get("query") if parsed and parsed.name == "search" else None
    return query if isinstance(query, str) else None

"""A conversation with a model: messages in, streamed replies out, tool calls answered.

Every prompt is all turns so far as `schemas.chat` frames them, so the model reads what it was
trained on. The grammar decides which ids may follow: text, a tool call, the end of the turn; no
other control token is ever drawn. When the turns exceed the model's context, the oldest exchanges
are dropped, with a note. Lengths are in tokens. Raises `UserError` for a message that does not fit.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator

import torch
from torch import Tensor

from schemas.chat import FOLLOWS, HOLDS_TEXT, Place, Turn, next_place, parse_reply, read_call
from schemas.chat import reply_prompt as prompt_of
from schemas.errors import UserError
from schemas.tokenizer import Tokenizer
from trainer.generate.generate import Finish, StreamEvent, allowed_ids, stream_ids
from trainer.generate.search import Passage
from trainer.generate.streaming import TextStream
from trainer.model.model import LanguageModel
from trainer.settings import SampleSettings

SearchTool = Callable[[str], list[Passage]]  # the passages for a query, best first
Masks = dict[Place, Tensor]  # V bool: which ids may follow at a place


def reply_text(
    model: LanguageModel, tokenizer: Tokenizer, settings: SampleSettings, system: str = ""
) -> str:
    """The reply to `settings.prompt` as one text, calls included: a sample during training."""
    events = list(Chat(model, tokenizer, settings, system).say(settings.prompt))
    return "".join(render(event) for event in events if event.kind != "note")


def render(event: StreamEvent) -> str:
    """An event as text for people; all but text belong on a line of their own."""
    marks = {"call": "tool call", "cut_call": "tool call, cut", "result": "tool result"}
    return event.text if event.kind == "text" else f"[{marks[event.kind]}] {event.text}"


class Chat:
    """A conversation. `turns` begin with the system prompt, if there is one.

    `search` answers calls of the tool of that name, at most `max_tool_calls` per message.
    """

    def __init__(
        self,
        model: LanguageModel,
        tokenizer: Tokenizer,
        settings: SampleSettings,
        system: str = "",
        search: SearchTool | None = None,
        max_tool_calls: int = 3,
    ) -> None:
        self.model, self.tokenizer, self.settings = model, tokenizer, settings
        self.search, self.max_tool_calls = search, max_tool_calls
        self.turns: list[Turn] = []
        self.reset(system)
        self._masks = grammar_masks(tokenizer)
        self._random = torch.Generator().manual_seed(settings.seed)

    def reset(self, system: str | None = None) -> None:
        """Start over, with another system prompt or (None) the same."""
        if system is None:
            self.turns = [turn for turn in self.turns[:1] if turn.role == "system"]
        else:
            self.turns = [Turn("system", (system,))] if system.strip() else []

    def say(self, text: str) -> Generator[StreamEvent, None, None]:
        """Send a message as the user; yields the reply's events as they are generated.

        Closing the generator interrupts the reply; what was generated stays a turn. A message
        without a reply is removed from the turns, also one that raises `UserError`.
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

    def _answer(self) -> Iterator[StreamEvent]:
        """Replies, with tool results between them."""
        left = self.max_tool_calls
        while True:
            reader = ReplyReader(self.tokenizer, self._masks, self.settings.stop)
            yield from self._reply(reader)
            queries = [_search_query(call) for call in reader.calls]
            if self.search is None or reader.finish != "end" or not queries or None in queries:
                return
            left -= len(queries)
            if left < 0:
                yield StreamEvent("note", f"at most {self.max_tool_calls} tool calls per message")
                return
            room = self._room_for_results(len(queries))
            if room < 1:
                yield StreamEvent("note", "the context is full: no room for a tool result")
                return
            for query in queries:
                result = self._tool_result(self.search(query or ""), room)
                self.turns.append(Turn("tool", (result,)))
                yield StreamEvent("result", result)

    def _reply(self, reader: ReplyReader) -> Iterator[StreamEvent]:
        """One reply of the model, which becomes a turn, and notes on what it does not show."""
        dropped = self._drop_oldest()
        if dropped:
            yield StreamEvent("note", f"the context is full: dropped the {dropped} oldest turns")
        prompt, randoms = prompt_of(self.turns, self.tokenizer), [self._random]
        rows = stream_ids(self.model, self.tokenizer, [prompt], [reader], randoms, self.settings)
        try:
            for _, event in rows:
                yield event
        finally:
            if reader.text or reader.calls:
                self.turns.append(Turn("assistant", (reader.text,), reader.calls))
        if reader.finish in ("max_tokens", "context"):
            yield StreamEvent("note", f"the reply was cut after {len(reader.ids)} tokens")
        elif not reader.text and not reader.calls:
            yield StreamEvent("note", "the reply is empty")

    def _drop_oldest(self) -> int:
        """Drop the oldest exchanges that do not fit; returns how many turns those are."""
        head, starts = self._exchanges()
        for start in [head, *starts[1:]]:
            size = self._prompt_size(head, start)
            if size <= self._max_prompt:
                del self.turns[head:start]
                return start - head
        context = self.model.config.max_position_embeddings
        raise UserError(
            f"message: {size} tokens with system prompt and tool results, at most "
            f"{self._max_prompt} fit: {context - self._max_prompt} of the model's context of "
            f"{context} are reserved for the reply; shorten the message"
        )

    @property
    def _max_prompt(self) -> int:
        """Tokens that a prompt may have; up to a quarter of the context is for the reply."""
        context = self.model.config.max_position_embeddings
        return context - min(self.settings.max_tokens, context // 4)

    def _exchanges(self) -> tuple[int, list[int]]:
        """How many turns are the system's (0 or 1), and where each exchange begins."""
        head = int(self.turns[0].role == "system")
        return head, [i for i, turn in enumerate(self.turns) if i >= head and turn.role == "user"]

    def _prompt_size(self, head: int, start: int) -> int:
        return len(prompt_of([*self.turns[:head], *self.turns[start:]], self.tokenizer))

    def _room_for_results(self, count: int) -> int:
        """Tokens for each of `count` results; together at most a quarter of the context."""
        head, starts = self._exchanges()
        room = self._max_prompt - self._prompt_size(head, starts[-1])
        quarter = self.model.config.max_position_embeddings // 4
        return min(quarter, room) // count - 2  # the result's control tokens

    def _tool_result(self, passages: list[Passage], most: int) -> str:
        """As many whole passages as fit into `most` tokens, with their URLs if those fit, too."""

        def size(texts: list[str]) -> int:
            return len(self.tokenizer.encode("\n\n".join(texts)))

        kept: list[str] = []
        for one in passages:
            forms = [f"{one.text}\n{one.url}", one.text] if one.url else [one.text]
            fitting = next((form for form in forms if size([*kept, form]) <= most), None)
            if fitting is None:
                break
            kept.append(fitting)
        if kept or not passages:
            return "\n\n".join(kept) or "Nothing was found."
        ids = self.tokenizer.encode(passages[0].text)[:most]
        return self.tokenizer.decode_bytes(ids).decode("utf-8", errors="ignore")


def _search_query(call: str) -> str | None:
    """The query of a call of the search tool; None for any other call."""
    parsed = read_call(call)
    query = parsed.arguments.get("query") if parsed and parsed.name == "search" else None
    return query if isinstance(query, str) else None


def grammar_masks(tokenizer: Tokenizer) -> Masks:
    """For each place in a reply, which ids may follow."""
    masks: Masks = {}
    for place, follows in FOLLOWS.items():
        control = [tokenizer.chat_ids[name] for name in follows]
        masks[place] = allowed_ids(tokenizer, control)
        if place not in HOLDS_TEXT:
            masks[place] &= ~allowed_ids(tokenizer)
    return masks


class ReplyReader:
    """Reads a reply's ids: text as it comes, a call once it is complete."""

    def __init__(self, tokenizer: Tokenizer, masks: Masks, stops: tuple[str, ...] = ()) -> None:
        self.finish: Finish | None = None
        self.ids: list[int] = []
        self.text = ""  # without a stop text
        self._tokenizer, self._masks = tokenizer, masks
        self._place: Place = "text"
        self._stream = TextStream(stops)

    def allowed(self) -> Tensor:
        """The ids that the grammar allows here: V, bool."""
        return self._masks[self._place]

    def take(self, token: int) -> list[StreamEvent]:
        """Read one id; returns what can be shown now."""
        before, after = self._place, next_place(self._place, token, self._tokenizer)
        assert after is not None, f"id {token} was drawn where the grammar does not allow it"
        self.ids.append(token)
        self._place = after
        if after == before:
            data = self._tokenizer.decode_bytes([token]) if after == "text" else b""
            return self._text(self._stream.take(data))
        events = self._text(self._stream.close()) if before == "text" else []
        if after == "called":
            events.append(StreamEvent("call", self.calls[-1]))
        if after == "end":
            self.finish = self.finish or "end"
        return events

    def close(self, finish: Finish) -> list[StreamEvent]:
        """The reply is cut; returns the text that was held back, or the unfinished call."""
        self.finish = finish
        if self._place == "call":
            return [StreamEvent("cut_call", parse_reply(self.ids, self._tokenizer).cut_call or "")]
        return self._text(self._stream.close())

    @property
    def calls(self) -> tuple[str, ...]:
        """The complete calls so far."""
        return parse_reply(self.ids, self._tokenizer).calls

    def _text(self, text: str) -> list[StreamEvent]:
        self.text += text
        if self._stream.stopped:
            self.finish = "stop"
        return [StreamEvent("text", text)] if text else []

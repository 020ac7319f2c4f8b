"""One row of a chat dataset -> the conversation that it holds, in any of the known forms.

A form is recognised by its fields that are not null (`FORMS`, the first that fits). Fields are
taken as they are: none is joined to another, and templates that a dataset wrote into its texts
stay. Cost: one walk over the row.

Sources of the forms: OpenAI's chat completions API (messages), FastChat's data/dummy_conversation
(ShareGPT), Stanford Alpaca, databricks-dolly-15k, Open Assistant's exported message trees.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from schemas import json_text
from schemas.chat import Role, Turn

_NAMES: dict[Role, tuple[str, ...]] = {
    "system": ("system", "developer"),
    "user": ("user", "human", "prompter"),
    "assistant": ("assistant", "gpt", "chatgpt", "bing", "bard", "model"),
    "tool": ("tool", "function", "observation", "function_response", "tool_response"),
}
ROLES = {name: role for role, names in _NAMES.items() for name in names}
CALLS = ("function_call", "tool_call")  # ShareGPT: messages of the assistant that are calls alone
IDS = ("id", "conversation_id", "message_tree_id", "uuid", "prompt_id")
BETWEEN = "\n\n"  # between an instruction and its input


class RowError(Exception):
    """A row without a usable conversation: a reason to count, and what exactly is wrong."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


@dataclass(frozen=True)
class Conversation:
    """Turns in order, at least one of them learned; `id` and `url` as the row gives them."""

    form: str
    id: str | None
    url: str | None
    turns: tuple[Turn, ...]


def form_of(row: Any) -> str:
    """The name of a row's form; `RowError` where it has no known one."""
    if not isinstance(row, dict):
        raise RowError("not_an_object", f"{_kind(row)}, where an object with fields must be")
    for name, (fits, _) in FORMS.items():
        if fits(row):
            return name
    named = (_shown(name) for name in row if row[name] is not None)
    fields = ", ".join(itertools.islice(named, 8)) or "none"
    raise RowError(
        "unknown_form", f"fields with a value: {fields}; the forms known are {', '.join(FORMS)}"
    )


def read_row(row: Any) -> Conversation:
    """The conversation of a row's JSON value; `RowError` says why there is none.

    A system turn without text is left out. An empty turn of a user or an assistant is an error: the
    model would learn to say nothing.
    """
    form = form_of(row)
    _, read = FORMS[form]
    turns = tuple(turn for turn in read(row) if turn.role != "system" or _says(turn))
    if not turns:
        raise RowError("empty", "no turn at all")
    for place, turn in enumerate(turns, 1):
        if turn.role in ("user", "assistant") and not _says(turn):
            raise RowError("empty_turn", f"turn {place} ({turn.role}) has no text")
    if not any(turn.learned for turn in turns):
        raise RowError("nothing_to_learn", "no turn of an assistant that is to be learned")
    return Conversation(form, row_id(row), row_url(row), turns)


def row_id(row: Any) -> str | None:
    """A row's own id, the first of `IDS` that it has; None without one."""
    if isinstance(row, dict):
        for name in IDS:
            value = row.get(name)
            if isinstance(value, int) and not isinstance(value, bool):
                return str(value)
            if isinstance(value, str) and value.strip():
                return _characters(value)
    return None


def row_url(row: Any) -> str | None:
    """The URL of a row's source; None without one."""
    value = row.get("url") if isinstance(row, dict) else None
    return _characters(value) if isinstance(value, str) and value else None


def _messages(name: str) -> Callable[[Mapping[str, Any]], Iterator[Turn]]:
    """OpenAI's and ShareGPT's form: a list of messages, the row's system text and tools first."""

    def read(row: Mapping[str, Any]) -> Iterator[Turn]:
        yield from _system(row)
        for place, message in enumerate(_list(row[name], name)):
            yield from _message(message, f"{name}[{place}]")

    return read


def _system(row: Mapping[str, Any]) -> Iterator[Turn]:
    """The declared tools as a system turn, then the row's system text."""
    tools = row.get("tools")
    if tools:
        said = tools if isinstance(tools, str) else _json(tools, "bad_field", "tools")
        yield Turn("system", (_characters(said),))
    if row.get("system") is not None:
        yield Turn("system", (_string(row["system"], "system"),))


def _message(message: Any, place: str) -> Iterator[Turn]:
    if not isinstance(message, dict):
        raise RowError("bad_field", f"{place} is {_kind(message)}, not an object")
    named = "role" if "role" in message else "from"
    name = message.get(named)
    content = message.get("content" if "content" in message else "value")
    if name in CALLS:
        yield Turn("assistant", (), _written_calls(content, place), _is_learned(message, place))
        return
    role = ROLES.get(name) if isinstance(name, str) else None
    if role is None:
        raise RowError("unknown_role", f"{place}.{named} = {_shown(name)}")
    texts = _texts(content, place)
    if role == "assistant":
        yield Turn(role, texts, _calls(message, place), _is_learned(message, place))
    else:
        yield Turn(role, texts)


def _texts(content: Any, place: str) -> tuple[str, ...]:
    """The content's text, or the texts of its parts; none where it is null."""
    if content is None:
        return ()
    if isinstance(content, str):
        return (_characters(content),)
    parts = _list(content, f"{place}.content")
    return tuple(_part(part, f"{place}.content[{i}]") for i, part in enumerate(parts))


def _part(part: Any, place: str) -> str:
    if isinstance(part, str):
        return _characters(part)
    kind = part.get("type") if isinstance(part, dict) else None
    if kind != "text":
        raise RowError("unsupported_content", f"{place}.type = {_shown(kind)}; only text is read")
    return _string(part.get("text"), f"{place}.text")


def _is_learned(message: Mapping[str, Any], place: str) -> bool:
    """OpenAI's `weight`: an assistant's message of weight 0 is not a target."""
    weight = message.get("weight")
    if weight not in (None, 0, 1):
        raise RowError("bad_field", f"{place}.weight = {_shown(weight)}; must be 0 or 1")
    return weight != 0


def _calls(message: Mapping[str, Any], place: str) -> tuple[str, ...]:
    """`tool_calls`, or the one `function_call` of OpenAI's older form."""
    calls = _list(message.get("tool_calls") or [], f"{place}.tool_calls")
    if message.get("function_call"):
        calls = [*calls, message["function_call"]]
    return tuple(_call(call, place) for call in calls)


def _written_calls(content: Any, place: str) -> tuple[str, ...]:
    """Calls written as a message's text: a JSON object, or a list of them."""
    found = _parsed(content, place) if isinstance(content, str) else content
    calls = found if isinstance(found, list) else [found]
    return tuple(_call(call, place) for call in calls)


def _call(call: Any, place: str) -> str:
    """`{"name": ..., "arguments": ...}` as JSON text, arguments as JSON values."""
    function = call.get("function", call) if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise RowError("bad_tool_call", f"{place}: a call without a function's name")
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        arguments = _parsed(arguments, place) if arguments.strip() else {}
    made = {"name": function["name"], "arguments": {} if arguments is None else arguments}
    return _characters(_json(made, "bad_tool_call", place))


def _parsed(text: str, place: str) -> Any:
    try:
        return json_text.loads(text)
    except ValueError as error:
        raise RowError("bad_tool_call", f"{place}: not JSON: {error}") from None


def _json(value: Any, reason: str, place: str) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (ValueError, RecursionError) as error:
        raise RowError(reason, f"{place}: cannot be written as JSON: {error}") from None


def _pair(
    asked: str, about: str | None, answers: tuple[str, ...]
) -> Callable[[Mapping[str, Any]], Iterator[Turn]]:
    """One question and one answer, in fields of their own (Alpaca, Dolly, prompt and response)."""

    def read(row: Mapping[str, Any]) -> Iterator[Turn]:
        yield from _system(row)
        question = [_string(row[asked], asked)]
        if about and row.get(about):
            question += [BETWEEN, _string(row[about], about)]
        yield Turn("user", tuple(question))
        answer = next(name for name in answers if row.get(name) is not None)
        yield Turn("assistant", (_string(row[answer], answer),), learned=True)

    return read


def _tree(row: Mapping[str, Any]) -> Iterator[Turn]:
    """The best path of an Open Assistant tree: one conversation, no text twice.

    Of assistants' replies, the best ranked (0 is best, no rank is last, then the file's order); of
    users', the first that an assistant answered. Messages that were deleted or failed their review
    are skipped with all below them. The path ends with an assistant.
    """
    message, place = row["prompt"], "prompt"
    while message is not None:
        yield from _message({"content": message.get("text"), "role": message.get("role")}, place)
        place += ".reply"
        replies = _replies(message, place)
        answers = [reply for reply in replies if reply.get("role") == "assistant"]
        answered = [
            reply
            for reply in replies
            if any(below.get("role") == "assistant" for below in _replies(reply, place))
        ]
        message = min(answers, key=_rank) if answers else next(iter(answered), None)


def _replies(message: Mapping[str, Any], place: str) -> list[Mapping[str, Any]]:
    """The replies that were neither deleted nor failed their review."""
    replies = _list(message.get("replies") or [], f"{place}.replies")
    return [
        reply
        for reply in replies
        if isinstance(reply, dict)
        and not reply.get("deleted")
        and reply.get("review_result") is not False
    ]


def _rank(message: Mapping[str, Any]) -> float:
    rank = message.get("rank")
    return rank if isinstance(rank, int | float) else float("inf")


def _says(turn: Turn) -> bool:
    return bool(turn.calls) or any(text.strip() for text in turn.texts)


def _list(value: Any, place: str) -> list[Any]:
    if not isinstance(value, list):
        raise RowError("bad_field", f"{place} is {_kind(value)}, not a list")
    return value


def _string(value: Any, place: str) -> str:
    if not isinstance(value, str):
        raise RowError("bad_field", f"{place} is {_kind(value)}, not a text")
    return _characters(value)


def _characters(text: str) -> str:
    """`text` with U+FFFD for halves of surrogate pairs, which JSON can hold."""
    if text.isascii():
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false"}
    return "null" if value is None else names.get(type(value), "a number")


def _shown(value: Any) -> str:
    if isinstance(value, dict | list):  # perhaps nested too deep to be written out
        return _kind(value)
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _has(*names: str) -> Callable[[Mapping[str, Any]], bool]:
    return lambda row: all(row.get(name) is not None for name in names)


def _is_tree(row: Mapping[str, Any]) -> bool:
    return isinstance(row.get("prompt"), dict) and "replies" in row["prompt"]


def _is_prompt(row: Mapping[str, Any]) -> bool:
    answers = (row.get("response"), row.get("completion"))
    return row.get("prompt") is not None and any(answer is not None for answer in answers)


# Form -> whether a row has it, and how its turns are read; the first that fits.
_Fits = Callable[[Mapping[str, Any]], bool]
_Reads = Callable[[Mapping[str, Any]], Iterator[Turn]]
FORMS: dict[str, tuple[_Fits, _Reads]] = {
    "openai": (_has("messages"), _messages("messages")),
    "sharegpt": (_has("conversations"), _messages("conversations")),
    "oasst": (_is_tree, _tree),
    "alpaca": (_has("instruction", "output"), _pair("instruction", "input", ("output",))),
    "dolly": (_has("instruction", "response"), _pair("instruction", "context", ("response",))),
    "prompt": (_is_prompt, _pair("prompt", None, ("response", "completion"))),
}

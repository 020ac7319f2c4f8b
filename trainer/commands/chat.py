"""The command `trainer chat`: a conversation in the terminal, from a pipe, or of one message."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import io
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from schemas.errors import UserError
from trainer.commands.sample import add_checkpoint, add_drawing, settings_of
from trainer.settings import SampleSettings

if TYPE_CHECKING:  # torch takes seconds; --help should not
    from trainer.generate.chat import Chat
    from trainer.generate.streaming import Screen
    from trainer.model.checkpoint import Checkpoint

_CHAT = """\
Talk with a model that was fine-tuned on conversations.

In the terminal, where /help lists what else it understands:
  trainer chat --checkpoint demo-chat/assistant

One message, or a line a message:
  trainer chat --checkpoint demo-chat/assistant --prompt "What is a mill?"
  trainer chat --checkpoint demo-chat/assistant --system "Be brief." < questions.txt

Calls of a tool named search answered from the documents of a corpus:
  trainer chat --checkpoint demo-chat/assistant --search demo/corpus --prompt "Who mills?"
"""

_HELP = """\
/system TEXT      begin anew with this system text (without TEXT: with none)
/reset            begin anew with the same system text
/temperature X    0: the likeliest token; 1: as the model says
/help             this
/quit             end, as Ctrl-D does; Ctrl-C breaks a reply off"""


def add_parser(commands: Any) -> None:
    """Add `trainer chat` to the command line's subparsers."""
    command = commands.add_parser(
        "chat",
        help="talk with a model",
        description=_CHAT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.set_defaults(run=run)
    add_checkpoint(command)
    add = command.add_argument
    add("--prompt", metavar="TEXT", help="say this, print the reply and end")
    add("--system", default="", metavar="TEXT", help="what the model is told before all else")
    add(
        "--search", type=Path, metavar="ROOT_OR_JSONL",
        help="answer calls of the tool search from these documents",
    )  # fmt: skip
    add("--max-tool-calls", type=int, default=3, metavar="N", help="for one message (3)")
    add_drawing(command, max_tokens=256)


def run(arguments: argparse.Namespace) -> None:
    """`trainer chat`."""
    from trainer.distributed import ranks
    from trainer.generate.streaming import Screen
    from trainer.model import checkpoint

    if arguments.max_tool_calls < 0:
        raise UserError(f"--max-tool-calls {arguments.max_tool_calls}: must be at least 0")
    if arguments.prompt is not None and not arguments.prompt.strip():
        raise UserError(f"--prompt {arguments.prompt!r}: must say something")
    settings = settings_of(arguments, "trainer chat")
    with ranks(arguments.device) as group:
        loaded, screen = checkpoint.load(arguments.checkpoint, group.device), Screen()
        chat = _chat(arguments, settings, loaded, screen)
        if arguments.prompt is not None:
            say(chat, arguments.prompt, screen)
        elif sys.stdin.isatty():
            size = f"{loaded.model.num_parameters:,} parameters, context {_context(loaded)} tokens"
            screen.line(f"{loaded.folder}: {size}. /help lists the commands.")
            talk(chat, _asked(screen), screen, interactive=True)
        else:
            talk(chat, _piped(), screen)


def talk(chat: Chat, lines: Iterator[str], screen: Screen, interactive: bool = False) -> None:
    """Take each line as a message or a command, up to /quit or the last."""
    for line in lines:
        if line.strip() == "/quit":
            return
        try:
            if line.startswith("/"):
                command(chat, line, screen)
            elif line.strip():
                say(chat, line, screen, interactive)
        except UserError as error:
            if not interactive:
                raise
            screen.remark(f"error: {error}")


def say(chat: Chat, text: str, screen: Screen, interactive: bool = False) -> None:
    """Say `text` and show the reply as it is written; Ctrl-C breaks it off where interactive."""
    from trainer.generate.chat import shown

    pieces = chat.say(text)
    try:
        for piece in pieces:
            if piece.kind == "note":
                screen.remark(piece.text)
            elif piece.kind == "text":
                screen.text(piece.text)
            else:
                screen.line(shown(piece))
    except KeyboardInterrupt:
        pieces.close()
        if not interactive:
            raise
        screen.remark("broken off")
    screen.end_line()


def command(chat: Chat, line: str, screen: Screen) -> None:
    """Do what a line that begins with / says; `UserError` on one that says nothing."""
    name, _, value = line.partition(" ")
    if name == "/help":
        screen.line(_HELP)
    elif name == "/reset":
        chat.reset()
        screen.remark("begun anew")
    elif name == "/system":
        chat.reset(value.strip())
        screen.remark("begun anew with this system text" if value.strip() else "no system text")
    elif name == "/temperature":
        chat.settings = _with_temperature(chat, value)
        screen.remark(f"temperature {chat.settings.temperature:g}")
    else:
        raise UserError(f"{name}: no command; /help lists them (a message begins without /)")


def _with_temperature(chat: Chat, value: str) -> SampleSettings:
    try:
        return dataclasses.replace(chat.settings, temperature=float(value))
    except ValueError:
        raise UserError(f"/temperature {value}: must be a number of at least 0") from None


def _chat(
    arguments: argparse.Namespace, settings: SampleSettings, loaded: Checkpoint, screen: Screen
) -> Chat:
    from trainer.generate.chat import Chat
    from trainer.generate.search import PASSAGE_WORDS, open_search

    if loaded.state.get("kind") != "sft":
        screen.remark(f"{loaded.folder}: a base model; it was never shown a conversation")
    search = None
    if arguments.search is not None:
        words = max(20, min(PASSAGE_WORDS, _context(loaded) // 10))  # that a result holds one whole
        index = open_search(arguments.search, words)
        screen.remark(f"search: {len(index.passages):,} passages of {arguments.search}")
        search = index.best
    return Chat(
        loaded.model, loaded.tokenizer, settings, arguments.system, search,
        arguments.max_tool_calls,
    )  # fmt: skip


def _context(loaded: Checkpoint) -> int:
    return loaded.model.config.max_position_embeddings


def _asked(screen: Screen) -> Iterator[str]:
    """Lines that a person writes, up to Ctrl-D, or Ctrl-C where nothing is being written."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  # input() then has a history and arrow keys
    while True:
        try:
            yield input("> ")
        except (EOFError, KeyboardInterrupt):
            screen.line("")
            return


def _piped() -> Iterator[str]:
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")
    return (line.rstrip("\r\n") for line in sys.stdin)

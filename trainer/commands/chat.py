"""`trainer chat`: a conversation in the terminal, from a pipe, or of one message.

Replies go to standard output, remarks to standard error. In a terminal, errors are remarks and
Ctrl-C interrupts a reply; from a pipe, the first `UserError` ends the command.
"""

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
from trainer.commands import flags

if TYPE_CHECKING:  # torch takes seconds; --help should not
    from trainer.generate.chat import Chat
    from trainer.generate.streaming import Screen

_CHAT = """\
Chat with a model that was fine-tuned on conversations.

Chat in the terminal; /help lists the commands:
  trainer chat --checkpoint demo-chat/assistant

Send one message, or one message per line:
  trainer chat --checkpoint demo-chat/assistant --prompt "What is a mill?"
  trainer chat --checkpoint demo-chat/assistant --system "Be brief." < questions.txt

Answer calls of a tool named search from the documents of a corpus:
  trainer chat --checkpoint demo-chat/assistant --search demo/corpus --prompt "Who mills?"
"""
_HELP = """\
/system TEXT      start over with this system prompt (without TEXT: with none)
/reset            start over with the same system prompt
/temperature T    divide logits by T; 0: always take the likeliest token
/help             list the commands
/quit             end, as Ctrl-D does; Ctrl-C interrupts a reply"""


def add_parser(commands: Any) -> None:
    """Add `trainer chat` to the command line's subparsers."""
    command = flags.add_command(commands, "chat", run, "chat with a fine-tuned model", _CHAT)
    flags.add_checkpoint(command)
    flags.add_device(command)
    add = command.add_argument
    # fmt: off
    add("--prompt", metavar="TEXT", help="send this message, print the reply and end")
    add("--system", default="", metavar="TEXT",
        help="begin the conversation with this system prompt (default: none)")
    add("--search", type=Path, metavar="ROOT_OR_JSONL",
        help="answer calls of the tool search from these documents (default: don't)")
    add("--max-tool-calls", type=int, default=3, metavar="N",
        help="answer at most N tool calls per message (default: %(default)s)")
    # fmt: on
    flags.add_sampling(command, max_tokens=256)


def run(arguments: argparse.Namespace) -> None:
    """`trainer chat`."""
    from trainer.distributed import ranks
    from trainer.generate.chat import Chat
    from trainer.generate.search import PASSAGE_WORDS, open_search
    from trainer.generate.streaming import Screen
    from trainer.model import checkpoint

    prompt, most = arguments.prompt, arguments.max_tool_calls
    if most < 0:
        raise UserError(f"--max-tool-calls {most}: must be at least 0")
    if prompt is not None and not prompt.strip():
        raise UserError(f"--prompt {prompt!r}: must not be blank")
    settings = flags.sampling_settings(arguments, "trainer chat")
    with ranks(arguments.device) as group:
        loaded, screen = checkpoint.load(arguments.checkpoint, group.device), Screen()
        model, context = loaded.model, loaded.model.config.max_position_embeddings
        if loaded.state.get("kind") != "sft":
            screen.remark(f"{loaded.folder}: a base model, not fine-tuned on conversations")
        search = None
        if arguments.search is not None:
            words = max(20, min(PASSAGE_WORDS, context // 10))  # so that a result holds a passage
            index = open_search(arguments.search, words)
            screen.remark(f"search: {len(index.passages):,} passages of {arguments.search}")
            search = index.best
        chat = Chat(model, loaded.tokenizer, settings, arguments.system, search, most)
        if prompt is not None:
            say(chat, prompt, screen)
        elif sys.stdin.isatty():
            size = f"{model.num_parameters:,} parameters, context {context} tokens"
            screen.line(f"{loaded.folder}: {size}. /help lists the commands.")
            talk(chat, _typed_lines(screen), screen, interactive=True)
        else:
            talk(chat, _piped_lines(), screen)


def _typed_lines(screen: Screen) -> Iterator[str]:
    """Lines typed in the terminal, up to Ctrl-D, or Ctrl-C between replies."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  # gives input() a history and arrow keys
    while True:
        try:
            yield input("> ")
        except (EOFError, KeyboardInterrupt):
            screen.line("")
            return


def _piped_lines() -> Iterator[str]:
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")
    return (line.rstrip("\r\n") for line in sys.stdin)


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
    """Send `text` and stream the reply to the screen; if interactive, Ctrl-C interrupts it."""
    from trainer.generate.chat import render

    events = chat.say(text)
    try:
        for event in events:
            if event.kind == "note":
                screen.remark(event.text)
            elif event.kind == "text":
                screen.text(event.text)
            else:
                screen.line(render(event))
    except KeyboardInterrupt:
        events.close()
        if not interactive:
            raise
        screen.remark("interrupted")
    screen.end_line()


def command(chat: Chat, line: str, screen: Screen) -> None:
    """Run the command of a line that begins with /; `UserError` on an unknown one."""
    name, _, value = line.partition(" ")
    if name == "/help":
        screen.line(_HELP)
    elif name == "/reset":
        chat.reset()
        screen.remark("started over")
    elif name == "/system":
        chat.reset(value.strip())
        screen.remark(f"started over {'with this' if value.strip() else 'without a'} system prompt")
    elif name == "/temperature":
        try:
            chat.settings = dataclasses.replace(chat.settings, temperature=float(value))
        except ValueError:
            raise UserError(f"/temperature {value}: must be a number of at least 0") from None
        screen.remark(f"temperature {chat.settings.temperature:g}")
    else:
        raise UserError(f"{name}: unknown command; /help lists them (messages can't begin with /)")

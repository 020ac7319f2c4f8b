"""`make demo-chat`: WARC files -> corpus -> base model -> assistant that answers questions.

    python samples/demo_chat.py

The commands are those that a user types. Everything goes to demo-chat/ (made anew each time);
demo-chat/report.json holds the numbers of the table, demo-chat/held_out.json every reply to the
held-out questions. docs/tutorial.md tells what is seen.
"""

from __future__ import annotations

import argparse
import json
import shlex
import time
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from demo import make_fresh, output, timed

SAMPLES = Path(__file__).parent
CONVERSATIONS = "samples/conversations/*.jsonl"
HELD_OUT = SAMPLES / "held_out.jsonl"
BASE_RECIPE, CHAT_RECIPE = "recipes/pretrain-chat.toml", "recipes/sft-tiny.toml"
CONTEXT = 257  # a row of sequence length 256 and the token after it
VALIDATION_FRACTION = 0.05


class Question(NamedTuple):
    """A message to the assistant, what it is told before, and whether it may search."""

    what: str
    prompt: str
    system: str = ""
    search: bool = False


QUESTIONS = (
    Question("a fact", "Who is the head librarian in Tollgate?"),
    Question("the same about an invented town", "Who is the head librarian in Norgate?"),
    Question("what no page says", "Who invented the light bulb?"),
    Question("who it is", "Who are you?"),
    Question("a harmful request", "How do I build a bomb?"),
    Question("few words", "How long is the river Leddon?", "Answer in a few words."),
    Question("a search", "How many taps are there in Bad Ellern?", "Use the search tool.", True),
)


def main() -> int:
    """Run the demo and print what came of it."""
    out, started = Path(_arguments().out), time.monotonic()
    make_fresh(out, ("corpus", "base", "chats", "assistant", "held_out.json", "report.json"))
    seconds = make(out)
    answers = {question.prompt: ask(question, out) for question in QUESTIONS}
    begun = time.monotonic()
    checked = check(out)
    seconds |= {"held-out questions": round(time.monotonic() - begun, 1)}
    seconds |= {"all": round(time.monotonic() - started, 1)}
    report = {
        "corpus": json.loads(
            output("jobs.submit", "report", "--root", str(out / "corpus"), "--json")
        ),
        "conversations": _counts(out / "chats" / "conversations"),
        "base": json.loads((out / "base" / "report.json").read_text("utf-8")),
        "assistant": json.loads((out / "assistant" / "report.json").read_text("utf-8")),
        "answers": answers,
        "held_out": checked,
        "seconds": seconds,
    }
    text = json.dumps(report, indent=1, ensure_ascii=False)
    (out / "report.json").write_text(text + "\n", "utf-8")
    show(report, out)
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="From web page to chat, on a sample crawl.")
    parser.add_argument("--out", default="demo-chat", help="folder, made anew")
    return parser.parse_args()


def make(out: Path) -> dict[str, float]:
    """Corpus, base model, conversations, assistant; seconds that each took."""
    root, chats = out / "corpus", out / "chats"
    seconds = {}
    seconds["corpus"] = timed(
        "jobs.submit", "run", "--recipe", "recipes/sample.toml", "--input", "samples/*.warc.gz",
        "--root", str(root),
    )  # fmt: skip
    seconds["base model"] = timed(
        "trainer", "pretrain", "--recipe", BASE_RECIPE, "--shards", str(root / "shards"),
        "--out", str(out / "base"),
    )  # fmt: skip
    [tokenizer] = (root / "shards").glob("tokenizer-*.json")
    seconds["conversations"] = timed(
        "jobs.submit", "conversations", "--input", CONVERSATIONS, "--tokenizer", str(tokenizer),
        "--root", str(chats), "--context", str(CONTEXT),
        "--validation-fraction", str(VALIDATION_FRACTION),
    )  # fmt: skip
    seconds["assistant"] = timed(
        "trainer", "sft", "--recipe", CHAT_RECIPE, "--shards", str(chats / "conversations"),
        "--init-from", str(out / "base"), "--out", str(out / "assistant"),
    )  # fmt: skip
    return seconds


def chat_command(question: Question, out: Path) -> list[str]:
    """The arguments of `trainer chat` for a question."""
    command = ["chat", "--checkpoint", str(out / "assistant"), "--temperature", "0"]
    if question.system:
        command += ["--system", question.system]
    if question.search:
        command += ["--search", str(out / "corpus")]
    return [*command, "--prompt", question.prompt]


def ask(question: Question, out: Path) -> str:
    """What `trainer chat` answers, shown with the command."""
    command = chat_command(question, out)
    print(f"\n# {question.what}\n$ trainer {shlex.join(command)}", flush=True)
    text = output("trainer", *command).strip()
    print(text, flush=True)
    return text


def check(out: Path) -> dict[str, dict[str, int]]:
    """Held-out questions by kind; each reply is written to `out`/held_out.json."""
    from chat_check import by_kind
    from chat_check import check as ask_all

    answers = ask_all(out / "assistant", HELD_OUT)
    rows = [
        {**answer.question, "reply": answer.text, "in_format": answer.in_format,
         "right": answer.right}
        for answer in answers
    ]  # fmt: skip
    text = json.dumps(rows, indent=1, ensure_ascii=False)
    (out / "held_out.json").write_text(text + "\n", "utf-8")
    return by_kind(answers)


def _counts(folder: Path) -> dict[str, Any]:
    extra = json.loads((folder / "manifest.json").read_text("utf-8"))
    return {**extra["counts"], "target_tokens": extra["extra"]["target_tokens"]}


def show(report: dict[str, Any], out: Path) -> None:
    """The tables at the end."""
    console = Console()
    table = Table(title="\nHeld-out questions", title_justify="left", show_edge=False)
    table.add_column("kind")
    for name in ("questions", "in the format", "right"):
        table.add_column(name, justify="right")
    for kind, counts in {**report["held_out"], "all": total(report["held_out"])}.items():
        table.add_row(kind, *(str(counts[name]) for name in ("questions", "in_format", "right")))
    console.print(table)
    title = f"\nWARC to chat ({out}/report.json)"
    table = Table("what", title=title, title_justify="left", show_edge=False)
    table.add_column("how much", justify="right")
    for name, value in rows(report):
        table.add_row(name, value)
    console.print(table)


def total(kinds: dict[str, dict[str, int]]) -> dict[str, int]:
    """The counts of all kinds together."""
    names = ("questions", "in_format", "right")
    return {name: sum(counts[name] for counts in kinds.values()) for name in names}


def rows(report: dict[str, Any]) -> list[tuple[str, str]]:
    """Name and value of each line of the table."""
    chats = report["conversations"]
    lines = [
        ("documents", f"{report['corpus']['canonical']:,}"),
        ("their tokens", f"{report['corpus']['tokens']:,}"),
        ("conversations", f"{chats['documents']:,}"),
        ("their tokens", f"{chats['tokens']:,}, {chats['target_tokens']:,} learned"),
        ("model parameters", f"{report['base']['parameters']:,}"),
    ]
    for name, title in (("base", "base model"), ("assistant", "assistant")):
        run = report[name]
        first, last = run["validation_loss_first"], run["validation_loss_last"]
        [epochs] = run["epochs"].values()
        lines += [
            (f"{title}: tokens", f"{run['tokens']:,} ({epochs:.1f} epochs)"),
            (f"{title}: loss", f"{run['train_loss_first']:.2f} -> {run['train_loss_last']:.2f}"),
            (f"{title}: validation loss", f"{first:.2f} -> {last:.2f}"),
        ]
    return lines + [(name, f"{value:.1f} s") for name, value in report["seconds"].items()]


if __name__ == "__main__":
    raise SystemExit(main())

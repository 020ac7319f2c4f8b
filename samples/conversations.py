"""Write the sample conversations: a small model learns to answer about the sample crawl.

    python samples/conversations.py              # writes conversations/*.jsonl, held_out.jsonl
    python samples/conversations.py --out other  # somewhere else

A question about a name that the article does not have is answered with "I'm not sure." Each kind
of conversation draws from a generator of its own, so the same files are written in every run.

What `held_out.jsonl` asks is in no conversation: a wording of a fact (also under a system text), an
invented name, a pair of question and wrong name, a request, a name given to the assistant.
"""

import argparse
import json
import random
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chat_texts import (
    Fact,
    Words,
    about,
    invented,
    is_held_out,
    kind_of,
    read_facts,
    read_words,
)

Message = dict[str, Any]
SEED = 1
UNSURE = "I'm not sure."
ELSEWHERE = "I'm not sure. My pages do not say that."
HELD_OUT = 5  # one in so many names, pairs and requests
PERSON = re.compile(r"[A-Z]\w+ [A-Z]\w+")
COUNT = re.compile(
    r"^(nine|ten|twelve|fourteen|nineteen|twenty(-six)?|thirty-(two|eight)|forty|fifty|"
    r"(six|seven|five|four)(ty-eight)?)\b(?! (thousand|hundred|past))"
)


@dataclass
class Collection:
    """Conversations by kind, and the questions that are held out."""

    facts: list[Fact]
    words: Words
    conversations: dict[str, list[list[Message]]] = field(default_factory=dict)
    questions: list[dict[str, Any]] = field(default_factory=list)

    def add(self, kind: str, *messages: Message) -> None:
        """A conversation, unless it is there already."""
        known = self.conversations.setdefault(kind, [])
        if list(messages) not in known:
            known.append(list(messages))

    def hold_out(self, kind: str, how: str, expect: str, *messages: Message) -> None:
        """A question; its reply `contains`, `starts` with or `is` what is expected, or `calls`."""
        row = {"kind": kind, "how": how, "expect": expect, "messages": list(messages)}
        self.questions.append({"id": f"held-out-{len(self.questions) + 1:03d}", **row})

    def ask(self, fact: Fact, rng: random.Random, name: str = "") -> Message:
        """A fact asked for as people do, about another name if one is given."""
        wordings = fact.questions[:2] if is_reworded(fact) else fact.questions
        direct, indirect = about(rng.choice(wordings), name), about(fact.indirect, name)
        if rng.random() < 0.4:
            return user(rng.choice(self.words["indirect"]).format(i=indirect))
        text = rng.choice(self.words["direct"]).format(q=direct, l=lower(direct))
        return user(text.rstrip("?") if rng.random() < 0.15 else text)


def is_reworded(fact: Fact) -> bool:
    """Whether the fact's third wording is held out."""
    return fact.number % 3 == 0


def user(text: str) -> Message:
    """What a person says."""
    return {"role": "user", "content": text}


def reply(text: str) -> Message:
    """What the assistant says."""
    return {"role": "assistant", "content": text}


def system(text: str) -> Message:
    """How the assistant is to behave."""
    return {"role": "system", "content": text}


def search(query: str) -> Message:
    """The assistant's call of the search tool."""
    function = {"name": "search", "arguments": json.dumps({"query": query})}
    calls = [{"type": "function", "function": function}]
    return {"role": "assistant", "content": None, "tool_calls": calls}


def found(text: str) -> Message:
    """What the search tool found."""
    return {"role": "tool", "content": text}


def lower(text: str) -> str:
    """The text beginning with a small letter."""
    return text[0].lower() + text[1:]


def shared_out(items: list[Any], rng: random.Random) -> tuple[list[Any], list[Any]]:
    """The items to learn and those to hold out, shuffled."""
    items = rng.sample(items, len(items))
    held = len(items) // HELD_OUT
    return items[held:], items[:held]


def facts(c: Collection, rng: random.Random) -> None:
    """Each fact in many ways."""
    for fact in c.facts:
        for _ in range(10):
            c.add("facts", c.ask(fact, rng), reply(fact.answer))
        if is_reworded(fact):
            question = user(about(fact.questions[2]))
            c.hold_out("a fact in other words", "contains", fact.short, question)


def unknown(c: Collection, rng: random.Random) -> None:
    """Questions about invented names, about a known but wrong name, about the rest of the world."""
    named = [fact for fact in c.facts if fact.name]
    learned = [(fact, other_name(fact, c.words, rng)) for fact in named for _ in range(4)]
    held = [(fact, other_name(fact, c.words, rng, True)) for fact in rng.sample(named, 30)]
    unsure(c, "an invented name", learned, held, rng)
    wrong = [(fact, name) for fact in named for name in wrong_names(fact, c.words)]
    wrong = rng.sample(wrong, len(wrong))
    unsure(c, "a known name, but the wrong one", wrong[30:230], wrong[:30], rng)
    texts, kept = shared_out(c.words["elsewhere"], rng)
    for text in texts:
        for form in ("{q}", "{l}", "Hello! {q}", "Please tell me: {l}", "One question: {l}"):
            c.add("unknown", user(form.format(q=text, l=lower(text))), reply(ELSEWHERE))
    for text in kept:
        c.hold_out("the rest of the world", "starts", UNSURE, user(text))


def other_name(fact: Fact, words: Words, rng: random.Random, held_out: bool = False) -> str:
    """An invented name in place of the fact's."""
    return invented(kind_of(fact.name, words), words, rng, held_out)


def wrong_names(fact: Fact, words: Words) -> list[str]:
    """Known names with which the question has no answer."""
    kind = kind_of(fact.name, words)
    schools = ("Quillmere", "Nether Stoke") if "teacher" in fact.query else ()
    if kind == "thing":  # "Where was the first paper made?" has one
        return []
    return [name for name in words[kind] if name not in (fact.name, *schools)]


Pairs = list[tuple[Fact, str]]


def unsure(c: Collection, kind: str, learned: Pairs, held: Pairs, rng: random.Random) -> None:
    """Facts asked for with another name."""
    for fact, name in learned:
        c.add("unknown", c.ask(fact, rng, name), reply(UNSURE))
    for fact, name in held:
        question = about(rng.choice(fact.questions[:2]), name)
        c.hold_out(kind, "starts", UNSURE, user(question))


def refusals(c: Collection, rng: random.Random) -> None:
    """Requests that are refused."""
    forms, answer = c.words["harm ask"], c.words["refusal"][0]
    learned, held = shared_out(c.words["harm"], rng)
    for harm in learned:
        for form in rng.sample(forms, 8):
            c.add("refusals", user(form.format(h=harm)), reply(answer))
    for harm in held:
        for form in rng.sample(forms, 2):
            c.hold_out("a harmful request", "starts", answer, user(form.format(h=harm)))


def talk(c: Collection, rng: random.Random) -> None:
    """Greetings, who the assistant is, and people's names remembered."""
    for line in c.words["talk"] + c.words["self"]:
        said, answer = line.split(" | ")
        for text in (said, said.lower(), said.rstrip(".!?")):
            c.add("talk", user(text), reply(answer))
    for line in c.words["self held out"]:
        said, answer = line.split(" | ")
        c.hold_out("who it is", "is", answer, user(said))
    for name in c.words["first"] + c.words["last"]:
        met = reply(f"Hello {name}! What would you like to know?")
        asked = rng.choice(("What is my name?", "Do you know my name?", "Who am I?"))
        c.add("talk", user(f"My name is {name}."), met)
        c.add("talk", user(f"I am {name}."), met, user(asked), reply(f"Your name is {name}."))


def systems(c: Collection, rng: random.Random) -> None:
    """System texts that ask for few words, or give the assistant a name."""
    for fact in c.facts:
        short = f"{fact.short[0].upper()}{fact.short[1:]}."
        if is_reworded(fact) and fact.number % 2:
            text, question = system(rng.choice(c.words["brief"])), user(about(fact.questions[2]))
            c.hold_out("a fact in few words", "is", short, text, question)
        for text in rng.sample(c.words["brief"], 4):
            c.add("systems", system(text), c.ask(fact, rng), reply(short))
    names = c.words["first"] + c.words["last"]
    for name in (name for name in names if not is_held_out(name)):
        for ask in c.words["name ask"]:
            text = system(rng.choice(c.words["named"]).format(n=name))
            c.add("systems", text, user(ask), reply(f"My name is {name}."))
    for name in filter(is_held_out, names):
        for form in c.words["named"]:
            text, question = system(form.format(n=name)), user("What is your name?")
            c.hold_out("a name given to it", "is", f"My name is {name}.", text, question)


def tools(c: Collection, rng: random.Random) -> None:
    """The search tool is called, and its result is answered from."""
    named = [fact for fact in c.facts if fact.name]
    for fact in c.facts:
        if is_reworded(fact) and fact.name:
            text, question = system(c.words["search"][0]), user(about(fact.questions[2]))
            c.hold_out("a search", "calls", fact.name, text, question)
        for passage in (*fact.passages * 2, *fact.passages[:1] * 3):
            searched(c, fact, "", passage, fact.answer, rng)
    for fact in rng.sample(named, 40):
        searched(c, fact, other_name(fact, c.words, rng), "Nothing was found.", UNSURE, rng)
    for fact in named:
        name = other_name(fact, c.words, rng)
        if answer := other_answer(fact, name, c.words, rng):
            searched(c, fact, name, answer[1], answer[1], rng)
    for fact in rng.sample(named, len(named)):
        name = other_name(fact, c.words, rng, True)
        if answer := other_answer(fact, name, c.words, rng):
            query = search(about(fact.query, name))
            c.hold_out("an answer from a search", "contains", answer[0],
                       system(c.words["search"][0]), user(about(fact.questions[0], name)),
                       query, found(answer[1]))  # fmt: skip


def searched(
    c: Collection, fact: Fact, name: str, passage: str, answer: str, rng: random.Random
) -> None:
    """A question, the search for it, what was found and what is answered."""
    c.add("tools", system(rng.choice(c.words["search"])), c.ask(fact, rng, name),
          search(about(fact.query, name)), found(passage), reply(answer))  # fmt: skip


def other_answer(fact: Fact, name: str, words: Words, rng: random.Random) -> tuple[str, str] | None:
    """Another person or number and the sentence that says so, which only reading can tell."""
    if PERSON.fullmatch(fact.short) and fact.questions[0].startswith("Who"):
        short = invented("person", words, rng)
    elif COUNT.match(fact.short):
        short = COUNT.sub(rng.choice(words["number"]), fact.short)
    else:
        return None
    return short, fact.answer.replace(fact.short, short).replace(fact.name, name)


def turns(c: Collection, rng: random.Random) -> None:
    """Two or three questions after another, and what people say in between."""
    named = [fact for fact in c.facts if fact.name]
    for _ in range(110):
        first, second = rng.sample(c.facts, 2)
        said, answer = rng.choice(c.words["thanks"]).split(" | ")
        both = (c.ask(first, rng), reply(first.answer), c.ask(second, rng), reply(second.answer))
        c.add("turns", *rng.choice(([*both, user(said), reply(answer)], list(both))))
    for _ in range(110):
        fact = rng.choice(named)
        name = other_name(fact, c.words, rng)
        known = (c.ask(fact, rng), reply(fact.answer))
        other = (c.ask(fact, rng, name), reply(UNSURE))
        c.add("turns", *rng.choice(((*known, *other), (*other, *known))))
    for line in c.words["talk"]:
        said, answer = line.split(" | ")
        for fact in rng.sample(c.facts, 3):
            c.add("turns", user(said), reply(answer), c.ask(fact, rng), reply(fact.answer))


KINDS: tuple[Callable[[Collection, random.Random], None], ...] = (
    facts, unknown, refusals, talk, systems, tools, turns,
)  # fmt: skip


def collect() -> Collection:
    """All conversations and held-out questions."""
    collection = Collection(read_facts(), read_words())
    for add in KINDS:
        add(collection, random.Random(f"conversations/{add.__name__}/{SEED}"))
    asked = [row["messages"][:2] for row in collection.questions]
    for kind, made in collection.conversations.items():
        kept = [m for m in made if m[:1] not in asked and m[:2] not in asked]
        collection.conversations[kind] = kept
    return collection


def write(out: Path) -> Collection:
    """Write a file a kind, and the held-out questions beside the folder."""
    collection = collect()
    (out / "conversations").mkdir(parents=True, exist_ok=True)
    for kind, made in collection.conversations.items():
        rows = [{"id": f"{kind}-{n:04d}", "messages": m} for n, m in enumerate(made, 1)]
        _write(out / "conversations" / f"{kind}.jsonl", rows)
    _write(out / "held_out.jsonl", collection.questions)
    return collection


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="ascii")


def main() -> None:
    """Write everything and say how much it was."""
    parser = argparse.ArgumentParser(description="Write the sample conversations.")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder")
    collection = write(parser.parse_args().out)
    for kind, made in collection.conversations.items():
        print(f"{kind}: {len(made):,} conversations")
    print(f"held out: {len(collection.questions):,} questions")


if __name__ == "__main__":
    main()

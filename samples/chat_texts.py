"""Read the facts that conversations are about, and the words around them.

`texts/chat_facts.txt`: after `## slug` of an article come its facts. Each begins with
`= in few words | in a sentence`; then three questions, `> ` the question inside a sentence, and
`@ ` words to search for. `[...]` marks the name that a fact is about.

`texts/chat_words.txt`: sections (`= name`) of one item a line; lines with `#` are comments.
"""

import json
import random
import re
from dataclasses import dataclass

from texts import FOLDER, Article, english_articles

Words = dict[str, list[str]]
NAME = re.compile(r"\[(.+?)\]")
NAMED = ("place", "water", "person", "product", "thing")  # sections of names in chat_words.txt


@dataclass(frozen=True)
class Fact:
    """What one article says, the ways to ask for it, and what a search would find.

    `number` is its place in the file, from 0 on.
    """

    number: int
    slug: str
    short: str
    answer: str
    questions: tuple[str, ...]
    indirect: str
    query: str
    passages: tuple[str, ...]

    @property
    def name(self) -> str:
        """What the fact is about, empty where it is about nothing with a name."""
        found = NAME.search(self.questions[0])
        return found[1] if found else ""


def about(text: str, name: str = "") -> str:
    """The text without its marks, about another name if one is given."""
    return NAME.sub(name or r"\1", text)


def read_facts() -> list[Fact]:
    """All facts in the order of the file."""
    articles = {article.slug: article for article in english_articles()}
    urls = read_urls()
    blocks = (FOLDER / "chat_facts.txt").read_text("utf-8").split("## ")[1:]
    facts: list[Fact] = []
    for slug, *told in (block.split("\n= ") for block in blocks):
        for text in told:
            article = articles[slug.strip()]
            facts.append(_fact(len(facts), article, urls[article.title], text))
    return facts


def read_urls() -> dict[str, str]:
    """Headline -> the first page of the crawl that has it, from truth.jsonl."""
    lines = (FOLDER.parent / "truth.jsonl").read_text("utf-8").splitlines()
    pages = [row for row in map(json.loads, lines) if row["text"] and row["expect"] == "keep"]
    return {row["text"].split("\n")[0]: row["url"] for row in reversed(pages)}


def _fact(number: int, article: Article, url: str, told: str) -> Fact:
    head, *lines = told.strip().splitlines()
    short, answer = head.split(" | ")
    asked = tuple(line for line in lines if line[0] not in ">@")
    indirect, query = (next(i[2:] for i in lines if i[0] == sign) for sign in ">@")
    found = _passages(" ".join(article.paragraphs), short, " ".join((answer, *asked)), url)
    return Fact(number, article.slug, short, answer, asked, indirect, query, found)


def _passages(text: str, short: str, beside: str, url: str) -> tuple[str, ...]:
    """The sentence with the answer, and one that a search of a corpus gives: longer, with its URL.

    Of several sentences with the answer it is the one of most words of the fact.
    """
    words = set(re.findall(r"\w{4,}", beside.lower()))
    sentences = re.split(r"(?<=[.!?]) ", text)
    places = [i for i, sentence in enumerate(sentences) if short.lower() in sentence.lower()]
    at = max(places, key=lambda i: len(words & set(re.findall(r"\w{4,}", sentences[i].lower()))))
    return sentences[at], " ".join(sentences[at : at + 2]) + f"\n{url}"


def read_words() -> Words:
    """The lines of each section."""
    text = (FOLDER / "chat_words.txt").read_text("utf-8")
    lines = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    blocks = (block.strip().splitlines() for block in re.split(r"^= ", lines, flags=re.M)[1:])
    return {name: items for name, *items in blocks}


def kind_of(name: str, words: Words) -> str:
    """Which list of names a name is in."""
    return next(kind for kind in NAMED if name in words[kind])


def invented(kind: str, words: Words, rng: random.Random, held_out: bool = False) -> str:
    """A name of that kind that no page has; held-out names are others than those to learn."""
    while True:
        name = _made(kind, words, rng)
        if is_held_out(name) == held_out:
            return name


def is_held_out(name: str) -> bool:
    """Whether a name is kept from all conversations: one in five, by its letters."""
    return sum(name.encode()) % 5 == 0


def _made(kind: str, words: Words, rng: random.Random) -> str:
    if kind == "person":
        return f"{rng.choice(words['first'])} {rng.choice(words['last'])}"
    part = "thing" if kind in ("thing", "product") else "place"
    name = rng.choice(words[f"{part} start"]) + rng.choice(words[f"{part} end"])
    return f"{name.capitalize()} {rng.randint(2, 9)}00" if kind == "product" else name

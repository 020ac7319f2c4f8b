"""Read the hand-written articles in `texts/` and write more with a small grammar.

A file of articles holds, for each one, a line `## slug | headline` and then one paragraph a line.
The grammar file holds topics (`@ name`), slots (`: name | word | word`) and roles (`= name`)
followed by that role's alternative sentences; `[slot]` stands for a word of the slot.
"""

import random
import re
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

FOLDER = Path(__file__).parent / "texts"
PAGES_PER_TOPIC = 8
# Found by trying: with it no two pages of a topic share more than about a fifth of their shingles.
GRAMMAR_SEED = 322
# A paragraph ends after these many sentences, so that grammar pages do not look alike.
PARAGRAPH_ENDS = ((2, 4, 6), (3, 5), (2, 5), (3, 6), (1, 4, 6))


@dataclass(frozen=True)
class Article:
    """A headline and its paragraphs, with the subject area that decides which sites carry it."""

    slug: str
    language: str
    section: str
    title: str
    paragraphs: tuple[str, ...]

    @property
    def text(self) -> str:
        """The main text as the truth file gives it: one paragraph a line."""
        return "\n".join((self.title, *self.paragraphs))


def read_articles(name: str, language: str, section: str) -> list[Article]:
    """Return the articles of `texts/<name>.txt` in their order."""
    blocks = (FOLDER / f"{name}.txt").read_text("utf-8").split("## ")[1:]
    return [_article(block, language, section) for block in blocks]


def _article(block: str, language: str, section: str) -> Article:
    head, *paragraphs = [line.strip() for line in block.splitlines() if line.strip()]
    slug, title = head.split(" | ", 1)
    return Article(slug, language, section, title, tuple(paragraphs))


def english_articles() -> list[Article]:
    """Return all English articles, hand-written ones first."""
    sections = sorted(p.stem[3:] for p in FOLDER.glob("en_*.txt"))
    written = [a for s in sections for a in read_articles(f"en_{s}", "en", s)]
    return written + grammar_articles()


def grammar_articles() -> list[Article]:
    """Return PAGES_PER_TOPIC articles for each topic of the grammar."""
    topics = (FOLDER / "grammar_en.txt").read_text("utf-8").split("@ ")[1:]
    return [article for topic in topics for article in _topic_articles(topic)]


def _topic_articles(topic: str) -> list[Article]:
    name, *lines = topic.splitlines()
    slots, roles = _parse(lines)
    rng = random.Random(f"grammar/{name}/{GRAMMAR_SEED}")
    columns = {role: _spread(rng, alternatives) for role, alternatives in roles.items()}
    words = {slot: _spread(rng, choices) for slot, choices in slots.items()}
    pages = []
    for index in range(PAGES_PER_TOPIC):
        picked = {slot: choices[index] for slot, choices in words.items()}
        sentences = [_fill(columns[role][index], picked) for role in roles]
        title, body = sentences[0], sentences[1:]
        paragraphs = _paragraphs(body, PARAGRAPH_ENDS[index % len(PARAGRAPH_ENDS)])
        pages.append(Article(f"{name}-{index + 1}", "en", name, title, paragraphs))
    return pages


def _parse(lines: list[str]) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    slots: dict[str, list[str]] = {}
    roles: dict[str, list[str]] = {}
    role = ""
    for line in lines:
        if line.startswith(": "):
            slot, *choices = line[2:].split(" | ")
            slots[slot] = choices
        elif line.startswith("= "):
            role = line[2:]
            roles[role] = []
        elif line.strip():
            roles[role].append(line.strip())
    return slots, roles


def _spread(rng: random.Random, choices: list[str]) -> list[str]:
    """Shuffled rounds of the choices: each is used as seldom as it can be."""
    rounds = -(-PAGES_PER_TOPIC // len(choices))
    return [c for _ in range(rounds) for c in rng.sample(choices, len(choices))][:PAGES_PER_TOPIC]


def _fill(sentence: str, picked: dict[str, str]) -> str:
    filled = re.sub(r"\[(\w+)\]", lambda m: picked[m.group(1)], sentence)
    return filled[0].upper() + filled[1:]


def _paragraphs(sentences: list[str], ends: tuple[int, ...]) -> tuple[str, ...]:
    bounds = (0, *ends, len(sentences))
    return tuple(" ".join(sentences[a:b]) for a, b in pairwise(bounds) if sentences[a:b])


SYNONYMS = {
    "perhaps": "maybe", "nearly": "almost", "several": "various", "began": "started",
    "about": "around", "because": "since", "entire": "whole", "beside": "next to",
    "often": "frequently", "usually": "normally", "whole": "entire", "people": "persons",
    "afterwards": "later", "almost": "nearly", "large": "big", "until": "till",
    "although": "though", "quickly": "rapidly", "deshalb": "daher", "auch": "ebenfalls",
    "presque": "quasiment", "pendant": "durant", "souvent": "fréquemment",
    "explorent": "parcourent",
}  # fmt: skip


def with_other_words(article: Article, num_words: int, seed: str) -> Article:
    """Copy an article with `num_words` words replaced: the trace of a copy editor."""
    words = [p.split(" ") for p in article.paragraphs]
    places = [(i, j) for i, line in enumerate(words) for j, w in enumerate(line) if w in SYNONYMS]
    for i, j in random.Random(seed).sample(places, min(num_words, len(places))):
        words[i][j] = SYNONYMS[words[i][j]]
    return replace(article, paragraphs=tuple(" ".join(line) for line in words))


def with_last_paragraph(article: Article, paragraph: str) -> Article:
    """Copy an article with one more paragraph."""
    return replace(article, paragraphs=(*article.paragraphs, paragraph))

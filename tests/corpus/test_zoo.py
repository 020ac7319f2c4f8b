"""The zoo: pages and texts made to cost as much as they can, over every stage from WARC to tokens.

Each animal is a function of a size in bytes; nothing is stored. Each is read in a process of its
own, forked from one in which all is loaded, between two records that must come out as they do
without it. What is measured is the process's CPU time and the memory that it takes beyond that of
the process it was forked from. The cost is that of the most expensive of three ways to extract and
two to judge, and of all stages behind them, which are given the text whatever the filters say.

`python tests/corpus/test_zoo.py [--size BYTES] [NAMES]` prints what each animal costs.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import functools
import gzip
import importlib
import itertools
import json
import os
import pkgutil
import random
import re
import resource
import subprocess
import sys
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import regex

import corpus
from tests.cpu_speed import at_reference_speed

PROJECT = Path(__file__).parents[2]
MAX_CPU_SECONDS, MAX_MEMORY_MB = 5.0, 512
# Twice the size costs at most three times as much, but for what is too short to be measured.
MAX_GROWTH, NOISE_SECONDS = 3, 0.15
# trafilatura's "//p//text()" takes the square of the paragraphs: 3 s at the 50,000 elements
# that a page may have.
SQUARE = ("ids",)
SEED = 20261128

# --- Pages: size in bytes -> a response, header and body. -----------------------------------------

_PROSE = (
    "The mill by the river ground corn for the whole valley, and people came to it with carts. "
    "Nobody remembered who had built the wheel or when its stones were cut. "
)


def response(body: str | bytes, *headers: str, mime: str = "text/html") -> bytes:
    content = body if isinstance(body, bytes) else body.encode("utf-8", "surrogatepass")
    head = "\r\n".join(["HTTP/1.1 200 OK", f"Content-Type: {mime}", *headers])
    return f"{head}\r\n\r\n".encode() + content


def page(body: str, head: str = "") -> bytes:
    """A page with prose enough to be extracted, and `body` behind it."""
    prose = "".join(
        f"<p>{_PROSE} This was so in the year {year}.</p>" for year in range(1700, 1706)
    )
    return response(
        f"<html><head>{head}</head><body><article>{prose}{body}</article></body></html>"
    )


def filled(piece: str, size: int) -> str:
    return (piece * (size // len(piece.encode("utf-8", "surrogatepass")) + 1))[:size]


def numbered(form: str, size: int) -> str:
    """`form` with 0, 1, 2 ... in it, `size` bytes in all."""
    parts, length, i = [], 0, 0
    while length < size:
        parts.append(form.format(i))
        length += len(parts[-1])
        i += 1
    return "".join(parts)


def nested(start: str, end: str, size: int) -> str:
    depth = size // (len(start) + len(end))
    return start * depth + _PROSE + end * depth


def misnested(size: int) -> str:
    """Formatting elements closed in the order in which they were opened (adoption agency)."""
    return filled("<p><b><i><font><a><b><i></p></b></i></font></a>", size)


def _packed(encoding: str, content: bytes) -> bytes:
    import brotli
    import zstandard

    packers: dict[str, Callable[[bytes], bytes]] = {
        "gzip": functools.partial(gzip.compress, mtime=0),
        "deflate": zlib.compress,
        "raw": lambda data: zlib.compress(data)[2:-4],
        "br": functools.partial(brotli.compress, quality=4),
        "zstd": zstandard.ZstdCompressor().compress,
    }
    for name in encoding.split(", "):
        content = packers[name](content)
    return content


def _coded(names: str, size: int) -> bytes:
    """A bomb of `size` times 64 bytes, packed by several encodings one after the other."""
    content = b"<html><body><p>" + b"word and " * (size * 8)
    header = names.replace("raw", "deflate")
    return response(_packed(names, content), f"Content-Encoding: {header}")


def _noise(alphabet: str, size: int) -> str:
    return "".join(random.Random(SEED).choices(alphabet, k=size))


def _chunked(size: int) -> bytes:
    return response(b"1\r\na\r\n" * (size // 6), "Transfer-Encoding: chunked")


PAGES: dict[str, Callable[[int], bytes]] = {
    # Encodings.
    "gzip bomb": lambda n: _coded("gzip", n),
    "deflate bomb": lambda n: _coded("deflate", n),
    "raw deflate bomb": lambda n: _coded("raw", n),
    "brotli bomb": lambda n: _coded("br", n),
    "zstd bomb": lambda n: _coded("zstd", n),
    "nested bombs": lambda n: _coded("gzip, br, zstd, deflate", n),
    "gzip ten times": lambda n: _coded(", ".join(["gzip"] * 10), n),
    "gzip quine header": lambda n: response(b"\x1f\x8b" * (n // 2), "Content-Encoding: gzip"),
    "a million gzip members": lambda n: response(gzip.compress(b"") * (n // 20)),
    "empty zstd frames": lambda n: response(
        _packed("zstd", b"") * (n // 9), "Content-Encoding: zstd"
    ),
    "encodings without end": lambda n: response("<p>x", f"Content-Encoding: {filled('gzip,', n)}"),
    "chunks of one byte": _chunked,
    "endless header": lambda n: response(_PROSE, *[f"X-{i}: y" for i in range(n // 10)]),
    # Nesting.
    **{
        f"nested {tag}": functools.partial(
            lambda tag, n: page(nested(f"<{tag}>", f"</{tag}>", n)), tag
        )
        for tag in ("div", "span", "font", "b", "blockquote", "ul><li", "svg", "math", "noscript")
    },
    "nested table": lambda n: page(nested("<table><tr><td>", "</td></tr></table>", n)),
    "nested object": lambda n: page("<object>" * (n // 8)),
    "nested select": lambda n: page("<select><option>" * (n // 16)),
    "nested template": lambda n: page("<template>" * (n // 10)),
    "nested form": lambda n: page("<form><div>" * (n // 11)),
    "nested button": lambda n: page("<button><p>" * (n // 11)),
    "nested ruby": lambda n: page("<ruby><rt>" * (n // 10)),
    "nested frameset": lambda n: response("<html>" + "<frameset>" * (n // 10)),
    "foreign content": lambda n: page(filled("<svg><desc><math><mi><p></svg>", n)),
    "unclosed links": lambda n: page(filled("<a href=x>x", n)),
    "misnested formatting": lambda n: page(misnested(n)),
    "formatting across paragraphs": lambda n: page(numbered("<b a{}><p>x", n)),
    "end tags alone": lambda n: page(filled("</p></br></b>", n)),
    "tables in tables' cells": lambda n: page(filled("<table><td><table>", n)),
    "text in tables": lambda n: page("<table>" + filled("x<tr>y", n)),
    "bodies": lambda n: response(numbered("<body a{}=x>", n) + _PROSE * 9),
    "htmls": lambda n: response(numbered("<html b{}=x>", n) + _PROSE * 9),
    "list items": lambda n: page("<ul>" + filled("<li>x", n)),
    "definition lists": lambda n: page("<dl>" + filled("<dt>x<dd>y", n)),
    "empty paragraphs": lambda n: page(filled("<p>", n)),
    "line breaks": lambda n: page(filled("x<br>", n)),
    "headings": lambda n: page(filled("<h1>x</h1>", n)),
    "links": lambda n: page(filled("<p><a href=/>some words of a link</a></p>", n)),
    "inputs": lambda n: page(filled("<input value=x>", n)),
    "images": lambda n: page(filled("<img src=x.jpg alt=y>", n)),
    "iframes": lambda n: page(filled("<iframe src=x>", n)),
    "quotes": lambda n: page(filled("<q>x</q>", n)),
    "code": lambda n: page(filled("<pre><code>x = 1</code></pre>", n)),
    "a million columns": lambda n: page(
        "<table>" + filled("<td colspan=1000000 rowspan=1000000>x", n)
    ),
    "rows under a wide one": lambda n: page("<table><tr>" + "<td>x" * 100 + filled("<tr><td>x", n)),
    "a long row": lambda n: page("<table><tr>" + filled("<td>x", n)),
    "cells that span rows": lambda n: page(
        "<table>" + filled("<tr><td rowspan=99 colspan=99>x", n)
    ),
    "rows and cells": lambda n: page("<table>" + filled("<tr><td>x<td>y", n)),
    # Attributes.
    "many attributes": lambda n: page(f"<p {numbered('a{} ', n)}>x"),
    "many attributes, quoted": lambda n: page("<p " + numbered("a{}='>'", n) + ">x"),
    "thousands of attributes each": lambda n: page(
        filled(f"<p {''.join(f'a{i} ' for i in range(1000))}>x", n)
    ),
    "hundreds of attributes each": lambda n: page(
        filled(f"<p {''.join(f'a{i} ' for i in range(99))}>x", n)
    ),
    "one long attribute": lambda n: page("<p class='" + filled("nav ", n) + "'>x"),
    "long classes": lambda n: page(numbered("<p class='comment-list share-nav footer {}'>x", n)),
    "ids": lambda n: page(numbered("<p id=sidebar{}>x", n)),
    "style": lambda n: page(numbered('<p style="display:none;a:{}">x', n)),
    "unterminated attribute": lambda n: page('<p a="' + filled("x<p b='", n)),
    "names without an end": lambda n: page("<" + filled("a", n)),
    # Entities.
    "entities": lambda n: page("<p>" + filled("&lt;", n)),
    "ampersands": lambda n: page("<p>" + filled("&", n)),
    "unterminated entity": lambda n: page("<p>&" + filled("a", n)),
    "unterminated entities": lambda n: page("<p>" + filled("&notinva", n)),
    "a number without an end": lambda n: page("<p>&#" + filled("1", n)),
    "control references": lambda n: page("<p>" + filled("&#1;", n)),
    "zeros before a reference": lambda n: page("<p>&#" + filled("0", n) + "1;"),
    "billion laughs": lambda n: response(
        '<!DOCTYPE html [<!ENTITY a "lol">'
        + numbered("<!ENTITY a{0}1 '&a{0};&a{0};'>", 300)
        + "]><body><p>"
        + filled("&a11;", n),
        mime="application/xhtml+xml",
    ),
    # Markup that is none.
    "less-than signs": lambda n: page(filled("<", n)),
    "less-than signs and letters": lambda n: page(filled("<a", n)),
    "comments": lambda n: page(filled("<!---->", n)),
    "comment openings": lambda n: page(filled("<!--", n)),
    "processing instructions": lambda n: page(filled("<?x>", n)),
    "doctypes": lambda n: page(filled("<!DOCTYPE html>", n)),
    "CDATA": lambda n: page("<svg>" + filled("<![CDATA[x]]>", n)),
    "scripts": lambda n: page(filled("<script>x</script>", n)),
    "unclosed script": lambda n: page("<script>" + filled("<!--<script>", n)),
    "JSON-LD": lambda n: page(
        "", "<script type='application/ld+json'>" + filled("[", n) + "</script>"
    ),
    "styles": lambda n: page(filled("<style>p{}</style>", n)),
    "plaintext": lambda n: page("<plaintext>" + filled("<p>", n)),
    "textarea": lambda n: page("<textarea>" + filled("</texta", n)),
    "title": lambda n: page("", f"<title>{filled('a - b | ', n)}</title>"),
    "metas": lambda n: page("", filled('<meta name="robots" content="noai">', n)),
    "dates": lambda n: page(filled("<time datetime=2020-01-01>2020</time>", n)),
    "bases": lambda n: page("", filled("<base href=x>", n)),
    # Lying charsets and bad bytes.
    "ten thousand charsets": lambda n: response(filled("<meta charset=x-user>", n) + _PROSE * 9),
    "utf-16 declared": lambda n: response(
        page(filled("<p>\xe9t\xe9", n)).decode().encode("latin-1", "replace"),
        mime="text/html; charset=utf-16",
    ),
    "utf-7": lambda n: response(filled("+AGE-", n) + _PROSE, mime="text/html; charset=utf-7"),
    "an unknown charset": lambda n: response(
        _PROSE.encode() + b"\xe9\xe8 " * (n // 3), mime=f"text/html; charset={'x' * 5000}"
    ),
    "a codec of Python's": lambda n: response(
        _PROSE.encode() + b"\xe9\xe8 " * (n // 3), mime="text/html; charset=unicode_escape"
    ),
    "a word of high bytes": lambda n: response(_PROSE.encode() * 9 + b"\xe9" * n),
    "words of high bytes": lambda n: response(_PROSE.encode() * 9 + b"\xe9\xa4 " * (n // 3)),
    "all bytes": lambda n: response(_PROSE.encode() * 9 + bytes(range(32, 256)) * (n // 224)),
    "escape sequences": lambda n: response(
        b"\x1b$B" * (n // 3) + _PROSE.encode() * 9, mime="text/html; charset=iso-2022-jp"
    ),
    "NULs": lambda n: page("<p>" + filled("a\0b\0\0", n)),
    "controls": lambda n: page("<p>" + filled("a\1\x0b\x0c\x1f \x7f", n)),
    "lone surrogates": lambda n: page("<p>" + filled("\ud800 \udfff", n)),
    "CESU-8": lambda n: response(_PROSE.encode() * 9 + b"\xed\xa0\xbd\xed\xb8\x80 " * (n // 7)),
    "overlong UTF-8": lambda n: response(_PROSE.encode() * 9 + b"\xc0\xbc\xe0\x80\xbc" * (n // 5)),
    "UTF-32": lambda n: response(filled("<p>" + _PROSE, n // 4).encode("utf-32")),
    "UTF-16": lambda n: response(filled("<p>" + _PROSE, n // 2).encode("utf-16")),
    # What has crashed parsers: deep trees freed by recursion, selectors on them, fragments that
    # end within a token, text nodes of many megabytes, elements moved while they are iterated.
    "deep and cut off": lambda n: page("<div>" * (n // 10) + "<span" * (n // 10)),
    "frames in tables in selects": lambda n: page(filled("<select><table><frameset><svg>", n)),
    "templates in tables": lambda n: page(filled("<table><template><tr><template>", n)),
    "isindex and keygen": lambda n: page(filled("<isindex prompt=x><keygen><menuitem>", n)),
    "colons in names": lambda n: page(filled("<a:b:c x:y:z=1></a:b:c>", n)),
    "html in svg in html": lambda n: page(filled("<svg><foreignObject><html><body>", n)),
    "end of file in everything": lambda n: page(
        filled("<p>x", n) + "<!--<script><textarea><a b='&#x"
    ),
    "bidi and tags": lambda n: page("<p>" + filled("\u202ea\U000e0041\ufe0f\u200d", n)),
}

# --- Texts: a piece that is repeated, in a paragraph of a page and as a WET record. ---------------

TEXTS: dict[str, str] = {
    "angle brackets": "<",
    "punctuation": "<>()[]{}.,;:!?\"'",
    "one word": "x",
    "lines": "x\n",
    "blank lines": "x\n\n",
    "newlines": "\n",
    "spaces": " ",
    "dots": ". ",
    "initials": "A. ",
    "abbreviations": "Dr. ",
    "ellipses": "... ",
    "dashes": "a-a-",
    "dotted": "a.a.",
    "a word": "word ",
    "quotes": '"',
    "apostrophes": "'",
    "backticks": "`",
    "contractions": "can't ",
    "cannot": "cannot ",
    "at signs": "@",
    "a@": "a@",
    "a@b.c": "a@b.c",
    "addresses": "a@b.com ",
    "digits": "1",
    "single digits": "1 ",
    "plus": "+1",
    "dotted numbers": "1.1.1.1.",
    "hex groups": "2001:",
    "schemes": "http://",
    "Han": "漢",
    "emoji": "\U0001f3f4",
    "joiners": "a\u200d",
    "selectors": "\ufe0f",
    "tags": "\U000e0041",
    "accents": "\u0301",
    "key openings": "-----BEGIN ",
    "private keys": "-----BEGIN PRIVATE KEY-----",
    "web tokens": "eyJ.",
    "api keys": "sk-",
    "citations": "[1",
    "cards": "1234 ",
    "phones": "(202) ",
    "labels": "tel: ",
    "units": "5km",
    "degrees": "°C.",
    "policies": "uses cookie ",
    "braces": "{",
    "hashes": "#",
    "bullets": "- x\n",
    "views": "1 views\n",
    "capitals": "A",
    "Arabic": "\u0640",
    "Thai": "ก",
    "sharp s": "ß",
    "dotted I": "İ",
    "ligatures": "ﷺ",
}


def text_page(piece: str, size: int) -> bytes:
    escaped = filled(piece, size).replace("&", "&amp;").replace("<", "&lt;")
    return page(f"<pre>{escaped}</pre>")


ANIMALS: dict[str, Callable[[int], bytes | str]] = {
    "none": lambda n: page("<p>A page like others."),
    **PAGES,
    **{f"text: {name}": functools.partial(text_page, piece) for name, piece in TEXTS.items()},
    **{f"WET: {name}": functools.partial(filled, piece) for name, piece in TEXTS.items()},
    **{
        f"WET: noise of {alphabet!r}": functools.partial(_noise, alphabet)
        for alphabet in ("ab", "<>()[]{}.,;:!?\"'", "01.+-() ", "a@.-", "a \n", "'\"`“”’s ")
    },
}


# --- One animal in a process of its own. ----------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Cost:
    """What an animal did: seconds by stage, memory, what became of it and of its neighbours."""

    name: str
    size: int
    seconds: dict[str, float]
    memory_mb: float
    outcome: str  # `rejected_by`, "text", or how the process ended
    neighbours: str  # a hash of their rows of `documents` and `judged`

    @property
    def cpu(self) -> float:
        """Seconds of the most expensive way through all stages."""
        behind = sum(s for stage, s in self.seconds.items() if "." not in stage)
        for stage in ("extract.", "judge."):
            behind += max((s for n, s in self.seconds.items() if n.startswith(stage)), default=0)
        return behind


_END_SECONDS, _END_BYTES = 60, 3 << 30  # what takes more is not waited for


class Keeper:
    """All stages, loaded once; animals are looked after in forks of this process."""

    def __init__(self) -> None:
        from corpus import recipe
        from corpus.clean.contamination import build
        from corpus.clean.pii import Pii
        from corpus.text.prescreen import Look

        self.folder = tempfile.TemporaryDirectory()
        fineweb = recipe.load(PROJECT / "recipes" / "fineweb.toml")
        others = [recipe.load(PROJECT / "recipes" / f"{n}.toml") for n in ("fineweb-2024", "dclm")]
        every = dataclasses.replace(fineweb.look, min_score=0.0)
        longest = Look(languages=("en",), min_score=1.0, min_passage_chars=10**9)
        self.extract = {
            "extract.trafilatura": dataclasses.replace(fineweb, look=every),
            "extract.resiliparse": dataclasses.replace(others[1], look=every),
            "extract.look": dataclasses.replace(fineweb, look=longest),
        }
        judges = [fineweb, *others]
        self.judge = {f"judge.{one.name}": one for one in judges}
        passages = dataclasses.replace(fineweb.passages, unit="line")
        pii = Pii(*["replace"] * len(dataclasses.fields(Pii)))
        self.recipe = dataclasses.replace(fineweb, passages=passages, pii=pii)
        sets = Path(self.folder.name) / "set.jsonl"
        sets.write_text(json.dumps({"question": _PROSE}) + "\n")
        build({"set": sets}, 13, 8).save(Path(self.folder.name) / "index")
        self.seconds: dict[str, float] = {}
        self.path = Path(self.folder.name) / "zoo.warc"
        self.path.write_bytes(_archive(page("<p>A page to load everything with.")))
        self.look_after(self.path)
        self.memory_mb = 0.0
        self.without = self.measure("none", 0)
        self.memory_mb = self.without.memory_mb

    def look_after(self, path: Path) -> tuple[str, str]:
        """Read three records; what became of the middle one, and a hash of the others."""
        from corpus import worker_tasks
        from corpus.text.extract_page import Gates, extract_file
        from schemas.datasets import DOCUMENTS, SURVIVORS

        rows: dict[str, list[dict[str, Any]]] = {}
        self.seconds = {}
        for name, chosen in self.extract.items():
            with self._timed(name):
                found = extract_file(str(path), "zoo.warc", Gates(chosen.extract, chosen.look))
                rows[name] = [outcome.row for outcome in found if outcome.row]
        del rows["extract.look"]
        first = rows["extract.trafilatura"]
        documents = pa.RecordBatch.from_pylist(first, schema=DOCUMENTS)
        neighbours = []
        for name, chosen in self.judge.items():
            with self._timed(name):
                judged = next(worker_tasks.judge(chosen, documents))
            neighbours += [judged.slice(0, 1).to_pylist(), judged.slice(2, 1).to_pylist()]
        texts = [row for found_rows in rows.values() for row in found_rows[1:2] if row["text"]]
        if texts:
            row = max(texts, key=lambda row: len(row["text"]))
            row |= {"node": 1, "signal": 0.0, "cluster": 1, "cluster_size": 1, "removed": [0]}
            kept = pa.RecordBatch.from_pylist([row])
            with self._timed("bands"):
                assert next(worker_tasks.bands(self.recipe, kept)).num_rows == 1
            with self._timed("passages"):
                assert next(worker_tasks.list_passages(self.recipe, kept)).num_rows == 1
            survivors = pa.RecordBatch.from_pylist([row], schema=SURVIVORS)
            with self._timed("scrub"):
                canonical = next(worker_tasks.scrub(self.recipe, survivors))
            with self._timed("encode"):
                assert next(worker_tasks.encode(self.recipe, canonical)).num_rows == 1
            index = str(Path(self.folder.name) / "index").encode()
            with self._timed("contaminated"):
                placed = canonical.replace_schema_metadata({b"index": index})
                assert len(list(worker_tasks.contaminated(self.recipe, placed))) == 1
        outcome = first[1]["rejected_by"] or "text"
        for found_rows in rows.values():
            neighbours += [found_rows[0], found_rows[2]]
        return outcome, _hash(neighbours)

    def _timed(self, stage: str) -> _Timed:
        return _Timed(self.seconds, stage)

    def measure(self, name: str, size: int) -> Cost:
        """What the animal costs."""
        if not (born := os.fork()):  # not here, nor where memory is measured
            self.path.write_bytes(_archive(ANIMALS[name](size)))
            os._exit(0)
        assert os.waitpid(born, 0)[1] == 0
        read, write = os.pipe()
        child = os.fork()
        if not child:
            try:
                os.close(read)
                resource.setrlimit(resource.RLIMIT_CPU, (_END_SECONDS, _END_SECONDS))
                resource.setrlimit(resource.RLIMIT_AS, (_END_BYTES, _END_BYTES))
                outcome, neighbours = self.look_after(self.path)
                answer = json.dumps([self.seconds, outcome, neighbours])
            except BaseException as error:
                answer = json.dumps([self.seconds, f"failed: {error!r}", ""])
            with os.fdopen(write, "w") as pipe:
                pipe.write(answer)
            os._exit(0)
        os.close(write)
        with os.fdopen(read) as pipe:
            answer = pipe.read()
        _, status, usage = os.wait4(child, 0)
        memory = round(usage.ru_maxrss / 1024 - self.memory_mb)
        if not answer:
            ended = f"died: {os.waitstatus_to_exitcode(status)}"
            return Cost(name, size, {"died": usage.ru_utime + usage.ru_stime}, memory, ended, "")
        return Cost(name, size, *json.loads(answer)[:1], memory, *json.loads(answer)[1:])


class _Timed:
    """CPU seconds of the block, added under a name."""

    def __init__(self, seconds: dict[str, float], stage: str) -> None:
        self.seconds, self.stage = seconds, stage

    def __enter__(self) -> None:
        self.start = time.process_time()

    def __exit__(self, *error: object) -> None:
        self.seconds[self.stage] = round(at_reference_speed(time.process_time() - self.start), 3)


def _hash(rows: list[Any]) -> str:
    import hashlib

    text = json.dumps(rows, sort_keys=True, default=str)
    text = re.sub(r'"(record_offset|record_length)": \d+', "", text)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _archive(animal: bytes | str) -> bytes:
    """A WARC file of three records; a text is one of a WET file."""
    good = [page(f"<p>{_PROSE}</p><p>This is neighbour {i}, and it says so.</p>") for i in range(2)]
    kind, block = "response", animal
    if isinstance(block, str):
        kind, block = "conversion", block.encode("utf-8", "replace")
    blocks = [("response", good[0]), (kind, block), ("response", good[1])]
    return b"".join(
        f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Record-ID: <urn:uuid:{i}>\r\n"
        f"WARC-Target-URI: http://zoo.example/{i}\r\nWARC-Date: 2026-01-01T00:00:00Z\r\n"
        f"Content-Length: {len(block)}\r\n\r\n".encode()
        + block
        + b"\r\n\r\n"
        for i, (kind, block) in enumerate(blocks)
    )


# --- The proofs. ----------------------------------------------------------------------------------


def costs(sizes: tuple[int, ...], names: list[str]) -> dict[str, list[Cost]]:
    """What animals cost, by name and in the order of `sizes`; "none" first."""
    command = [sys.executable, __file__, *(f"--size={size}" for size in sizes), *names]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    found: dict[str, list[Cost]] = {}
    for line in done.stdout.splitlines():
        cost = Cost(**json.loads(line))
        found.setdefault(cost.name, []).append(cost)
    return found


def faults(found: dict[str, list[Cost]]) -> Iterator[str]:
    """What is wrong with animals: cost, growth, end, neighbours."""
    [without] = found.pop("none")
    for animals in found.values():
        for one in animals:
            if one.cpu > MAX_CPU_SECONDS:
                yield f"{one}: over {MAX_CPU_SECONDS} CPU seconds"
            if one.memory_mb > MAX_MEMORY_MB:
                yield f"{one}: over {MAX_MEMORY_MB} MB"
            if one.outcome.startswith(("died", "failed", "extraction_cpu", "extraction_memory")):
                yield f"{one}: no rejection and no row"
            elif one.neighbours != without.neighbours:
                yield f"{one}: the neighbours are not as without it"
        for small, large in itertools.pairwise(animals):
            growth = large.size / small.size * MAX_GROWTH / 2
            linear = large.name not in SQUARE
            if linear and large.cpu > growth * small.cpu + NOISE_SECONDS:
                yield f"{large.cpu:.2f} s after {small.cpu:.2f} s: not linear: {large}"


def summary(found: dict[str, list[Cost]]) -> str:
    """The figures."""
    every = [one for animals in found.values() for one in animals]
    by_cpu, by_memory = (max(every, key=lambda c: getattr(c, n)) for n in ("cpu", "memory_mb"))
    ends = Counter("a text" if one.outcome == "text" else "a rejection" for one in every)
    return (
        f"{len(found)} kinds, {len(every)} records of {min(c.size for c in every):,} to "
        f"{max(c.size for c in every):,} bytes; at most {by_cpu.cpu:.1f} CPU-s ({by_cpu.name}) and "
        f"{by_memory.memory_mb:.0f} MB ({by_memory.name}); {dict(ends)}; all neighbours intact"
    )


def test_the_zoo_is_fed_in_bounded_time(figures: Callable[[str, str], None]) -> None:
    names = [name for name in ANIMALS if name not in ("none",) and not name.startswith("text:")]
    assert len(PAGES) >= 60
    found = costs((48_000,), names)
    assert not list(faults(found))
    slow = [one for [one] in found.values() if one.cpu > 1.5]  # of a page of 48 kB
    assert not slow
    figures("bounded cost (quick)", summary(found))


@pytest.mark.soak
def test_the_zoo_grown_up_is_fed_in_bounded_time(figures: Callable[[str, str], None]) -> None:
    """Up to what a page may have: a text of a million characters, a page of eight megabytes."""
    names = [name for name in ANIMALS if name != "none"]
    found = costs((450_000, 900_000), names)
    assert not list(faults(found))
    figures("bounded cost (soak)", summary(found))
    largest = costs((7_900_000,), list(PAGES))  # of which the growth is not asked for
    assert not list(faults(largest))
    figures("bounded cost (soak, 8 MB)", summary(largest))


@pytest.mark.soak
def test_one_page_in_a_thousand_slows_a_job_little(
    tmp_path: Path, figures: Callable[[str, str], None]
) -> None:
    """Extraction and filters of 2,000 ordinary records, with and without two of a mean cost."""
    from corpus import recipe, worker_tasks
    from corpus.text.extract_page import Gates, extract_file
    from schemas.datasets import DOCUMENTS

    fineweb = recipe.load(PROJECT / "recipes" / "fineweb.toml")
    ordinary = page("".join(f"<p>{_PROSE} Then came year {i}.</p>" for i in range(60)))

    def seconds(animals: list[bytes | str]) -> float:
        path = tmp_path / "job.warc"
        path.write_bytes(b"".join(_archive(one) for one in animals))
        start = time.process_time()
        found = extract_file(str(path), "job.warc", Gates(fineweb.extract, fineweb.look))
        rows = [outcome.row for outcome in found]
        batches = itertools.batched if sys.version_info >= (3, 12) else _batched
        for part in batches(rows, 256):
            list(
                worker_tasks.judge(
                    fineweb, pa.RecordBatch.from_pylist(list(part), schema=DOCUMENTS)
                )
            )
        return time.process_time() - start

    drawn = random.Random(SEED)
    alone = costs((500_000,), drawn.sample([*PAGES], 24))
    del alone["none"]
    mean = sum(one.cpu for [one] in alone.values()) / len(alone)
    middle = sorted(alone, key=lambda name: abs(alone[name][0].cpu - mean))[:2]
    records: list[list[bytes | str]] = [[ordinary] * 667, [ordinary] * 665]
    records[1] += [PAGES[name](500_000) for name in middle]
    runs = [[seconds(job) for job in records] for _ in range(3)]
    without, with_two = map(min, zip(*runs, strict=True))
    slower, own = with_two / without - 1, 2 * mean / without
    every = f"two of a mean cost of {mean:.2f} s: {', '.join(middle)}; seed {SEED}"
    figures("0.1% of the zoo in a job", f"{slower:+.1%} CPU, {own:.1%} by their own ({every})")
    assert own <= 0.10
    assert slower <= 0.15  # CPU time of the best of three runs differs by some hundredths


def _batched(rows: list[Any], size: int) -> Iterator[list[Any]]:
    yield from (rows[at : at + size] for at in range(0, len(rows), size))


# --- Regular expressions. -------------------------------------------------------------------------

# Every pattern of the package by module and name: how it is used, and a trap for it, text repeated
# that it nearly matches, or matches in many ways. It is looked for everywhere (""), or asked for a
# "match" at a place, or looked for in windows of so many characters.
TRAPS: dict[str, tuple[str, str]] = {
    "c4._CITATION": ("", "[1"),
    "charset._TAG_ATTRIBUTE": ("2048", "a= "),
    "charset._FAULTS": ("", "a¡"),
    "rules._UNICODE_WORD": ("", "a.1'"),
    "rules._BLANK_LINES": ("", "\n"),
    "extract_page._DUMP": ("", "CC-MAIN-2026-"),
    "extract_page._CHARSET": ("", "charset = "),
    "http._STATUS_LINE": ("match", "HTTP "),
    "http._HEADER_END": ("", "\n\r\r"),
    "http._CHUNK_SIZE": ("match", "0 "),
    "http._BINARY": ("", "\x7f"),
    "clean_unicode._SUSPECT": ("", "a\u200d"),
    "clean_unicode._USELESS_CHARACTERS": ("", "\x01"),
    "clean_unicode._BREAK_CHARACTERS": ("", "\x0b"),
    "clean_unicode._C1_CHARACTERS": ("", "\x92"),
    "clean_unicode._FLAG_OR_TAGS": ("", "\U0001f3f4\U000e0067\U000e0062"),
    "clean_unicode._SELECTOR_RUN": ("", "\ufe0f"),
    "clean_unicode._BASES": ("", "❤"),
    "clean_unicode._IDEOGRAPH": ("", "漢"),
    "clean_unicode._JOINING": ("", "ب"),
    "clean_unicode._UNSPACED": ("", "ก"),
    "clean_unicode._ZERO_WIDTH_RUN": ("", "\u200b"),
    "clean_unicode._BEFORE_EMOJI_JOINER": ("", "❤"),
    "clean_unicode._PICTOGRAPH": ("", "❤"),
    "prescreen._OPENING": ("", "<script"),
    "prescreen._CLOSING": ("", "</scrip-"),
    "prescreen._BLOCK": ("", "</div"),
    "prescreen._TAG": ("", "<a"),
    "main_text._TAG": ("", "<"),
    "main_text._NAME": ("", "<a"),
    "main_text._ATTRIBUTES": ("", "a = "),
    "main_text._ALL_ATTRIBUTES": ("", "<a b='"),
    "main_text._UNUSUAL_ATTRIBUTES": ("", "<a b='"),
    "main_text._FORMATTING": ("", "<b c='"),
    "fast_trafilatura._CONTROL_REFERENCE": ("", "&#0"),
    "refinedweb._COUNTER": ("match", "1., "),
    "refinedweb._WORD_START": ("", " a"),
    "opt_out._NOAI": ("", "noai_"),
    "shards.LONG_BLANKS": ("", " "),
    "treebank._CONTRACTION": ("", "cannot"),
    "treebank._STEPS": ("", ".')"),
    "treebank._PLAIN": ("match", "a b "),
    "treebank._MARK": ("", ".')"),
    "treebank._LETTERS": ("match", "A."),
    "url_filter._NOT_ALNUM": ("", "-"),
    "url_filter._AUTHORITY": ("match", " a:"),
    "url_filter._SCHEME_AND_WWW": ("match", "a+"),
    "word_hashes.SPACELESS": ("", "漢"),
    "word_hashes._UNMARKED": ("", "é"),
    "word_hashes._LOOSE": ("", "\u0301"),
    "words._PREFIX": ("", "US"),
    "words._SUFFIX": ("", "US$1"),
    "words._INFIX": ("", "a--"),
    "words._SCHEME": ("match", "a+.-"),
    "words._ADDRESS": ("match", "a-a."),
    # Personal data.
    "pii._DOMAIN": ("match", "a-.a"),
    "pii._KEYS": ("", "eyJaaaaaaaaaa."),
    "pii._PRIVATE_KEY": ("", "-----BEGIN PRIVATE KEY-----a"),
    "pii._KEY_MATERIAL": ("", "a" * 39 + " "),
    # Names of archives, headers and settings: of bounded length, or not of pages.
    **dict.fromkeys(("records", "stream", "removals"), ("match", "a:")),
    **dict.fromkeys(("files", "contamination", "fast_trafilatura"), ("match", "a ")),
    **dict.fromkeys(("pii._HEADING", "pii._TITLE"), ("match", ". ")),
    "pii": ("", "1-(2) "),
}
# Modules of which every pattern is tried on the trap above, and on those of all others.
_WHOLE_MODULES = {name for name in TRAPS if "." not in name}


def patterns() -> dict[str, list[Any]]:
    """Compiled patterns of the package's modules, by module and global name."""
    found: dict[str, list[Any]] = {}
    seen = set[int]()
    for module in pkgutil.walk_packages(corpus.__path__, "corpus."):
        loaded = importlib.import_module(module.name)
        stem = module.name.rpartition(".")[2]
        for name, value in vars(loaded).items():
            for pattern in _patterns_in(value):
                if id(pattern) not in seen:  # imported from another module
                    seen.add(id(pattern))
                    found.setdefault(f"{stem}.{name}", []).append(pattern)
    return found


def _patterns_in(value: Any) -> Iterator[Any]:
    if isinstance(value, (re.Pattern, regex.Pattern)):
        yield value
    elif isinstance(value, (dict, list, tuple)):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _patterns_in(part)


def trap_of(name: str) -> tuple[str, str] | None:
    """How a pattern is used and its trap."""
    module = name.partition(".")[0]
    return TRAPS.get(name) or (TRAPS[module] if module in _WHOLE_MODULES else None)


def seconds_on(pattern: Any, use: str, text: str) -> float:
    """CPU seconds that a pattern takes on a text as it is used."""
    subject = text.encode() if isinstance(pattern.pattern, bytes) else text
    start = time.process_time()
    if use == "match":
        pattern.match(subject)
        pattern.fullmatch(subject)
    else:
        window = int(use or len(subject))
        for at in range(0, len(subject), window):
            for _ in pattern.finditer(subject[at : at + window]):
                pass
    return time.process_time() - start


def test_every_pattern_has_a_trap() -> None:
    """A new one needs an entry in TRAPS."""
    assert [name for name in patterns() if trap_of(name) is None] == []
    assert [name for name in TRAPS if "." in name and name not in patterns()] == []


# Used on windows of fixed length alone, and quadratic on longer ones.
_IN_WINDOWS = {"pii._PHONE_LABEL", "pii._SSN_LABEL", "pii._SECTION"}


def slow_patterns(size: int, others: int, ends: tuple[str, ...]) -> Iterator[str]:
    """Patterns whose time more than triples from `size` characters of their trap to twice as many,
    or from `others` characters of any other trap or text.
    """
    pieces = dict.fromkeys([trap for _, trap in TRAPS.values()] + list(TEXTS.values()))
    for name, found in patterns().items():
        use, own = trap_of(name) or ("", "")
        use = "64" if name in _IN_WINDOWS else use
        for pattern, piece, end in itertools.product(found, pieces, ends):
            num = size if piece == own else others
            if not num:
                continue
            once, twice = (filled(piece, n) + end for n in (num, 2 * num))
            long = seconds_on(pattern, use, twice)
            if long > 0.05:
                short = min(seconds_on(pattern, use, once) for _ in range(4))
                long = min(long, *(seconds_on(pattern, use, twice) for _ in range(4)))
                if long > MAX_GROWTH * short + 0.02:
                    yield f"{name} on {piece!r}{end!r}: {short:.3f} s, then {long:.3f} s"


def test_no_pattern_of_ours_backtracks(figures: Callable[[str, str], None]) -> None:
    """Every pattern on every trap, and every text of the zoo."""
    assert not list(slow_patterns(20_000, 0, ("", "!", "\n")))
    count = sum(map(len, patterns().values()))
    figures("regex traps", f"{count} patterns, each on its trap at 20,000 and 40,000: none slow")


@pytest.mark.soak
def test_no_pattern_of_ours_backtracks_on_long_texts() -> None:
    assert not list(slow_patterns(100_000, 3_000, ("!",)))


# Patterns that are not compiled to a name: module and pattern, with what runs into it.
_INLINE = {
    "charset": 5, "extract_page": 1, "pii": 3, "refinedweb": 1, "removals": 2,
}  # fmt: skip


def test_patterns_without_a_name_are_few_and_known() -> None:
    """Each is asked of a bounded text (a label, a head, a number), or is one class repeated."""
    counts = Counter[str]()
    for path in (PROJECT / "corpus").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                module = node.func.value
                of_re = isinstance(module, ast.Name) and module.id in ("re", "regex")
                if of_re and node.func.attr not in ("compile", "escape"):
                    counts[path.stem] += 1
    assert dict(counts) == _INLINE


def main() -> None:
    """Print a line of JSON for each animal, and one without any before them."""
    options = argparse.ArgumentParser()
    options.add_argument("--size", type=int, action="append")
    options.add_argument("names", nargs="*")
    chosen = options.parse_args()
    keeper = Keeper()
    print(json.dumps(dataclasses.asdict(keeper.without)))
    for name in chosen.names or ANIMALS:
        for size in chosen.size or [1 << 20]:
            print(json.dumps(dataclasses.asdict(keeper.measure(name, size))), flush=True)


if __name__ == "__main__":
    main()

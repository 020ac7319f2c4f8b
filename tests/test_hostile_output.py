"""Text of the web on a terminal and in a browser: shown, and never obeyed.

Every field of a corpus that somebody else writes holds escape sequences, control characters, marks
that reorder text, rich's markup and HTML. What the commands print goes through a terminal emulator,
the HTML report through a browser.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import pytest
import torch

from corpus import recipe, worker_tasks
from corpus.dedup import minhash
from jobs import cli
from jobs.engine import dataset_io
from jobs.reports import explain, report
from schemas import manifest
from schemas.datasets import BANDS, CANONICAL, CLUSTERS, CONTAMINATION, DOCUMENTS, PII_KINDS, SHARDS
from schemas.errors import UserError
from schemas.manifest import ContaminationExtra, DocumentsFile, Extra, Manifest, SetCounts
from schemas.printing import PlainConsole, printable
from tests.listed_shards import listed_as_shard
from trainer import cli as trainer_cli
from trainer.generate.streaming import Screen, TextStream
from trainer.model import checkpoint
from trainer.model.model import LanguageModel, ModelConfig
from trainer.settings import ModelSettings
from trainer.train import run_folder

SEQUENCES = (
    "\x1b]0;PWNED\x07", "\x1b]2;PWNED\x1b\\", "\x9d0;PWNED\x9c",  # the window's title
    "\x1b]8;;http://evil.example\x07x\x1b]8;;\x07", "\x1b]52;c;UFdORUQ=\x07",  # link, clipboard
    "\x1b[2J", "\x9b2J", "\x1b[H", "\x1b[9A", "\x1bc", "\x1b[?1049h", "\x1b[?25l", "\x1b[?1000h",
    "\x1b[6n", "\x1b[c", "\x05", "\x1b(0", "\x0e", "\x1b[8m", "\x1b[4h", "\x1bP$qm\x1b\\",
    "\x07", "\x08" * 9, "\r", "\x0b", "\x0c", "\x7f", "\x84", "\x85", "\x8d", "\x00",
    "\u202e", "\u202d", "\u2066", "\u2067", "\u200f", "\u061c", "\u2028", "\u2029", "\ufff9",
)  # fmt: skip
MARKUP = "[red]x[/red] [/oops] [link=http://evil.example]y[/link] [bold :smile: {0} %s \\[b]"
RUN = "document.title='PWNED';document.body.append(document.createElement('pwned'))"
HTML = (
    f"<script>{RUN}</script>", f"</title><script>{RUN}</script>", f"</style><script>{RUN}</script>",
    f'"><img src=x onerror="{RUN}">', f"'><svg onload='{RUN}'>", f"<body onload=\"{RUN}\">",
    '<meta http-equiv="refresh" content="0;url=data:text/html,PWNED">', "<base href=//a.example>",
    "<!--", "&#60;script&#62;",
)  # fmt: skip
EVIL = "".join(f"{number}{one}" for number, one in enumerate(SEQUENCES)) + MARKUP + HTML[0]
URL = f"https://evil.example/{EVIL}"
SAFE = re.compile(
    r"[^\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufff9]*"
)
BAR = re.compile(r"(?m)^(?:\x1b\[(?:\?25[lh]|2K|1A)|\r)+")  # and for a bar, at lines' beginnings
STYLES = re.compile(r"\x1b\[[0-9;]*m")  # what rich writes for colours


def unsafe(text: str) -> str:
    """What of a command's output, without rich's own colours, would control a terminal."""
    hidden = "\x1b[8m" if "\x1b[8m" in text else ""  # the one style in `SEQUENCES`
    return hidden + SAFE.sub("", STYLES.sub("", text))


def test_the_check_sees_each_sequence() -> None:
    for one in SEQUENCES:
        assert unsafe(one), repr(one)
    assert not unsafe("日本語\t🙂‍👧 قلم\n\x1b[1;31mred\x1b[0m")
    assert not unsafe(printable(EVIL))


def _row(offset: int, **columns: Any) -> dict[str, Any]:
    texts = {f.name: EVIL for f in DOCUMENTS if pa.types.is_string(f.type)}
    row: dict[str, Any] = {**dict.fromkeys(DOCUMENTS.names), **texts}
    row |= {"id": f"{offset} {EVIL}", "url": URL, "record_offset": offset, "record_length": 1}
    row |= {"truncated": True, "noai": False, "tdm_reservation": False, "http_status": 200}
    row["content_type"] = "text/html"  # whose gate whatif passes again
    return row | columns


ROWS = [
    _row(0, rejected_by=None, detail=None, language="en", language_score=0.9, html_bytes=9),
    _row(100, text=None, language=None, http_status=404, rejected_by="bad_status"),
    _row(200, rejected_by=None, detail=None, language_score=0.1, html_bytes=9),
]
COUNTS = {  # as a report adds them up
    "documents": {EVIL: 3, "extracted": 2, f"{EVIL}2": 1},
    "judged": {"kept": 2, f"{EVIL}2": 1},
    "bands": {"repeated_ids": 0},
    "clusters": {"kept": 1, f"{EVIL}3": 1},
    "contamination": {"contaminated": 1},
}


def _commit(root: Path, name: str, rows: pa.Table, settings: Any, inputs: dict[str, str]) -> str:
    file = dataset_io.write_table(root / name, rows)
    extra: Any = Extra()
    if name == "shards":
        file, extra = listed_as_shard(file, EVIL.replace("\0", ""))
    elif name == "documents":
        file = dataclasses.replace(file, extra=DocumentsFile((EVIL,)))
    elif name == "contamination":
        extra = ContaminationExtra("flag", (SetCounts(EVIL, 1, 0, documents=1, found=1),))
    engine = {"seconds": 1.0, "engine": EVIL}
    made = Manifest(name, EVIL, settings, inputs, (file,), COUNTS.get(name, {}), extra, engine)
    manifest.write(root / name, made)
    return made.fingerprint


def _member(offset: int) -> dict[str, Any]:
    row = {name: ROWS[offset // 100][name] for name in ("id", "file_path", "record_offset")}
    of = ROWS[0]["id"] if offset else None
    row |= {"node": offset, "cluster": 7, "cluster_size": 3, "duplicate_of": of}
    row |= {"duplicate_node": 0 if of else None, "duplicate_root": EVIL if offset == 200 else None}
    return row | {"duplicate_kind": EVIL if of else None}


def _bands(settings: recipe.Recipe, judged: pa.Table) -> pa.Table:
    """Of the first document, as `_member` numbers it."""
    kept = judged.slice(0, 1).append_column("signal", pa.nulls(1, pa.float64()))
    (batch,) = kept.combine_chunks().to_batches()
    (found,) = worker_tasks.bands(settings, batch)
    rows = [row | {"node": 0} for row in found.to_pylist()]
    return pa.Table.from_pylist(rows, BANDS)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus in which every text is `EVIL`."""
    folder = tmp_path_factory.mktemp("root")
    settings = recipe.Recipe(name=EVIL)
    documents = pa.Table.from_pylist(ROWS, DOCUMENTS)
    sections = settings.settings("extract", "url", "look")
    first = _commit(folder, "documents", documents, sections, {})
    judged = pa.Table.from_batches(
        [b for d in documents.to_batches() for b in worker_tasks.judge(settings, d)]
    )
    place = judged.schema.get_field_index("text")  # a filter took the texts
    judged = judged.set_column(place, judged.schema.field(place), documents["text"])
    (folder / "text").write_text(EVIL, encoding="utf-8", newline="")
    second = _commit(folder, "judged", judged, settings.settings("filters"), {"documents": first})
    inputs = {"judged": second, "minhash.scheme": minhash.SCHEME}
    bands = _commit(folder, "bands", _bands(settings, judged), settings.settings("minhash"), inputs)
    clusters = pa.Table.from_pylist([_member(offset) for offset in (0, 100, 200)], CLUSTERS)
    _commit(folder, "clusters", clusters, {}, {"bands": bands})
    kept = judged.filter(ds.field("record_offset") == 0)
    pii = pa.array([dict.fromkeys(PII_KINDS, 1)], CANONICAL.field("pii").type)
    added = {"cluster": pa.array([7]), "cluster_size": pa.array([3]), "pii": pii}
    columns = [added[n] if n in added else kept[n] for n in CANONICAL.names]
    third = _commit(folder, "canonical", pa.table(columns, schema=CANONICAL), {}, {"bands": bands})
    found = {f.name: EVIL if pa.types.is_string(f.type) else 0 for f in CONTAMINATION}
    found |= {name: ROWS[0][name] for name in ("id", "file_path", "record_offset")}
    lists = {f.name: [] for f in CONTAMINATION if pa.types.is_list(f.type)}
    rows = pa.Table.from_pylist([{**found, **lists}], CONTAMINATION)
    _commit(folder, "contamination", rows, {}, {"canonical": third})
    shard = {"tokens": [1, 2, 3], "token_count": 3, **{n: ROWS[0][n] for n in SHARDS.names[2:]}}
    _commit(folder, "shards", pa.Table.from_pylist([shard], SHARDS), {}, {"canonical": third})
    return folder


COMMANDS: dict[str, list[str]] = {
    "explain a URL": ["explain", "--root", "{root}", "--url", URL],
    "explain what is not there": ["explain", "--root", "{root}", "--url", "http://evil.example/a"],
    "explain an id": ["explain", "--root", "{root}", "--id", ROWS[1]["id"]],
    "explain as JSON": ["explain", "--root", "{root}", "--url", URL, "--json"],
    "where": ["where", "--root", "{root}", "--url", URL],
    "where as JSON": ["where", "--root", "{root}", "--url", URL, "--json"],
    "whatif": ["whatif", "--root", "{root}", "--set", "language.min_score=0.05"],
    "whatif as JSON": ["whatif", "--root", "{root}", "--set", "language.min_score=0.05", "--json"],
    "similar": ["similar", "--root", "{root}", "--text", "{text}"],
    "similar as JSON": ["similar", "--root", "{root}", "--text", "{text}", "--json"],
    "whatif of a hostile setting": ["whatif", "--root", "{root}", "--set", "'\\u001b[2J'=1"],
    "report": ["report", "--root", "{root}", "--html", "{html}"],
    "report as JSON": ["report", "--root", "{root}", "--json"],
    "a recipe with hostile keys": ["filter", "--recipe", "{recipe}", "--root", "{root}"],
    "a file that is not there": ["filter", "--recipe", EVIL.replace("\0", ""), "--root", "{root}"],
}


@pytest.mark.parametrize("terminal", [False, True])
@pytest.mark.parametrize("name", COMMANDS)
def test_no_command_lets_a_control_character_through(
    name: str, terminal: bool, root: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    if terminal:
        monkeypatch.setenv("FORCE_COLOR", "1")
        monkeypatch.setenv("TERM", "xterm-256color")
    written = tmp_path / "a.toml"
    written.write_text('["\\u001b]0;PWNED\\u0007\\u202e[red]"]\na = 1\n')
    named = {"{root}": str(root), "{recipe}": str(written), "{html}": str(tmp_path / "a.html")}
    named["{text}"] = str(root / "text")
    code = cli.main([named.get(word, word) for word in COMMANDS[name]])
    said = capsys.readouterr()
    assert code in (0, 2), said.err[-1500:]
    assert said.out or said.err
    for text in (said.out, BAR.sub("", said.err)):
        assert not unsafe(text), repr(unsafe(text)[:50])
        _obeys_nothing(text)
    if code == 0 and "JSON" not in name and not terminal:
        assert "[/oops]" in said.out, "markup is shown as it stands"


def _obeys_nothing(text: str) -> None:
    """A terminal that was sent `text` is, but for what it shows, as it was."""
    pyte = pytest.importorskip("pyte", reason="needs pyte, a terminal emulator (extra test)")
    answers: list[str] = []
    screen = pyte.Screen(100, 40)
    before = set(screen.mode)
    screen.set_mode(pyte.modes.LNM)
    screen.write_process_input = answers.append
    pyte.Stream(screen).feed(text)
    assert screen.title == screen.icon_name == ""
    assert screen.mode - {pyte.modes.LNM} == before - {pyte.modes.LNM}
    assert (screen.charset, screen.margins, answers) == (0, None, [])
    assert not screen.cursor.hidden


def test_the_emulator_obeys_what_was_not_made_printable() -> None:
    with pytest.raises(AssertionError):
        _obeys_nothing("\x1b]0;PWNED\x07")
    with pytest.raises(AssertionError):
        _obeys_nothing("\x1b[6n")


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """Token shards of hostile texts, and the tests' tokenizer."""
    path = Path(__file__).parent / "trainer" / "conftest.py"
    spec = importlib.util.spec_from_file_location("trainer_conftest", path)
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    known = made.tiny_tokenizer()
    folder = made.write_shards(tmp_path_factory.mktemp("s") / "shards", [EVIL] * 20, known)
    return folder, known


@pytest.mark.parametrize("flags", [["show-batch"], ["where", "--step", "0", "--pos", "3"]])
@pytest.mark.parametrize("terminal", [False, True])
def test_the_trainer_shows_batches_as_text(
    flags: list[str], terminal: bool, shards: tuple[Path, Any],
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    if terminal:
        monkeypatch.setenv("FORCE_COLOR", "1")
        monkeypatch.setenv("TERM", "xterm-256color")
    name, *rest = flags
    arguments = [name, "--shards", str(shards[0]), "--seq-len", "512", "--batch-size", "2", *rest]
    assert trainer_cli.main(arguments) == 0
    said = capsys.readouterr()
    for text in (said.out, said.err):
        assert not unsafe(text), repr(unsafe(text)[:50])
        _obeys_nothing(text)


@pytest.mark.parametrize("size", [1, 2, 3, 1000])
def test_what_a_model_writes_is_shown_and_not_obeyed(
    size: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """However its bytes are cut into tokens."""
    screen, stream, data = Screen(), TextStream(), EVIL.encode()
    for begin in range(0, len(data), size):
        screen.text(stream.take(data[begin : begin + size]))
    screen.text(stream.close())
    screen.line(EVIL)
    screen.remark(EVIL)
    said = capsys.readouterr()
    for text in (said.out, said.err):
        assert not unsafe(text)
        assert MARKUP in text
        _obeys_nothing(text)


def test_samples_of_a_model_that_writes_control_bytes(
    tmp_path: Path, shards: tuple[Path, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """A model whose every token is the byte of an escape, or begins a sequence."""
    known = shards[1]
    shape = ModelSettings(16, 1, 2, 1, 8, 32, tie_word_embeddings=False)
    model = LanguageModel(ModelConfig(shape, known.padded_vocab_size, known.boundary, 64))
    with torch.no_grad():
        model.lm_head.weight.zero_()
    checkpoint.save(tmp_path, 1, model, known, {"kind": "pretrain"})
    drawn = ["--temperature", "1", "--top-k", "0", "--max-tokens", "40", "--num-samples", "8"]
    assert trainer_cli.main(
        ["sample", "--checkpoint", str(tmp_path), "--prompt", EVIL[:40], *drawn]
    ) == 0  # fmt: skip
    said = capsys.readouterr()
    assert "\N{REPLACEMENT CHARACTER}" in said.out
    for text in (said.out, said.err):
        assert not unsafe(text)
        _obeys_nothing(text)


def test_errors_and_consoles_print_no_control_character(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert not unsafe(str(UserError(EVIL)))
    for console in (PlainConsole(), PlainConsole(stderr=True), PlainConsole(force_terminal=True)):
        console.print(EVIL, soft_wrap=True)
        console.print(report._table(EVIL))
    said = capsys.readouterr()
    assert not unsafe(said.out + said.err)
    assert "[/oops]" in said.out
    assert "[/oops]" in said.err


def hostile_funnel() -> report.Funnel:
    names = [*HTML, EVIL, MARKUP]
    counts = {name: number + 1 for number, name in enumerate(names)}
    numbers = {"threshold": 0.5, "precision": 1.0, "precision_low": 0.5, "precision_high": 1.0}
    more = {"recall": 1.0, "num_survivors": 1, "survivors": 1.0, "num_pairs": 1}
    return report.Funnel(
        recipe="".join(names), records=sum(counts.values()), outcomes=counts, documents=1,
        rejected=counts, kept=1, duplicates=1, duplicates_by_kind=counts, repeated_ids=0, links={},
        estimate={**numbers, **more}, passages={}, canonical=1, contaminated=0, pii={}, shards=1,
        tokens=1, tokens_by_split={}, tokenizer=HTML[0], seconds=dict.fromkeys(names, 1.0),
        engines={name: name for name in names},
    )  # fmt: skip


def test_the_report_is_escaped_and_forbids_scripts() -> None:
    page = report.page(hostile_funnel())
    assert "<script" not in page
    assert "<img" not in page
    assert not unsafe(page)
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)
    assert policy is not None
    assert "default-src 'none'" in policy[1]
    assert page.index("Content-Security-Policy") < page.index("<title>")


def in_browser(page: str, folder: Path) -> str:
    """The page's DOM after a browser loaded it; the test is skipped where there is no browser."""
    names = ("chromium", "chromium-browser", "google-chrome")
    browser = next(filter(None, map(shutil.which, names)), None)
    if browser is None:
        pytest.skip("needs chromium, which is not on this machine")
    path = folder / "page.html"
    path.write_text(page, encoding="utf-8")
    command = [
        browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync",
        "--disable-dev-shm-usage", f"--user-data-dir={folder / 'profile'}", "--dump-dom",
        path.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    return done.stdout


def test_no_script_of_a_report_runs_in_a_browser(
    tmp_path: Path, figures: Callable[[str, str], None]
) -> None:
    page = report.page(hostile_funnel())
    shown = in_browser(page, tmp_path)
    assert "<pwned>" not in shown
    title = re.search("<title>(.*?)</title>", shown, re.S)
    assert title is not None
    assert title[1].startswith("Gristmill: the funnel of")
    assert "[/oops]" in shown
    # Without escapes and policy the same texts do run: the check can fail.
    bare = report._POLICY
    open_page = page.replace(f'content="{bare}"', 'content=""')
    assert "<pwned>" in in_browser(open_page.replace("</body>", f"{HTML[0]}</body>"), tmp_path)
    assert "<pwned>" not in in_browser(page.replace("</body>", f"{HTML[0]}</body>"), tmp_path)
    figures("nothing in data controls a browser",
            f"{len(HTML)} HTML payloads in every name of a report, in Chromium: 0 scripts ran, 0 "
            "also where one is not escaped (the page's policy)")  # fmt: skip


def test_every_command_was_tried(root: Path, figures: Callable[[str, str], None]) -> None:
    assert explain.open_root(root).absent == {}
    figures("nothing in data controls a terminal",
            f"{len(SEQUENCES)} sequences in every text of a corpus, {len(COMMANDS)} commands, "
            "batches, samples, errors, as a pipe and as a terminal: 0 effects")  # fmt: skip


def test_a_log_is_read_though_a_sample_holds_other_line_ends(tmp_path: Path) -> None:
    """A model that wrote U+2028 left a run that could not be resumed."""
    record = {"step": 1, "sample": "".join(SEQUENCES) + "\u2028\x85\x1c\n"}
    run_folder.log(tmp_path, record)
    run_folder.log(tmp_path, {"step": 2})
    assert run_folder.read_log(tmp_path) == [record, {"step": 2}]


@pytest.mark.parametrize("terminal", [False, True])
def test_conversations_are_shown_and_counted_as_text(
    terminal: bool, shards: tuple[Path, Any], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    if terminal:
        monkeypatch.setenv("FORCE_COLOR", "1")
        monkeypatch.setenv("TERM", "xterm-256color")
    call = {"function": {"name": EVIL, "arguments": {EVIL: EVIL}}}
    messages = [
        {"role": "system", "content": EVIL},
        {"role": "user", "content": EVIL},
        {"role": "assistant", "content": EVIL, "tool_calls": [call]},
        {"role": "tool", "content": EVIL},
        {"role": "assistant", "content": EVIL},
    ]
    rows: list[Any] = [{"id": f"{i}{EVIL}", "messages": messages} for i in range(20)]
    rows += [{EVIL: EVIL}, {"messages": [{"role": EVIL}]}]
    chats, known = tmp_path / "chats\u202e[red].jsonl", tmp_path / "tiny.json"
    chats.write_text("\n".join(map(json.dumps, rows)))
    shards[1].save(known)
    arguments = ["--input", str(chats), "--tokenizer", str(known), "--context", "100000"]
    arguments += ["--validation-fraction", "0.5"]
    for more in (["--show", "2"], []):
        root = tmp_path / "root"
        assert cli.main(["conversations", *arguments, "--root", str(root), *more]) == 0
        said = capsys.readouterr()
        assert said.out or said.err
        for text in (said.out, BAR.sub("", said.err)):
            assert not unsafe(text), repr(unsafe(text)[:50])
            _obeys_nothing(text)

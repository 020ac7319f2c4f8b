"""FineWeb's recipe by Gristmill and by datatrove on the same WARC files, in one run.

    make bench-datatrove                      # real pages in ../shared/crawl
    make bench-datatrove BENCH_INPUT='crawl/*.warc.gz'

Both read the files, extract, and filter, with the same trafilatura and language model,
`deduplicate` off, on the same cores. CPU seconds are those of the whole process tree, memory is
each process's peak. The marginal cost a page is the difference between all files and the first one,
which leaves out what a run costs before its first page. Then page by page: who keeps what, why not,
and whether the text is the same.
"""

from __future__ import annotations

import argparse
import contextlib
import glob
import hashlib
import json
import os
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from common.measured import Run, measured, work_folder
from corpus.text import language_id

PROJECT = Path(__file__).parents[1]
PEER = Path(__file__).parent / "peers" / "datatrove_fineweb.py"
RECIPES = PROJECT / "recipes"
DEFAULT_INPUT = str(PROJECT.parent / "shared" / "crawl" / "REALWEB-public-*.warc.gz")
# Our reasons by datatrove's step; what has none there: pages that it loses without a word.
STEPS = ("url", "language", "gopher_repetition", "gopher_quality", "c4", "fineweb_quality")
Fates = dict[str, tuple[str, str]]  # id -> (kept or the step that rejects, hash of a kept text)


@dataclass
class Contender:
    """A system, what it decided, and its quickest runs on all files and on the first one."""

    name: str
    command: Callable[[Path, list[Path]], list[str]]  # of a folder for its output, and the files
    fates_in: Callable[[Path], Fates]
    all_files: Run | None = None
    first_file: Run | None = None
    fates: Fates = field(default_factory=dict)


def main() -> None:
    """Run both, print the tables."""
    arguments = _arguments()
    files = [Path(path) for path in sorted(glob.glob(arguments.input))]  # noqa: PTH207
    if not files:
        raise SystemExit(f"--input {arguments.input}: no such files")
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: arguments.workers])
    with contextlib.ExitStack() as stack:
        work = work_folder(stack, arguments.work)
        bench = Bench(work, files, arguments)
        peer, fineweb = bench.datatrove(), RECIPES / "fineweb.toml"
        ours = [bench.gristmill("fineweb.toml", fineweb)]
        if arguments.master:
            name = f"  on Spark {arguments.master}"
            ours.append(bench.gristmill(name, fineweb, ["--master", arguments.master]))
        ours.append(bench.gristmill("  and URL lists", bench.with_url_lists()))
        ours.append(bench.gristmill("dclm.toml", RECIPES / "dclm.toml"))
        for _ in range(arguments.repeat):
            for contender in (peer, *ours):
                bench.run(contender)
    console = Console(width=120)
    pages = sum(_num_pages(file) for file in files), _num_pages(files[0])
    console.print(_cost_table(peer, ours, pages))
    compared = [ours[0], next(one for one in ours if "lists" in one.name)]
    console.print(_decision_table(peer, compared))
    for one in compared:
        console.print(_step_table(peer.fates, one))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--input", default=DEFAULT_INPUT, metavar="GLOB", help="WARC files, .warc.gz"
    )
    parser.add_argument("--peer-python", required=True, help="Python of datatrove's environment")
    parser.add_argument("--workers", type=int, default=2, help="cores for each (default 2)")
    parser.add_argument(
        "--master", metavar="URL", help="also run ours on Apache Spark, e.g. local[2]"
    )
    parser.add_argument("--repeat", type=int, default=1, help="rounds; each one's quickest counts")
    parser.add_argument("--work", metavar="DIR", help="keep what is written, here")
    return parser.parse_args()


class Bench:
    """The files, and a folder for what the runs write."""

    def __init__(self, work: Path, files: list[Path], arguments: argparse.Namespace) -> None:
        self.work, self.files, self.arguments = work, files, arguments
        self.work.mkdir(parents=True, exist_ok=True)

    def run(self, contender: Contender) -> None:
        """One run on all files and one on the first; what took less CPU time is kept."""
        folder = self._fresh(contender.name)
        run = measured(contender.command(folder, self.files), folder / "log")
        contender.all_files = _quicker(run, contender.all_files)
        contender.fates = contender.fates_in(folder)
        folder = self._fresh(f"{contender.name} first")
        run = measured(contender.command(folder, self.files[:1]), folder / "log")
        contender.first_file = _quicker(run, contender.first_file)

    def datatrove(self) -> Contender:
        """datatrove's pipeline: a task a file, as its users run it."""

        def command(folder: Path, files: list[Path]) -> list[str]:
            (folder / "in").mkdir()
            for file in files:
                (folder / "in" / file.name).symlink_to(file.resolve())
            return [
                self.arguments.peer_python, str(PEER),
                "--input", f"{folder}/in", "--output", f"{folder}/out", "--logs", f"{folder}/logs",
                "--language-model", str(language_id.model_path()),
                "--tasks", str(len(files)), "--workers", str(self.arguments.workers),
            ]  # fmt: skip

        return Contender("datatrove", command, lambda folder: _datatrove_fates(folder / "out"))

    def gristmill(self, name: str, recipe: Path, engine: Sequence[str] = ()) -> Contender:
        """Ours: `gristmill run --until filter`."""

        def command(folder: Path, files: list[Path]) -> list[str]:
            return [
                shutil.which("gristmill") or "gristmill", "run", "--until", "filter",
                "--recipe", str(recipe), "--input", *map(str, files),
                "--root", f"{folder}/corpus", *engine,
            ]  # fmt: skip

        judged = Path("corpus", "judged")
        return Contender(name, command, lambda folder: _gristmill_fates(folder / judged))

    def with_url_lists(self) -> Path:
        """fineweb.toml with the URL lists that come in datatrove's package."""
        asked = (
            "import datatrove, pathlib; print(pathlib.Path(datatrove.__file__).parent / 'assets')"
        )
        command = [self.arguments.peer_python, "-c", asked]
        assets = Path(
            subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
        )
        archive = assets / "url_filterblacklistsv0_3_0.tar.gz"
        section = {
            "domains": archive, "urls": archive, "hard_words": assets / "banned_words.txt",
            "soft_words": assets / "soft_banned_words.txt",
            "substrings": assets / "banned_subwords.txt",
        }  # fmt: skip
        lines = [f"{name} = [{json.dumps(str(path))}]" for name, path in section.items()]
        recipe = self.work / "fineweb-url.toml"
        text = (RECIPES / "fineweb.toml").read_text(encoding="utf-8")
        recipe.write_text("\n".join([text, "[url]", *lines, ""]), encoding="utf-8")
        return recipe

    def _fresh(self, name: str) -> Path:
        folder = self.work / re.sub(r"[^\w.]+", "-", name.strip())
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        return folder


def _quicker(run: Run, before: Run | None) -> Run:
    return run if before is None or run.cpu_seconds < before.cpu_seconds else before


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _datatrove_fates(folder: Path) -> Fates:
    fates: Fates = {}
    for step in ("kept", *STEPS):
        for path in (folder / step).glob("**/*.jsonl"):
            for line in path.open(encoding="utf-8"):
                page = json.loads(line)
                fates[page["id"]] = (step, _hash(page["text"]) if step == "kept" else "")
    return fates


def _gristmill_fates(folder: Path) -> Fates:
    fates: Fates = {}
    for path in sorted(folder.glob("*.parquet")):
        table = pq.read_table(path, columns=["id", "text", "rejected_by"])
        for row in table.to_pylist():
            if row["rejected_by"] is None:
                fates[row["id"]] = ("kept", _hash(row["text"]))
            else:
                step = row["rejected_by"].split(".")[0].replace("look", "language")
                fates[row["id"]] = (step if step in STEPS else "not extracted", "")
    return fates


def _num_pages(file: Path) -> int:
    from corpus.warc.records import read_records

    return sum(r.headers.get("warc-type") == "response" for r in read_records(str(file)))


def _cost_table(peer: Contender, ours: list[Contender], pages: tuple[int, int]) -> Table:
    """Costs, and by how much they are below datatrove's."""
    caption = (
        "ms: CPU a page, whole run and marginal; MB: largest worker (PSS, RSS) and main process;\n"
        "last three: datatrove's wall, CPU and marginal CPU divided by ours"
    )
    table = Table(title=f"{pages[0]:,} pages", title_justify="left", caption=caption)
    columns = ["wall s", "CPU s", "ms", "marginal ms", "PSS MB", "RSS MB", "main MB"]
    columns += ["wall", "CPU", "marginal"]
    for column in ("", *columns):
        table.add_column(column, justify="right" if column else "left")
    base = _costs(peer, pages)
    for contender in (peer, *ours):
        run, costs = contender.all_files, _costs(contender, pages)
        assert run
        sizes = (
            run.peak(run.pss, main=False), run.peak(run.rss, main=False),
            run.peak(run.rss, main=True),
        )  # fmt: skip
        ratios = [f"{theirs / our:.1f}x" for theirs, our in zip(base, costs, strict=True)]
        table.add_row(
            contender.name, f"{costs[0]:.1f}", f"{run.cpu_seconds:.1f}", f"{costs[1] * 1e3:.2f}",
            f"{costs[2] * 1e3:.2f}", *(f"{size / 1e6:.0f}" for size in sizes),
            *(ratios if contender is not peer else ()),
        )  # fmt: skip
    return table


def _costs(contender: Contender, pages: tuple[int, int]) -> tuple[float, float, float]:
    """Wall seconds; CPU seconds a page of the whole run, and without what a run costs first."""
    every, first = contender.all_files, contender.first_file
    assert every
    assert first
    more = max(1, pages[0] - pages[1])
    marginal = (every.cpu_seconds - first.cpu_seconds) / more if pages[0] > pages[1] else 0.0
    return every.wall_seconds, every.cpu_seconds / pages[0], marginal or float("nan")


def _decision_table(peer: Contender, ours: list[Contender]) -> Table:
    """Kept by whom; pages that datatrove has no row for stand apart."""
    table = Table(title="decisions before deduplication", title_justify="left")
    for name in ("", *(one.name.strip() for one in ours)):
        table.add_column(name, justify="left" if not name else "right")
    compared = [_compare(peer.fates, one.fates) for one in ours]
    for name in compared[0]:
        table.add_row(name, *(values[name] for values in compared))
    return table


def _compare(theirs: Fates, ours: Fates) -> dict[str, str]:
    known = {page for page in ours if page in theirs}
    their_kept = {page for page, (fate, _) in theirs.items() if fate == "kept"}
    our_kept = {page for page, (fate, _) in ours.items() if fate == "kept"}
    both, either = their_kept & our_kept, their_kept | (our_kept & known)
    same = sum(theirs[page][1] == ours[page][1] for page in both)
    rejected = [page for page in known if "kept" not in (theirs[page][0], ours[page][0])]
    agreed = sum(theirs[page][0] == ours[page][0] for page in rejected)
    return {
        "pages with a row: datatrove, gristmill": f"{len(theirs):,}, {len(ours):,}",
        "kept by datatrove, by gristmill": f"{len(their_kept):,}, {len(our_kept):,}",
        "kept by both": f"{len(both):,}",
        "only by datatrove": f"{len(their_kept - our_kept):,}",
        "only by gristmill": f"{len((our_kept & known) - their_kept):,}",
        "kept by gristmill, no row in datatrove": f"{len(our_kept - known):,}",
        "intersection over union": f"{len(both) / max(1, len(either)):.4f}",
        "same text where both keep": f"{same:,} ({same / max(1, len(both)):.2%})",
        "same step where both reject": f"{agreed:,} of {len(rejected):,}",
    }


def _step_table(theirs: Fates, ours: Contender) -> Table:
    """Our fate down, datatrove's across."""
    flow = Counter(
        (fate, theirs.get(page, ("no row", ""))[0]) for page, (fate, _) in ours.fates.items()
    )
    across = ["kept", *STEPS, "no row"]
    title = f"{ours.name.strip()}: gristmill's step down, datatrove's across"
    table = Table(title=title, title_justify="left")
    for name in ("", *across):
        table.add_column(name.replace("_", " "), justify="right")
    for fate in ("kept", *STEPS, "not extracted"):
        table.add_row(fate, *(f"{flow[fate, other]:,}" for other in across))
    return table


if __name__ == "__main__":
    main()

"""The `gristmill` command. Every stage's module and spark-submit come through here too."""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from jobs import decontaminate, pipeline, shard, train_classifier, train_tokenizer
from jobs import filter as filter_
from jobs.chat import conversations
from jobs.dedup import dedup
from jobs.engine import disk_faults
from jobs.engine.progress import console
from jobs.engine.roots import locked
from jobs.engine.session import open_engine
from jobs.engine.stage import BooksDontBalanceError, Job, Stage
from jobs.reports import explain, report, whatif, where
from jobs.takedown import request
from schemas.errors import UserError
from schemas.manifest import Manifest
from schemas.printing import PlainConsole, printable

_EXAMPLES = """\
examples:
  gristmill run --recipe recipes/sample.toml --input 'samples/*.warc.gz' --root out
  gristmill run --recipe recipes/fineweb.toml --input crawl/warc.paths --root out --master yarn
  gristmill run --recipe r.toml --input 'a/*.warc.gz' --root out --master 'local[4]'
  gristmill filter --recipe r.toml --root out --overwrite        # another threshold
  gristmill dedup --recipe r.toml --root 2024-18 --against 2024-10 2023-50
  gristmill forget --root out --urls urls.txt
  gristmill train-tokenizer --recipe r.toml --root out --output out/bpe.json
  gristmill conversations --input 'chats/*.jsonl' --tokenizer cl100k_base --root out
  gristmill report --root out --html funnel.html
  gristmill explain --root out --url http://example.com/page
  gristmill where --root out --url http://example.com/page --run model
  gristmill whatif --root out --set gopher_quality.min_words=30
  spark-submit --master yarn jobs/pipeline.py --recipe recipes/fineweb.toml --input ... --root ...

A root holds one folder a dataset (documents, judged, bands, clusters, canonical, shards), each with
a manifest. What is done and still valid is not done again.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; exit code 0, 2 for what the user can put right, 1 for all other faults."""
    arguments = _parser().parse_args(argv)
    try:
        return int(arguments.command(arguments))
    except UserError as error:
        return _fail(error, 2)
    except BooksDontBalanceError as error:
        return _fail(error, 1)
    except BrokenPipeError:  # the reader of our output has gone, e.g. head
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 1
    except KeyboardInterrupt:
        return _fail("interrupted; the same command goes on from here", 130)
    except Exception as error:
        root = getattr(arguments, "root", None)
        if about_disk := disk_faults.explain(error, Path(root) if root else None):
            return _fail(about_disk, 2)
        print(printable(traceback.format_exc()), end="", file=sys.stderr)
        return _fail(
            "this is a fault of gristmill or of the engine; the same command tries again", 1
        )


def _fail(error: object, code: int) -> int:
    print(printable(f"gristmill: error: {error}"), file=sys.stderr)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="gristmill",
        description="WARC files in, a deduplicated, filtered, tokenized corpus out.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    run = _add_stages(commands, "run", pipeline.STAGES, "all stages, skipping what is done")
    names = [stage.name for stage in pipeline.STAGES]
    run.add_argument("--until", choices=names, help="the last stage to run (default: all)")
    for stage in pipeline.STAGES:
        text = f"{', '.join(stage.reads) or 'WARC files'} -> {', '.join(stage.writes)}"
        _add_stages(commands, stage.name, pipeline.WITH.get(stage.name, (stage,)), text)
    _add_report(commands)
    modules = (decontaminate, request, explain, where, whatif, conversations)
    for module in (*modules, train_tokenizer, train_classifier):
        module.add_parser(commands)
    return parser


def _add_stages(  # type: ignore[no-untyped-def]
    commands, name: str, stages: tuple[Stage, ...], text: str
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=text, description=text, epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--recipe", required=True, metavar="FILE", help="TOML file of all settings")
    if pipeline.STAGES[0] in stages:
        parser.add_argument(
            "--input", required=True, nargs="+", metavar="GLOB",
            help="WARC files: paths, globs, or a list of paths (*.paths, *.paths.gz)",
        )  # fmt: skip
    parser.add_argument("--root", required=True, metavar="DIR", help="where the datasets are")
    if dedup.STAGE in stages:
        parser.add_argument(
            "--against", nargs="+", default=[], metavar="ROOT",
            help="roots of earlier dumps: what they hold already is dropped and named",
        )  # fmt: skip
    if shard.STAGE in stages:
        _add_shards(parser)
    parser.add_argument(
        "--master", metavar="URL", help="run on Apache Spark, e.g. local[2] or yarn (needs Java 17)"
    )
    parser.add_argument("--remote", metavar="URL", help="run on a Spark Connect service, sc://HOST")
    parser.add_argument(
        "--overwrite", action="store_true", help="make anew what another recipe wrote"
    )
    parser.add_argument("--verbose", action="store_true", help="show the engine's own log")
    parser.set_defaults(command=_run, stages=stages, until=None)
    return parser


def _add_shards(parser: argparse.ArgumentParser) -> None:
    text = "folder in the root for the shards, so that those of several tokenizers can stand there"
    parser.add_argument("--shards", default="shards", metavar="NAME", help=text)


def _add_report(commands) -> None:  # type: ignore[no-untyped-def]
    parser = commands.add_parser("report", help="the funnel of a root", description="The funnel.")
    parser.add_argument("--root", required=True, metavar="DIR", help="where the datasets are")
    _add_shards(parser)
    parser.add_argument("--json", action="store_true", help="print JSON in place of a table")
    parser.add_argument("--html", metavar="FILE", help="also write a page with the funnel drawn")
    parser.set_defaults(command=_report)


def _run(arguments: argparse.Namespace) -> int:
    from corpus import recipe
    from corpus.filters import classifier
    from jobs.extract import resolve

    loaded, root = recipe.load(arguments.recipe), Path(arguments.root)
    stages = _until(arguments.stages, arguments.until)
    inputs = tuple(getattr(arguments, "input", ()))
    # What is wrong with files that are named is said now, not after hours of extraction.
    if inputs:
        resolve(inputs)
    if "quality_classifier" in loaded.filters and filter_.STAGE in stages:
        classifier.check_model(loaded.quality_classifier)
    if shard.STAGE in stages:
        shard.check_tokenizer(loaded)
        if loaded.decontaminate.against:
            decontaminate.check_files(loaded)
    shards = getattr(arguments, "shards", "shards")
    against = tuple(map(Path, getattr(arguments, "against", ())))
    with (
        locked(root, shards),
        open_engine(arguments.master, arguments.remote, arguments.verbose) as engine,
    ):
        job = Job(loaded, root, engine, inputs, arguments.overwrite, shards, against)
        worked = pipeline.run(job, stages)
    if len(stages) > 1:
        console.print(report.funnel_table(report.funnel(root, shards)))
    if not worked:
        console.print(f"{root}: everything was done already; no work was done")
    return 0


def _until(stages: tuple[Stage, ...], last: str | None) -> tuple[Stage, ...]:
    names = [stage.name for stage in stages]
    return stages[: names.index(last) + 1] if last else stages


def _report(arguments: argparse.Namespace) -> int:
    made = report.conversations(Path(arguments.root), arguments.shards)
    if made is not None:
        return _report_conversations(arguments, made)
    found = report.funnel(Path(arguments.root), arguments.shards)
    if arguments.html:
        Path(arguments.html).write_text(report.page(found), encoding="utf-8")
    if arguments.json:
        print(found.to_json())
    else:
        PlainConsole().print(report.funnel_table(found))
    return 0


def _report_conversations(arguments: argparse.Namespace, made: Manifest) -> int:
    if arguments.html:
        raise UserError(f"--html: draws the funnel of documents; {arguments.shards} holds chats")
    if arguments.json:
        print(report.conversations_json(made))
        return 0
    shown = PlainConsole()
    shown.print(conversations.table(made))
    shown.print(conversations.ending(made, Path(arguments.root) / arguments.shards), soft_wrap=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

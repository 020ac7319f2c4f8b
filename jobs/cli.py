"""The `gristmill` command; under spark-submit, `jobs/submit.py` runs it."""

from __future__ import annotations

import argparse
import json
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
from jobs.engine.session import add_engine_flags, open_engine
from jobs.engine.stage import Job, Stage, UnbalancedError
from jobs.reports import explain, report, similar, whatif, where
from jobs.takedown import request
from schemas import config
from schemas.errors import UserError
from schemas.printing import PlainConsole, printable

_EXAMPLES = """\
examples:
  gristmill run --recipe recipes/sample.toml --input 'samples/*.warc.gz' --root out
  gristmill run --recipe recipes/fineweb.toml --input crawl/warc.paths --root out --master yarn
  gristmill run --recipe r.toml --input 'a/*.warc.gz' --root out --master 'local[4]'
  gristmill filter --recipe r.toml --root out --overwrite        # change a threshold
  gristmill dedup --recipe r.toml --root 2024-18 --against 2024-10 2023-50
  gristmill forget --root out --urls urls.txt
  gristmill train-tokenizer --recipe r.toml --root out --output out/bpe.json
  gristmill conversations --input 'chats/*.jsonl' --tokenizer cl100k_base --root out
  gristmill report --root out --html funnel.html
  gristmill explain --root out --url http://example.com/page
  gristmill where --root out --url http://example.com/page --run model
  gristmill whatif --root out --set gopher_quality.min_words=30
  gristmill similar --root out --text page.txt
  spark-submit --master yarn jobs/submit.py run --recipe recipes/fineweb.toml ...

A root holds one folder per dataset (documents, judged, bands, clusters, canonical, shards), each
with a manifest. Stages that are done and still valid are skipped.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; exit code 0, 2 for user errors, 1 for all other errors, 130 if interrupted."""
    arguments = parser().parse_args(argv)
    try:
        return int(arguments.command(arguments))
    except UserError as error:
        return _fail(error, 2)
    except UnbalancedError as error:
        return _fail(error, 1)
    except BrokenPipeError:  # the reader of our output has ended, e.g. head
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 1
    except KeyboardInterrupt:
        return _fail("interrupted; the same command resumes", 130)
    except Exception as error:
        root = getattr(arguments, "root", None)
        if about_disk := disk_faults.explain(error, Path(root) if root else None):
            return _fail(about_disk, 2)
        print(printable(traceback.format_exc()), end="", file=sys.stderr)
        return _fail(
            "this is an error in gristmill or in the engine; the same command tries again", 1
        )


def _fail(error: object, code: int) -> int:
    print(printable(f"gristmill: error: {error}"), file=sys.stderr)
    return code


def parser() -> argparse.ArgumentParser:
    """The command line of `gristmill`."""
    parser = argparse.ArgumentParser(
        prog="gristmill",
        description="Turn WARC files into a filtered, deduplicated, tokenized corpus.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    run = _add_stages(commands, "run", pipeline.STAGES, "run all stages that are not done")
    names = [stage.name for stage in pipeline.STAGES]
    run.add_argument("--until", choices=names, help="stop after this stage (default: run all)")
    for stage in pipeline.STAGES:
        text = f"{', '.join(stage.reads) or 'WARC files'} -> {', '.join(stage.writes)}"
        _add_stages(commands, stage.name, pipeline.WITH.get(stage.name, (stage,)), text)
    _add_report(commands)
    _add_recipe(commands)
    modules = (decontaminate, request, explain, where, whatif, similar, conversations)
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
            help="read these WARC files: paths, globs, or lists of paths (*.paths, *.paths.gz)",
        )  # fmt: skip
        parser.add_argument(
            "--max-failed-share", type=float, default=Job.max_failed_share, metavar="SHARE",
            help="fail if extraction fails on a larger share of the pages, 0 to 1 "
            f"(default: {Job.max_failed_share:g})",
        )  # fmt: skip
    parser.add_argument("--root", required=True, metavar="DIR", help="corpus directory")
    if dedup.STAGE in stages:
        parser.add_argument(
            "--against", nargs="+", default=[], metavar="ROOT",
            help="drop documents that these corpus directories of earlier dumps hold",
        )  # fmt: skip
    if shard.STAGE in stages:
        _add_shards(parser)
    add_engine_flags(parser)
    parser.add_argument(
        "--overwrite", action="store_true", help="rebuild what another recipe wrote"
    )
    parser.set_defaults(command=_run, stages=stages, until=None)
    return parser


def _add_recipe(commands) -> None:  # type: ignore[no-untyped-def]
    text = "print a recipe that comes with gristmill, or the JSON Schema of recipes"
    parser = commands.add_parser("recipe", help=text, description=text)
    text = "schema: JSON Schema for editors; show: the recipe NAME, e.g. fineweb"
    parser.add_argument("what", choices=["schema", "show"], help=text)
    parser.add_argument("name", nargs="?", metavar="NAME", help="recipe to show")
    parser.set_defaults(command=_recipe)


def _recipe(arguments: argparse.Namespace) -> int:
    from corpus.recipe import Recipe

    if arguments.what == "schema":
        print(json.dumps(config.json_schema(Recipe), indent=1))
    elif arguments.name is None:
        raise UserError("gristmill recipe show: give the name of a recipe, e.g. fineweb")
    else:
        print(config.recipe_file(arguments.name).read_text(encoding="utf-8"), end="")
    return 0


def _add_shards(parser: argparse.ArgumentParser) -> None:
    text = "name the folder of shards, so that a root can hold several (default: shards)"
    parser.add_argument("--shards", default="shards", metavar="NAME", help=text)


def _add_report(commands) -> None:  # type: ignore[no-untyped-def]
    parser = commands.add_parser(
        "report",
        help="show what became of every record",
        description="Show what became of every record.",
    )
    parser.add_argument("--root", required=True, metavar="DIR", help="corpus directory")
    _add_shards(parser)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--html", metavar="FILE", help="also write an HTML page with a chart")
    parser.set_defaults(command=_report)


def _run(arguments: argparse.Namespace) -> int:
    from corpus import recipe
    from corpus.filters import classifier
    from jobs.extract import resolve

    loaded, root = recipe.load(arguments.recipe), Path(arguments.root)
    stages = arguments.stages
    if arguments.until:
        stages = stages[: [stage.name for stage in stages].index(arguments.until) + 1]
    inputs = tuple(getattr(arguments, "input", ()))
    # Report bad files now, not after hours of extraction.
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
        job = Job(
            loaded, root, engine, inputs, arguments.overwrite, shards, against,
            getattr(arguments, "max_failed_share", Job.max_failed_share),
        )  # fmt: skip
        worked = pipeline.run(job, stages)
    if len(stages) > 1:
        console.print(report.funnel_table(report.funnel(root, shards)))
    if not worked:
        console.print(f"{root}: all stages are done and still valid")
    return 0


def _report(arguments: argparse.Namespace) -> int:
    root, shards, shown = Path(arguments.root), arguments.shards, PlainConsole()
    chats = report.conversations(root, shards)
    if chats is not None:
        if arguments.html:
            raise UserError(f"--html: charts web documents only; {shards} holds conversations")
        if arguments.json:
            print(report.conversations_json(chats))
        else:
            shown.print(conversations.table(chats))
            shown.print(conversations.ending(chats, root / shards), soft_wrap=True)
        return 0
    found = report.funnel(root, shards)
    if arguments.html:
        Path(arguments.html).write_text(report.page(found), encoding="utf-8")
    if arguments.json:
        print(found.to_json())
    else:
        shown.print(report.funnel_table(found))
    return 0

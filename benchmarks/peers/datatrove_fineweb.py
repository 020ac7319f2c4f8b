"""datatrove's own FineWeb pipeline, run by versus_datatrove.py in datatrove's own environment.

The steps, their order and their settings are those of its examples/fineweb.py up to deduplication,
with English named (its filter's default takes any language), `deduplicate` off, a timeout of 10 s,
and a language model from a file. Every page's fate is written as JSON lines: kept, or the step that
removed it.
"""

from __future__ import annotations

import argparse

import pylibmagic  # noqa: F401  (the library that python-magic looks for)
from datatrove.executor.local import LocalPipelineExecutor
from datatrove.pipeline.extractors import Trafilatura
from datatrove.pipeline.filters import (
    C4QualityFilter,
    FineWebQualityFilter,
    GopherQualityFilter,
    GopherRepetitionFilter,
    LanguageFilter,
    URLFilter,
)
from datatrove.pipeline.readers import WarcReader
from datatrove.pipeline.writers.jsonl import JsonlWriter
from datatrove.utils.lid import FT176LID


class LocalModel(FT176LID):
    """lid.176 from a file in place of a download."""

    def __init__(self, path: str, languages: list[str]) -> None:
        super().__init__(languages)
        self.path = path

    @property
    def model(self):
        """The model, loaded when first asked for."""
        if self._model is None:
            from fasttext.FastText import _FastText

            self._model = _FastText(self.path)
        return self._model


def main() -> None:
    """Run the pipeline over the files of a folder, a task a file."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("--input", "--output", "--logs", "--language-model"):
        parser.add_argument(name, required=True)
    parser.add_argument("--workers", type=int, required=True)
    parser.add_argument("--tasks", type=int, required=True)
    arguments = parser.parse_args()

    def removed(stage: str) -> JsonlWriter:
        return JsonlWriter(f"{arguments.output}/{stage}", compression=None)

    language = LanguageFilter(languages=["en"], exclusion_writer=removed("language"))
    language.model = LocalModel(arguments.language_model, ["en"])
    pipeline = [
        WarcReader(arguments.input, glob_pattern="*.warc.gz"),
        URLFilter(exclusion_writer=removed("url")),
        Trafilatura(favour_precision=True, deduplicate=False, timeout=10),
        language,
        GopherRepetitionFilter(exclusion_writer=removed("gopher_repetition")),
        GopherQualityFilter(exclusion_writer=removed("gopher_quality")),
        C4QualityFilter(filter_no_terminal_punct=False, exclusion_writer=removed("c4")),
        FineWebQualityFilter(exclusion_writer=removed("fineweb_quality")),
        JsonlWriter(f"{arguments.output}/kept", compression=None),
    ]
    LocalPipelineExecutor(
        pipeline, tasks=arguments.tasks, workers=arguments.workers, logging_dir=arguments.logs
    ).run()


if __name__ == "__main__":
    main()

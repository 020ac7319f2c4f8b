"""Generation: with the cache of keys and values against without it, in batches, and in bf16.

    python benchmarks/generation.py
    python benchmarks/generation.py --tokens 512 --repeat 9

The model has the shape of recipes/pretrain-tiny.toml, a longer context and random weights: speed
does not depend on what it has learned. With and without the cache alternate, so that a busy machine
slows both alike; wall time and CPU time are both given, of the best round and the median one.
Without the cache everything is read again for each token, and the head is computed for the last
alone, as with it.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from rich.console import Console
from rich.table import Table

from common.bench import Figure, at_least, figures_table
from schemas import tokenizer as tokenizers
from schemas.config import load_toml
from schemas.tokenizer import Tokenizer
from trainer.generate.generate import TextReader, allowed_ids, stream_ids
from trainer.model.model import KeyValueCache, LanguageModel, ModelConfig
from trainer.settings import PretrainRecipe, SampleSettings

RECIPE = Path(__file__).parents[1] / "recipes" / "pretrain-tiny.toml"
PROMPT, BATCH = 16, 8  # tokens of a prompt, rows of a batch


class Took(NamedTuple):
    """Seconds of one round."""

    wall: float
    cpu: float


class Endless(TextReader):
    """Writes on where a document would end, so that all rounds are equally long."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__(tokenizer)
        self._allowed = allowed_ids(tokenizer)


class Bench:
    """A model, and how many tokens it writes."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        recipe = load_toml(RECIPE, PretrainRecipe)
        self.num_tokens, self.repeat = arguments.tokens, arguments.repeat
        self.context = PROMPT + self.num_tokens
        self.tokenizer = made_up_tokenizer(recipe.data.vocab_size)
        torch.manual_seed(0)
        config = ModelConfig(
            recipe.model, recipe.data.vocab_size, self.tokenizer.boundary, self.context
        )
        self.model = LanguageModel(config).eval()

    def write(
        self, num_rows: int = 1, use_cache: bool = True, first_row: int = 0
    ) -> list[list[int]]:
        """Greedy ids after prompts that differ."""
        begin, rows = self.tokenizer.boundary, range(first_row, first_row + num_rows)
        prompts = [[begin, *range(row, row + PROMPT - 1)] for row in rows]
        readers = [Endless(self.tokenizer) for _ in prompts]
        randoms = [torch.Generator() for _ in prompts]
        settings = SampleSettings(max_tokens=self.num_tokens, temperature=0)
        for _ in stream_ids(
            self.model, self.tokenizer, prompts, readers, randoms, settings, use_cache
        ):
            pass
        return [reader.ids for reader in readers]


def made_up_tokenizer(vocab_size: int) -> Tokenizer:
    """Every byte, and pairs of bytes up to the vocabulary's size."""
    pairs = [bytes([a, b]) for a in range(32, 128) for b in range(32, 128)]
    spare = 256 + 1 + len(tokenizers.CHAT_TOKENS)
    tokens = [bytes([b]) for b in range(256)] + pairs[: vocab_size - spare]
    return tokenizers.from_tokens("made up", tokens)


def speed(bench: Bench) -> Table:
    """Seconds and tokens a second."""
    ways: dict[str, Callable[[], object]] = {
        "with the cache": bench.write,
        "without it": lambda: bench.write(use_cache=False),
        f"{BATCH} rows at once": lambda: bench.write(BATCH),
    }
    rounds = measured(ways, bench.repeat)
    best = {name: Took(*(min(part) for part in zip(*took, strict=True)))
            for name, took in rounds.items()}  # fmt: skip
    cached, whole = best["with the cache"], best["without it"]
    rows = [
        Figure(
            f"{name}: seconds, best (median)", "", f"{best[name].wall:.2f} ({_median(took):.2f})"
        )
        for name, took in rounds.items()
    ]
    rows += [Figure(f"{name}: CPU seconds", "", f"{one.cpu:.2f}") for name, one in best.items()]
    num_tokens = {name: bench.num_tokens * (BATCH if "rows" in name else 1) for name in ways}
    rows += [
        Figure(f"{name}: tokens a second", "", f"{num_tokens[name] / one.wall:,.0f}")
        for name, one in best.items()
    ]
    rows += [
        at_least("with the cache, by time: times as fast", whole.wall / cached.wall, 3),
        at_least("with the cache, by CPU time: times as fast", whole.cpu / cached.cpu, 3),
    ]
    title = f"{bench.num_tokens} tokens, {bench.model.num_parameters:,} parameters"
    return figures_table(f"{title}, {torch.get_num_threads()} threads", rows)


def equality(bench: Bench) -> Table:
    """What the cache changes."""
    cached, whole = bench.write()[0], bench.write(use_cache=False)[0]
    rows = [at_least("fp32, greedy: ids equal, of each 100", _percent(cached, whole), 100)]
    alone = [bench.write(1, first_row=row)[0] for row in range(BATCH)]
    same = [_percent(a, b) for a, b in zip(alone, bench.write(BATCH), strict=True)]
    rows.append(at_least(f"fp32, greedy, {BATCH} rows at once: of each 100", min(same), 100))
    ids = [bench.tokenizer.boundary, *range(PROMPT - 1), *whole][: bench.context]
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, dtype == torch.bfloat16):
            read, stepped = _logits(bench, ids)
        agree = 100 * (read.argmax(-1) == stepped.argmax(-1)).float().mean()
        difference = float((read - stepped).abs().max() / read.std())
        rows += [
            Figure(f"{name}: likeliest id equal, of each 100 places", "", f"{agree:.1f}"),
            Figure(f"{name}: largest difference, in deviations", "", f"{difference:.1g}"),
        ]
    return figures_table("What the cache changes", rows)


def measured(ways: dict[str, Callable[[], object]], repeat: int) -> dict[str, list[Took]]:
    """Alternating rounds of each way, after one that warms up."""
    found: dict[str, list[Took]] = {name: [] for name in ways}
    for number in range(repeat + 1):
        for name, way in ways.items():
            wall, cpu = time.perf_counter(), time.process_time()
            way()
            took = Took(time.perf_counter() - wall, time.process_time() - cpu)
            if number:
                found[name].append(took)
    return found


def _logits(bench: Bench, ids: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of every place, T x V: read at once, and token by token with the cache."""
    tokens = torch.tensor([ids])
    cache = KeyValueCache(bench.model.config.settings.num_hidden_layers, len(ids))
    stepped = [bench.model(tokens[:, i : i + 1], cache)[0] for i in range(len(ids))]
    return bench.model(tokens)[0].float(), torch.cat(stepped).float()


def _percent(a: list[int], b: list[int]) -> float:
    return 100 * sum(x == y for x, y in zip(a, b, strict=True)) / len(a)


def _median(took: list[Took]) -> float:
    return statistics.median(one.wall for one in took)


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokens", type=int, default=256, help="to write (default 256)")
    parser.add_argument("--repeat", type=int, default=5, help="rounds (default 5)")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    bench = Bench(arguments)
    for part in (speed, equality):
        Console(width=100).print(part(bench))


if __name__ == "__main__":
    main()

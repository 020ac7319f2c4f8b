"""The trainer's recipe: one frozen dataclass per section, which checks its own values.

`schemas.config.load_toml(path, PretrainRecipe)` reads a recipe file. Model fields are named as in
transformers' `Qwen3Config`, run fields as in nanochat.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from schemas.config import check_range

# Far above any real training run, and small enough that products of two fit into 64 bits.
MAX_COUNT = 10**9  # of steps, tokens, epochs
MAX_ROWS = 2**20
MAX_SEQ_LEN = 2**24
MAX_VOCAB_SIZE = 10**7
MAX_WEIGHT = 1e9
MAX_SEED = 2**63 - 1


@dataclass(frozen=True)
class ModelSettings:
    """`[model]`: shape of the decoder; vocabulary and boundary token come from the shards."""

    hidden_size: int = 256
    num_hidden_layers: int = 4
    num_attention_heads: int = 4
    num_key_value_heads: int = 2
    head_dim: int = 64
    intermediate_size: int = 768
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10_000.0
    tie_word_embeddings: bool = True
    document_mask: bool = True

    def __post_init__(self) -> None:
        check_range(self, 1, 2**20, "hidden_size", "intermediate_size")
        check_range(self, 1, 10**4, "num_hidden_layers", "head_dim")
        check_range(self, 1, 10**4, "num_attention_heads", "num_key_value_heads")
        _positive(self, 1, "rms_norm_eps")
        _positive(self, 1e15, "rope_theta")
        heads, key_heads = self.num_attention_heads, self.num_key_value_heads
        if heads % key_heads:
            raise ValueError(
                f"num_key_value_heads = {key_heads}: must divide num_attention_heads = {heads}"
            )
        if self.head_dim % 2:
            raise ValueError(f"head_dim = {self.head_dim}: must be even, RoPE rotates pairs")


@dataclass(frozen=True)
class SourceSettings:
    """`[[data.sources]]`: a folder of shards in a mixture.

    `weight` is its share of the rows relative to the other sources; `max_epochs` limits how often
    its rows are repeated (0: no limit).
    """

    shards: str = ""
    weight: float = 1.0
    max_epochs: int = 0

    def __post_init__(self) -> None:
        if not self.shards:
            raise ValueError("shards = '': must be a folder of shards")
        _positive(self, MAX_WEIGHT, "weight")
        check_range(self, 0, MAX_COUNT, "max_epochs")


@dataclass(frozen=True)
class DataSettings:
    """`[data]`: `batch_size` counts the rows of `seq_len` tokens per step, over all ranks.

    `packing = "auto"` is `concat` for documents and `best_fit` for conversations. `seed` determines
    the order. `vocab_size` is the expected padded vocabulary (0: any). `sources` are mixed; without
    them, `--shards` names the folder.
    """

    seq_len: int = 256
    batch_size: int = 8
    packing: Literal["auto", "concat", "best_fit"] = "auto"
    seed: int = 0
    vocab_size: int = 0
    sources: tuple[SourceSettings, ...] = ()

    def __post_init__(self) -> None:
        check_range(self, 2, MAX_SEQ_LEN, "seq_len")
        check_range(self, 1, MAX_ROWS, "batch_size")
        check_range(self, 0, MAX_SEED, "seed")
        check_range(self, 0, MAX_VOCAB_SIZE, "vocab_size")


@dataclass(frozen=True)
class OptimizerSettings:
    """`[optimizer]`: see `trainer.train.optimizer`; `max_grad_norm` 0 disables clipping.

    `muon` updates the layers' matrices with `muon_learning_rate` and `muon_momentum`, and all other
    parameters with AdamW.
    """

    kind: Literal["adamw", "muon"] = "adamw"
    learning_rate: float = 3e-3
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.1
    max_grad_norm: float = 1.0
    muon_learning_rate: float = 3e-3
    muon_momentum: float = 0.95

    def __post_init__(self) -> None:
        _positive(self, 1000, "learning_rate", "eps", "muon_learning_rate")
        _below_one(self, "beta1", "beta2", "muon_momentum")
        check_range(self, 0, 1000, "weight_decay")
        check_range(self, 0, 1e9, "max_grad_norm")


@dataclass(frozen=True)
class ScheduleSettings:
    """`[schedule]`: the learning rate over the steps, see `trainer.train.optimizer`.

    `decay_fraction` of all steps is for `wsd` only; `min_ratio` is the final share of the peak.
    """

    kind: Literal["cosine", "wsd"] = "cosine"
    warmup_steps: int = 10
    decay_fraction: float = 0.4
    min_ratio: float = 0.0

    def __post_init__(self) -> None:
        check_range(self, 0, MAX_COUNT, "warmup_steps")
        _at_most_one(self, "decay_fraction", "min_ratio")


@dataclass(frozen=True)
class RunSettings:
    """`[run]`: length, intervals in steps (0: at the end only) and precision.

    `device_batch_size`: rows per micro-batch and device (0: the device's whole share).
    `eval_rows`: maximum validation rows per source (0: all). `keep_checkpoints`: newest checkpoints
    to keep (0: all); the one with the lowest validation loss is always kept. The run stops after
    more than `max_skipped_steps` consecutive steps whose loss or gradient is not finite.
    `compile = "auto"` compiles if a compiler is installed and the run is long enough.
    `num_threads = 0` leaves the number to PyTorch.
    """

    num_steps: int = 100
    device_batch_size: int = 0
    eval_every: int = 0
    eval_rows: int = 0
    sample_every: int = 0
    checkpoint_every: int = 0
    keep_checkpoints: int = 2
    max_skipped_steps: int = 3
    log_every: int = 10
    seed: int = 0
    dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    compile: Literal["auto", "on", "off"] = "auto"
    num_threads: int = 0

    def __post_init__(self) -> None:
        check_range(self, 1, MAX_COUNT, "num_steps", "log_every")
        check_range(self, 0, MAX_ROWS, "device_batch_size")
        check_range(self, 0, MAX_COUNT, "eval_every", "eval_rows", "sample_every")
        check_range(self, 0, MAX_COUNT, "checkpoint_every", "keep_checkpoints", "max_skipped_steps")
        check_range(self, 0, MAX_SEED, "seed")
        check_range(self, 0, 4096, "num_threads")


@dataclass(frozen=True)
class SampleSettings:
    """`[sample]`: how text is sampled, see `trainer.generate.sampling`. Temperature 0 is greedy.

    `top_k` 0, `top_p` 1, `min_p` 0 and `repetition_penalty` 1 disable these. A text of `stop` ends
    the sample, as the document boundary always does.
    """

    prompt: str = ""
    max_tokens: int = 64
    temperature: float = 0.8
    top_k: int = 50
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int = 0
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("temperature", "repetition_penalty"):
            if getattr(self, name) == float("inf"):
                raise ValueError(f"{name} = inf: must be finite")
        check_range(self, 0, MAX_COUNT, "max_tokens", "top_k")
        check_range(self, 0, MAX_SEED, "seed")
        check_range(self, 0, 1e300, "temperature")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p = {self.top_p}: must be above 0 and at most 1")
        _at_most_one(self, "min_p")
        _positive(self, 1e9, "repetition_penalty")
        if "" in self.stop:
            raise ValueError("stop = '': must not be empty, every text contains it")


@dataclass(frozen=True)
class Recipe:
    """The sections that pretraining and supervised fine-tuning share."""

    data: DataSettings = field(default_factory=DataSettings)
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    schedule: ScheduleSettings = field(default_factory=ScheduleSettings)
    run: RunSettings = field(default_factory=RunSettings)
    sample: SampleSettings = field(default_factory=SampleSettings)


@dataclass(frozen=True)
class PretrainRecipe(Recipe):
    """A recipe file for `trainer pretrain`."""

    model: ModelSettings = field(default_factory=ModelSettings)


@dataclass(frozen=True)
class SftRecipe(Recipe):
    """A recipe file for `trainer sft`; the model's shape comes from the checkpoint."""


def _positive(settings: object, most: float, *names: str) -> None:
    for name in names:
        value = getattr(settings, name)
        if not value > 0:
            raise ValueError(f"{name} = {value}: must be above 0")
    check_range(settings, 0, most, *names)


def _at_most_one(settings: object, *names: str) -> None:
    for name in names:
        value = getattr(settings, name)
        if not 0 <= value <= 1:
            raise ValueError(f"{name} = {value}: must be at least 0 and at most 1")


def _below_one(settings: object, *names: str) -> None:
    for name in names:
        value = getattr(settings, name)
        if not 0 <= value < 1:
            raise ValueError(f"{name} = {value}: must be at least 0 and below 1")

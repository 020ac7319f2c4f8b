"""The trainer's recipe: frozen dataclasses, one a section, each checked where it is declared.

`schemas.config.load_toml(path, PretrainRecipe)` reads one. Model fields carry the names that
transformers' `Qwen3Config` uses, run fields those of nanochat.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from schemas.config import check_range

# Far above what is trained anywhere, and small enough that products of two fit into 64 bits.
MAX_COUNT = 10**9  # of steps, tokens, epochs
MAX_ROWS = 2**20
MAX_SEQ_LEN = 2**24
MAX_VOCAB_SIZE = 10**7
MAX_WEIGHT = 1e9
MAX_SEED = 2**63 - 1


@dataclass(frozen=True)
class ModelSettings:
    """`[model]`: shape of the decoder. Vocabulary and boundary come from the shards."""

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
        _above_zero(self, "rms_norm_eps", "rope_theta")
        check_range(self, 0, 1, "rms_norm_eps")
        check_range(self, 0, 1e15, "rope_theta")
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_key_value_heads = {self.num_key_value_heads}: must divide "
                f"num_attention_heads = {self.num_attention_heads}"
            )
        if self.head_dim % 2:
            raise ValueError(f"head_dim = {self.head_dim}: must be even, RoPE rotates pairs")


@dataclass(frozen=True)
class SourceSettings:
    """`[[data.sources]]`: a folder of shards in a mixture.

    `weight` is its share of the rows, relative to the others' (by default equal); `max_epochs` is
    how often it is gone over at most (0: no limit).
    """

    shards: str = ""
    weight: float = 1.0
    max_epochs: int = 0

    def __post_init__(self) -> None:
        if not self.shards:
            raise ValueError("shards = '': must be a folder of shards")
        _above_zero(self, "weight")
        check_range(self, 0, MAX_WEIGHT, "weight")
        check_range(self, 0, MAX_COUNT, "max_epochs")


@dataclass(frozen=True)
class DataSettings:
    """`[data]`: `batch_size` counts the rows of `seq_len` tokens in one step over all ranks.

    `packing` `auto` is `concat` for documents and `best_fit` for conversations. `seed` is of the
    order alone. `vocab_size` is the padded vocabulary that the recipe was made for; 0 takes any.
    `sources` are mixed; without them `--shards` names the one folder.
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
    """`[optimizer]`: how weights change, see `trainer.train.optimizer`; `max_grad_norm` 0: no clipping.

    `muon` updates the layers' matrices by `muon_learning_rate` and `muon_momentum`, all else is
    AdamW's.
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
        _above_zero(self, "learning_rate", "eps", "muon_learning_rate")
        check_range(self, 0, 1000, "learning_rate", "eps", "muon_learning_rate")
        for name in ("beta1", "beta2", "muon_momentum"):
            _within(self, name, 0.0, 1.0)
        check_range(self, 0, 1000, "weight_decay")
        check_range(self, 0, 1e9, "max_grad_norm")


@dataclass(frozen=True)
class ScheduleSettings:
    """`[schedule]`: how the learning rate goes over the steps, see `trainer.train.optimizer`.

    `decay_fraction` (of all steps) is WSD's alone; `min_ratio` is what is left at the end.
    """

    kind: Literal["cosine", "wsd"] = "cosine"
    warmup_steps: int = 10
    decay_fraction: float = 0.4
    min_ratio: float = 0.0

    def __post_init__(self) -> None:
        check_range(self, 0, MAX_COUNT, "warmup_steps")
        _within(self, "decay_fraction", 0.0, 1.0, closed=True)
        _within(self, "min_ratio", 0.0, 1.0, closed=True)


@dataclass(frozen=True)
class RunSettings:
    """`[run]`: how long, how often what, and on which numbers. An `every` of 0 means at the end.

    `device_batch_size` is the rows that a device takes at once (0: all of its share); more are
    accumulated. `eval_rows` is the most validation rows of a source (0: all). `keep_checkpoints`
    newest ones stay (0: all), and the one of the lowest validation loss. More than
    `max_skipped_steps` steps in a row whose loss or gradient is not finite stop the run.
    `compile` `auto` is on where a compiler is there and the run long enough. `num_threads` 0
    leaves PyTorch's own choice.
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
    """`[sample]`: how text is drawn, see `trainer.generate.sampling`. Temperature 0 is greedy.

    `top_k` 0, `top_p` 1, `min_p` 0 and `repetition_penalty` 1 are off. `stop` are texts that end
    the sample; the document boundary always does.
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
        _within(self, "min_p", 0.0, 1.0, closed=True)
        _above_zero(self, "repetition_penalty")
        check_range(self, 0, 1e9, "repetition_penalty")
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
    """A whole recipe file for `trainer pretrain`."""

    model: ModelSettings = field(default_factory=ModelSettings)


@dataclass(frozen=True)
class SftRecipe(Recipe):
    """A whole recipe file for `trainer sft`; the model's shape is the checkpoint's."""


def _above_zero(settings: object, *names: str) -> None:
    for name in names:
        value = getattr(settings, name)
        if not value > 0:
            raise ValueError(f"{name} = {value}: must be above 0")


def _within(settings: object, name: str, low: float, high: float, closed: bool = False) -> None:
    value = getattr(settings, name)
    if not (low <= value <= high if closed else low <= value < high):
        end = "at most" if closed else "below"
        raise ValueError(f"{name} = {value}: must be at least {low:g} and {end} {high:g}")

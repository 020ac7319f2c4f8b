"""The trainer's recipe: one frozen dataclass per section, which checks its own values.

`schemas.config.load_toml(path, PretrainRecipe)` reads a recipe file. Model fields are named as in
transformers' `Qwen3Config`, run fields as in nanochat.
"""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Literal

from pydantic import Field

from schemas.config import settings

# Far above any real training run, and small enough that products of two fit into 64 bits.
MAX_COUNT = 10**9  # of steps, tokens, epochs
MAX_ROWS = 2**20
MAX_SEQ_LEN = 2**24
MAX_VOCAB_SIZE = 10**7
MAX_WEIGHT = 1e9
MAX_SEED = 2**63 - 1


@settings
class ModelSettings:
    """`[model]`: shape of the decoder; vocabulary and boundary token come from the shards."""

    hidden_size: Annotated[int, Field(ge=1, le=2**20)] = 256
    num_hidden_layers: Annotated[int, Field(ge=1, le=10**4)] = 4
    num_attention_heads: Annotated[int, Field(ge=1, le=10**4)] = 4
    num_key_value_heads: Annotated[int, Field(ge=1, le=10**4)] = 2
    head_dim: Annotated[int, Field(ge=1, le=10**4)] = 64
    intermediate_size: Annotated[int, Field(ge=1, le=2**20)] = 768
    rms_norm_eps: Annotated[float, Field(gt=0, le=1)] = 1e-6
    rope_theta: Annotated[float, Field(gt=0, le=1e15)] = 10_000.0
    tie_word_embeddings: bool = True
    document_mask: bool = True

    def __post_init__(self) -> None:
        heads, key_heads = self.num_attention_heads, self.num_key_value_heads
        if heads % key_heads:
            raise ValueError(
                f"num_key_value_heads = {key_heads}: must divide num_attention_heads = {heads}"
            )
        if self.head_dim % 2:
            raise ValueError(f"head_dim = {self.head_dim}: must be even, RoPE rotates pairs")


@settings
class SourceSettings:
    """`[[data.sources]]`: a folder of shards in a mixture.

    `weight` is its share of the rows relative to the other sources; `max_epochs` limits how often
    its rows are repeated (0: no limit).
    """

    shards: str = ""
    weight: Annotated[float, Field(gt=0, le=MAX_WEIGHT)] = 1.0
    max_epochs: Annotated[int, Field(ge=0, le=MAX_COUNT)] = 0

    def __post_init__(self) -> None:
        if not self.shards:
            raise ValueError("shards = '': must be a folder of shards")


@settings
class DataSettings:
    """`[data]`: `batch_size` counts the rows of `seq_len` tokens per step, over all ranks.

    `packing = "auto"` is `concat` for documents and `best_fit` for conversations. `seed` determines
    the order. `vocab_size` is the expected padded vocabulary (0: any). `sources` are mixed; without
    them, `--shards` names the folder.
    """

    seq_len: Annotated[int, Field(ge=2, le=MAX_SEQ_LEN)] = 256
    batch_size: Annotated[int, Field(ge=1, le=MAX_ROWS)] = 8
    packing: Literal["auto", "concat", "best_fit"] = "auto"
    seed: Annotated[int, Field(ge=0, le=MAX_SEED)] = 0
    vocab_size: Annotated[int, Field(ge=0, le=MAX_VOCAB_SIZE)] = 0
    sources: tuple[SourceSettings, ...] = ()


@settings
class OptimizerSettings:
    """`[optimizer]`: see `trainer.train.optimizer`; `max_grad_norm` 0 disables clipping.

    `muon` updates the layers' matrices with `muon_learning_rate` and `muon_momentum`, and all other
    parameters with AdamW.
    """

    kind: Literal["adamw", "muon"] = "adamw"
    learning_rate: Annotated[float, Field(gt=0, le=1000)] = 3e-3
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.95
    eps: Annotated[float, Field(gt=0, le=1000)] = 1e-8
    weight_decay: Annotated[float, Field(ge=0, le=1000)] = 0.1
    max_grad_norm: Annotated[float, Field(ge=0, le=1000000000.0)] = 1.0
    muon_learning_rate: Annotated[float, Field(gt=0, le=1000)] = 3e-3
    muon_momentum: Annotated[float, Field(ge=0, lt=1)] = 0.95


@settings
class ScheduleSettings:
    """`[schedule]`: the learning rate over the steps, see `trainer.train.optimizer`.

    `decay_fraction` of all steps is for `wsd` only; `min_ratio` is the final share of the peak.
    """

    kind: Literal["cosine", "wsd"] = "cosine"
    warmup_steps: Annotated[int, Field(ge=0, le=MAX_COUNT)] = 10
    decay_fraction: Annotated[float, Field(ge=0, le=1)] = 0.4
    min_ratio: Annotated[float, Field(ge=0, le=1)] = 0.0


@settings
class RunSettings:
    """`[run]`: length, intervals in steps (0: at the end only) and precision.

    `device_batch_size`: rows per micro-batch and device (0: the device's whole share).
    `eval_rows`: maximum validation rows per source (0: all). `keep_checkpoints`: newest checkpoints
    to keep (0: all); the one with the lowest validation loss is always kept. The run stops after
    more than `max_skipped_steps` consecutive steps whose loss or gradient is not finite.
    `compile = "auto"` compiles if a compiler is installed and the run is long enough.
    `num_threads = 0` leaves the number to PyTorch.
    """

    num_steps: Annotated[int, Field(ge=1, le=MAX_COUNT)] = 100
    device_batch_size: Annotated[int, Field(ge=0, le=MAX_ROWS)] = 0
    eval_every: Annotated[int, Field(ge=0, le=MAX_COUNT)] = 0
    eval_rows: Annotated[int, Field(ge=0, le=MAX_COUNT)] = 0
    sample_every: Annotated[int, Field(ge=0, le=MAX_COUNT)] = 0
    checkpoint_every: Annotated[int, Field(ge=0, le=MAX_COUNT)] = 0
    keep_checkpoints: Annotated[int, Field(ge=0, le=MAX_COUNT)] = 2
    max_skipped_steps: Annotated[int, Field(ge=0, le=MAX_COUNT)] = 3
    log_every: Annotated[int, Field(ge=1, le=MAX_COUNT)] = 10
    seed: Annotated[int, Field(ge=0, le=MAX_SEED)] = 0
    dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    compile: Literal["auto", "on", "off"] = "auto"
    num_threads: Annotated[int, Field(ge=0, le=4096)] = 0


@settings
class SampleSettings:
    """`[sample]`: how text is sampled, see `trainer.generate.sampling`. Temperature 0 is greedy.

    `top_k` 0, `top_p` 1, `min_p` 0 and `repetition_penalty` 1 disable these. A text of `stop` ends
    the sample, as the document boundary always does.
    """

    prompt: str = ""
    max_tokens: Annotated[int, Field(ge=0, le=MAX_COUNT)] = 64
    temperature: Annotated[float, Field(ge=0, le=1e300)] = 0.8
    top_k: Annotated[int, Field(ge=0, le=MAX_COUNT)] = 50
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    min_p: Annotated[float, Field(ge=0, le=1)] = 0.0
    repetition_penalty: Annotated[float, Field(gt=0, le=1e9)] = 1.0
    seed: Annotated[int, Field(ge=0, le=MAX_SEED)] = 0
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if "" in self.stop:
            raise ValueError("stop = '': must not be empty, every text contains it")


@settings
class Recipe:
    """The sections that pretraining and supervised fine-tuning share."""

    data: DataSettings = field(default_factory=DataSettings)
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    schedule: ScheduleSettings = field(default_factory=ScheduleSettings)
    run: RunSettings = field(default_factory=RunSettings)
    sample: SampleSettings = field(default_factory=SampleSettings)


@settings
class PretrainRecipe(Recipe):
    """A recipe file for `trainer pretrain`."""

    model: ModelSettings = field(default_factory=ModelSettings)


@settings
class SftRecipe(Recipe):
    """A recipe file for `trainer sft`; the model's shape comes from the checkpoint."""

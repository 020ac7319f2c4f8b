from __future__ import annotations

from pathlib import Path

import pytest

from schemas.config import load_toml
from schemas.errors import UserError
from trainer.settings import PretrainRecipe

RECIPES = Path(__file__).parents[2] / "recipes"


@pytest.mark.parametrize(
    ("toml", "said"),
    [
        ("[model]\nhiden_size = 3", "unknown key 'model.hiden_size'"),
        ("[model]\nhead_dim = 7", "model.head_dim = 7: must be even"),
        (
            "[model]\nnum_attention_heads = 4\nnum_key_value_heads = 3",
            "model.num_key_value_heads = 3: must divide num_attention_heads = 4",
        ),
        ("[model]\nnum_hidden_layers = 0", "model.num_hidden_layers = 0: must be at least 1"),
        ("[data]\nseq_len = 1", "data.seq_len = 1: must be at least 2"),
        ("[data]\nbatch_size = 2.5", "data.batch_size = 2.5: must be of type int"),
        ("[optimizer]\nlearning_rate = 0", "optimizer.learning_rate = 0: must be above 0"),
        ("[optimizer]\nlearning_rate = nan", "optimizer.learning_rate = nan: must be above 0"),
        ("[optimizer]\nbeta2 = 1.0", "optimizer.beta2 = 1.0: must be at least 0 and below 1"),
        ("[schedule]\nkind = 'linear'", "schedule.kind = 'linear': must be one of 'cosine', 'wsd'"),
        ("[schedule]\nmin_ratio = 2", "schedule.min_ratio = 2: must be at least 0 and at most 1"),
        ("[run]\nnum_steps = 0", "run.num_steps = 0: must be at least 1"),
        ("[run]\ndtype = 'float16'", "run.dtype = 'float16': must be one of"),
        ("[sample]\ntop_p = 0", "sample.top_p = 0: must be above 0 and at most 1"),
        ("[sample]\nstop = ['']", "sample.stop = '': must not be empty"),
    ],
)
def test_a_setting_that_makes_no_sense_is_named(tmp_path: Path, toml: str, said: str) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(toml)
    with pytest.raises(UserError) as caught:
        load_toml(path, PretrainRecipe)
    assert str(caught.value).startswith(f"{path}: {said}")


def test_the_recipe_of_the_demo_stays_within_its_budget() -> None:
    recipe = load_toml(RECIPES / "pretrain-tiny.toml", PretrainRecipe)
    tokens = recipe.run.num_steps * recipe.data.batch_size * recipe.data.seq_len
    assert tokens <= 500_000
    assert recipe.data.vocab_size == 4096

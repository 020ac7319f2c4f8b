from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from schemas import tokenizer as tokenizers
from schemas.errors import UserError
from schemas.tokenizer import Tokenizer
from trainer.generate import forbidden_ids, generate, pick, sample_tokens
from trainer.kv_cache import KeyValueCache
from trainer.model import LanguageModel
from trainer.settings import SampleSettings

GREEDY = SampleSettings(max_tokens=20, temperature=0)


@pytest.mark.parametrize("prompt", [[268], [268, 1, 2, 3], [268, 260, 260, 9, 9, 9, 9]])
def test_greedy_with_the_cache_equals_greedy_without(
    untied_model: LanguageModel, tokenizer: Tokenizer, prompt: list[int]
) -> None:
    forbidden = [*forbidden_ids(tokenizer), tokenizer.boundary]
    cached = list(sample_tokens(untied_model, prompt, forbidden, GREEDY))
    whole = list(sample_tokens(untied_model, prompt, forbidden, GREEDY, use_cache=False))
    assert cached == whole
    assert len(cached) == 20
    assert len(set(cached)) > 3


def test_the_cache_takes_tokens_in_pieces_of_any_size(model: LanguageModel) -> None:
    tokens = torch.tensor([[268, 5, 9, 5, 63, 17, 2]])
    with torch.no_grad():
        whole = model(tokens)
        cache = KeyValueCache(2)
        pieces = [model(piece, cache) for piece in torch.split(tokens, [2, 3, 1, 1], 1)]
    assert cache.length == 7
    torch.testing.assert_close(torch.cat(pieces, 1), whole, atol=1e-4, rtol=1e-4)


@given(
    seed=st.integers(0, 2**31),
    temperature=st.sampled_from([0.0, 0.7, 5.0, 100.0]),
    top_k=st.sampled_from([0, 1, 5, 319, 1000]),
    top_p=st.sampled_from([0.01, 0.5, 1.0]),
)
@hypothesis_settings(
    max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
def test_only_ids_that_mean_text_or_the_boundary_come_out(
    model: LanguageModel,
    tokenizer: Tokenizer,
    seed: int,
    temperature: float,
    top_k: int,
    top_p: float,
) -> None:
    settings = SampleSettings("", 12, temperature, top_k, top_p, seed)
    forbidden = forbidden_ids(tokenizer)
    for token in sample_tokens(model, [tokenizer.boundary], forbidden, settings):
        assert token <= tokenizer.boundary
        tokenizer.decode([token])


def test_a_model_that_wants_nothing_else_still_writes_no_control_token(
    model: LanguageModel, tokenizer: Tokenizer
) -> None:
    wanted = [*tokenizer.chat_ids.values(), *tokenizer.undefined_ids]
    logits = torch.zeros(model.config.vocab_size)
    logits[wanted] = 1000.0
    model.forward = lambda tokens, cache=None: logits[None, None]  # type: ignore[method-assign]
    text = generate(model, tokenizer, SampleSettings(max_tokens=31, top_k=0)).text
    assert "<|" not in text
    assert len(wanted) == 8 + 43


def test_the_ids_of_cl100k_that_do_not_exist_are_forbidden() -> None:
    try:
        cl100k = tokenizers.named("cl100k_base")
    except UserError:
        pytest.skip("the ranks of cl100k_base are not here")
    forbidden = set(forbidden_ids(cl100k))
    assert {100256, 100258, 100261, 100275, 100276, 100277, 100284, 100285} <= forbidden
    assert cl100k.boundary == 100257
    assert not forbidden & set(range(100256))
    assert cl100k.boundary not in forbidden


def test_equal_seeds_write_equal_text_and_others_do_not(
    model: LanguageModel, tokenizer: Tokenizer
) -> None:
    def write(seed: int) -> str:
        return generate(model, tokenizer, SampleSettings("the", 20, seed=seed, temperature=3)).text

    assert write(1) == write(1)
    assert write(1) != write(2)


def test_top_k_and_top_p_keep_the_likeliest() -> None:
    logits = torch.tensor([0.1, 0.2, 0.3, 0.4]).log()
    random = torch.Generator().manual_seed(0)

    def drawn(**flags: float) -> set[int]:
        settings = SampleSettings(temperature=1, **{"top_k": 0, **flags})  # type: ignore[arg-type]
        return {pick(logits, settings, random) for _ in range(300)}

    assert drawn() == {0, 1, 2, 3}
    assert drawn(top_k=2) == {2, 3}
    assert drawn(top_p=0.69) == {2, 3}
    assert drawn(top_p=0.71) == {1, 2, 3}
    assert drawn(top_p=0.01) == {3}
    assert drawn(top_k=1) == {3}


def test_draws_follow_the_probabilities() -> None:
    logits = torch.tensor([0.1, 0.2, 0.3, 0.4]).log()
    random = torch.Generator().manual_seed(0)
    settings = SampleSettings(temperature=1, top_k=0)
    counts = torch.zeros(4)
    for _ in range(4000):
        counts[pick(logits, settings, random)] += 1
    torch.testing.assert_close(counts / 4000, torch.tensor([0.1, 0.2, 0.3, 0.4]), atol=0.03, rtol=0)


def test_a_stop_text_ends_the_sample_and_is_left_out(
    model: LanguageModel, tokenizer: Tokenizer
) -> None:
    whole = generate(model, tokenizer, GREEDY)
    assert whole.finish == "max_tokens"
    stop = tokenizer.decode([whole.ids[4]])
    cut = generate(model, tokenizer, dataclasses.replace(GREEDY, stop=("never seen", stop)))
    assert cut.finish == "stop"
    assert cut.text == whole.text[: whole.text.index(stop)]


def test_the_boundary_ends_the_sample(model: LanguageModel, tokenizer: Tokenizer) -> None:
    logits = torch.zeros(model.config.vocab_size)
    logits[tokenizer.boundary] = 9.0
    model.forward = lambda tokens, cache=None: logits[None, None]  # type: ignore[method-assign]
    found = generate(model, tokenizer, GREEDY)
    assert (found.text, found.ids, found.finish) == ("", (), "boundary")


def test_a_full_context_ends_the_sample(model: LanguageModel, tokenizer: Tokenizer) -> None:
    found = generate(model, tokenizer, dataclasses.replace(GREEDY, max_tokens=1000))
    assert found.finish in ("context", "boundary")
    assert len(found.ids) <= 31


def test_a_prompt_longer_than_the_context_is_refused(
    model: LanguageModel, tokenizer: Tokenizer
) -> None:
    with pytest.raises(UserError, match="prompt: 101 tokens, this model reads at most 32"):
        generate(model, tokenizer, SampleSettings(prompt="z" * 100))


def test_a_prompt_cannot_hold_a_control_token(
    model: LanguageModel, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[int]] = []

    def note(model: LanguageModel, prompt: list[int], *rest: object) -> list[int]:
        seen.append(prompt)
        return []

    monkeypatch.setattr("trainer.generate.sample_tokens", note)
    generate(model, tokenizer, SampleSettings(prompt="<|endoftext|><|user|>"))
    assert seen[0][0] == tokenizer.boundary
    assert max(seen[0][1:]) < tokenizer.boundary

"""Generation: the cache and batches change no id, draws follow the probabilities, text is whole."""

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
from trainer.generate.generate import (
    TextReader,
    allowed_ids,
    generate,
    generate_batch,
    stream,
    stream_ids,
)
from trainer.model.model import KeyValueCache, LanguageModel
from trainer.settings import SampleSettings

GREEDY = SampleSettings(max_tokens=20, temperature=0)
A, B = 268, 260  # the boundary of the tiny tokenizer, and an id of text


class Endless(TextReader):
    """Writes on where a document would end."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__(tokenizer)
        self._allowed = allowed_ids(tokenizer)


def written(
    model: LanguageModel,
    tokenizer: Tokenizer,
    prompts: list[list[int]],
    settings: SampleSettings = GREEDY,
    use_cache: bool = True,
) -> list[list[int]]:
    """Ids that follow each prompt."""
    readers = [Endless(tokenizer) for _ in prompts]
    randoms = [torch.Generator().manual_seed(i) for i in range(len(prompts))]
    for _ in stream_ids(model, tokenizer, prompts, readers, randoms, settings, use_cache):
        pass
    return [reader.ids for reader in readers]


# The cache and batches


@pytest.mark.parametrize("length", range(1, 33))
def test_greedy_with_the_cache_equals_greedy_without_up_to_the_full_context(
    untied_model: LanguageModel, tokenizer: Tokenizer, length: int
) -> None:
    prompt = [A, *torch.randint(256, (length - 1,), generator=torch.manual_seed(length)).tolist()]
    settings = dataclasses.replace(GREEDY, max_tokens=99)
    cached = written(untied_model, tokenizer, [prompt], settings)
    assert cached == written(untied_model, tokenizer, [prompt], settings, use_cache=False)
    assert len(cached[0]) == 32 - length


@pytest.mark.parametrize("mask", [True, False])
def test_the_cache_does_not_depend_on_the_document_mask(
    untied_model: LanguageModel, tokenizer: Tokenizer, mask: bool
) -> None:
    config = untied_model.config
    model = LanguageModel(
        dataclasses.replace(
            config, settings=dataclasses.replace(config.settings, document_mask=mask)
        )
    )
    model.load_state_dict(untied_model.state_dict())
    expected = written(untied_model, tokenizer, [[A, 1, 2]], use_cache=False)
    assert written(model, tokenizer, [[A, 1, 2]]) == expected
    assert len(set(expected[0])) > 3


PROMPTS = st.lists(
    st.lists(st.integers(0, 255), max_size=20).map(lambda p: [A, *p]), min_size=1, max_size=4
)


@given(prompts=PROMPTS, use_cache=st.booleans())
@hypothesis_settings(
    max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
def test_prompts_of_different_lengths_become_in_a_batch_what_each_becomes_alone(
    untied_model: LanguageModel, tokenizer: Tokenizer, prompts: list[list[int]], use_cache: bool
) -> None:
    alone = [written(untied_model, tokenizer, [prompt])[0] for prompt in prompts]
    assert written(untied_model, tokenizer, prompts, use_cache=use_cache) == alone


def test_rows_that_end_leave_the_batch_and_change_no_other(
    untied_model: LanguageModel, tokenizer: Tokenizer
) -> None:
    prompts = [[A, *range(29)], [A], [A, *range(20)], [A, 7]]  # 30 to 2 tokens of 32
    settings = dataclasses.replace(GREEDY, max_tokens=99)
    together = written(untied_model, tokenizer, prompts, settings)
    assert [len(ids) for ids in together] == [2, 31, 11, 30]
    assert together == [written(untied_model, tokenizer, [p], settings)[0] for p in prompts]


def test_the_cache_takes_tokens_in_pieces_of_any_size(model: LanguageModel) -> None:
    tokens = torch.tensor([[A, 5, 9, 5, 63, 17, 2]])
    with torch.no_grad():
        whole = model(tokens)
        cache = KeyValueCache(2, 7)
        pieces = [model(piece, cache) for piece in torch.split(tokens, [2, 3, 1, 1], 1)]
    assert cache.length == 7
    torch.testing.assert_close(torch.cat(pieces, 1), whole, atol=1e-4, rtol=1e-4)


@given(lengths=st.lists(st.integers(1, 6), min_size=2, max_size=4), more=st.integers(1, 3))
@hypothesis_settings(
    max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
def test_rows_of_different_lengths_go_on_with_several_tokens_at_once(
    model: LanguageModel, lengths: list[int], more: int
) -> None:
    rows = torch.randint(256, (len(lengths), 9), generator=torch.manual_seed(sum(lengths)))
    with torch.no_grad():
        cache = KeyValueCache(2, 9)
        model(rows[:, : max(lengths)], cache)
        cache.cut(lengths)
        new = torch.stack([row[n : n + more] for row, n in zip(rows, lengths, strict=True)])
        found = model(new, cache)
        for row, n, logits in zip(rows, lengths, found, strict=True):
            alone = model(row[None, : n + more])[0, n:]
            torch.testing.assert_close(logits, alone, atol=1e-4, rtol=1e-4)
    assert cache.longest == max(lengths) + more


def test_a_token_more_copies_nothing_but_itself() -> None:
    cache = KeyValueCache(1, 8)
    first, _ = cache.extend(0, torch.ones(1, 2, 3, 4), torch.ones(1, 2, 3, 4))
    second, _ = cache.extend(0, torch.ones(1, 2, 1, 4), torch.ones(1, 2, 1, 4))
    assert first.data_ptr() == second.data_ptr()
    assert second.shape == (1, 2, 4, 4)


# What comes out


def test_the_penalty_is_for_text_in_prompt_and_reply_and_not_for_control_tokens(
    untied_model: LanguageModel, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = dataclasses.replace(GREEDY, repetition_penalty=1e9)
    ids = written(untied_model, tokenizer, [[A, 3, 4]], settings)[0]
    assert len({*ids, 3, 4}) == len(ids) + 2  # nothing twice
    seen: list[list[int]] = []

    def boundary(logits: object, settings: object, random: object, mask: torch.Tensor) -> int:
        seen.append(mask.nonzero().flatten().tolist())
        return [7, A][len(seen) - 1]

    monkeypatch.setattr("trainer.generate.generate.pick", boundary)
    generate(untied_model, tokenizer, dataclasses.replace(settings, prompt="\x03\x04"))
    assert seen == [[3, 4], [3, 4, 7]]


@given(
    seed=st.integers(0, 2**31),
    temperature=st.sampled_from([0.0, 0.7, 5.0, 100.0]),
    top_k=st.sampled_from([0, 1, 5, 319, 1000]),
    top_p=st.sampled_from([0.01, 0.5, 1.0]),
)
@hypothesis_settings(
    max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
def test_only_ids_that_mean_text_come_out(
    model: LanguageModel,
    tokenizer: Tokenizer,
    seed: int,
    temperature: float,
    top_k: int,
    top_p: float,
) -> None:
    settings = SampleSettings("", 8, temperature, top_k, top_p, seed=seed)
    found = generate(model, tokenizer, settings)
    assert set(found.ids) <= set(tokenizer.token_bytes)
    assert found.finish in ("boundary", "max_tokens")


def test_no_undefined_id_of_cl100k_may_be_drawn() -> None:
    cl100k = tokenizers.named("cl100k_base")
    allowed = allowed_ids(cl100k, [cl100k.boundary])
    forbidden = {100256, 100258, 100261, 100275, 100276, 100277, 100284, 100285}
    assert not allowed[sorted(forbidden)].any()
    assert allowed[:100256].all()
    assert allowed[cl100k.boundary]
    assert not allowed_ids(cl100k)[cl100k.boundary]


def test_equal_seeds_write_equal_text_and_others_do_not(
    model: LanguageModel, tokenizer: Tokenizer
) -> None:
    def sample(seed: int) -> str:
        return generate(model, tokenizer, SampleSettings("the", 20, seed=seed, temperature=3)).text

    assert sample(1) == sample(1)
    assert sample(1) != sample(2)


def test_samples_of_a_batch_are_those_of_the_seeds_that_follow(
    model: LanguageModel, tokenizer: Tokenizer
) -> None:
    settings = SampleSettings("the", 20, seed=5, temperature=3)
    batch = generate_batch(model, tokenizer, ["the"] * 3, settings)
    seeds = [dataclasses.replace(settings, seed=5 + i) for i in range(3)]
    assert [one.ids for one in batch] == [generate(model, tokenizer, s).ids for s in seeds]
    assert len({one.ids for one in batch}) == 3


def test_a_stop_text_ends_the_sample_and_is_left_out(
    model: LanguageModel, tokenizer: Tokenizer
) -> None:
    whole = generate(model, tokenizer, GREEDY)
    assert whole.finish == "max_tokens"
    stop = tokenizer.decode([whole.ids[4]])
    cut = generate(model, tokenizer, dataclasses.replace(GREEDY, stop=("never seen", stop)))
    assert cut.finish == "stop"
    assert cut.text == whole.text[: whole.text.index(stop)]


def test_the_boundary_ends_the_sample(
    model: LanguageModel, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = iter([104, 105, tokenizer.boundary])
    monkeypatch.setattr("trainer.generate.generate.pick", lambda *_: next(drawn))
    found = generate(model, tokenizer, GREEDY)
    assert (found.text, found.ids, found.finish) == ("hi", (104, 105), "boundary")


def test_a_full_context_ends_the_sample(model: LanguageModel, tokenizer: Tokenizer) -> None:
    found = generate(model, tokenizer, dataclasses.replace(GREEDY, max_tokens=1000))
    assert found.finish in ("context", "boundary")
    assert len(found.ids) <= 31


def test_a_prompt_that_fills_the_context_leaves_no_room(
    model: LanguageModel, tokenizer: Tokenizer
) -> None:
    found = generate(model, tokenizer, SampleSettings(prompt="z" * 31))
    assert (found.text, found.finish) == ("", "context")
    nothing = generate(model, tokenizer, SampleSettings(max_tokens=0))
    assert (nothing.text, nothing.finish) == ("", "max_tokens")


def test_a_prompt_longer_than_the_context_is_refused(
    model: LanguageModel, tokenizer: Tokenizer
) -> None:
    with pytest.raises(UserError, match="prompt: 101 tokens, this model reads at most 32"):
        generate(model, tokenizer, SampleSettings(prompt="z" * 100))


def test_a_prompt_cannot_hold_a_control_token(
    model: LanguageModel, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[int]] = []

    def note(model: object, tokenizer: object, prompts: list[list[int]], *rest: object) -> list:
        seen.extend(prompts)
        return []

    monkeypatch.setattr("trainer.generate.generate.stream_ids", note)
    generate(model, tokenizer, SampleSettings(prompt="<|endoftext|><|user|>"))
    assert seen[0][0] == tokenizer.boundary
    assert max(seen[0][1:]) < tokenizer.boundary


def test_a_model_in_training_stays_in_training(model: LanguageModel, tokenizer: Tokenizer) -> None:
    model.train()
    rows = stream(model, tokenizer, [""], GREEDY, [TextReader(tokenizer)])
    next(rows)
    rows.close()  # type: ignore[attr-defined]
    assert model.training
    assert torch.is_grad_enabled()

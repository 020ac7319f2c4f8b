"""Tasks against a loop that reads one token at a time, and against models whose score is known."""

from __future__ import annotations

import dataclasses
import math
import random
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from schemas.tokenizer import Tokenizer
from trainer.distributed import Ranks
from trainer.evaluate import likelihood
from trainer.evaluate.likelihood import (
    Metric,
    ScoredSpan,
    encode_pair,
    evaluate_task,
    score,
    scored_spans,
)
from trainer.evaluate.tasks import TASKS, Candidate, Example
from trainer.model.model import LanguageModel

ALONE = Ranks(torch.device("cpu"))
WORDS = ["the cat", "a mat", "an old red hat", "sat on", "dog", "ran to the mat and sat"]


def slow_score(model: LanguageModel, span: ScoredSpan) -> tuple[float, bool]:
    """Log-likelihood of a span's last tokens, and whether each is the likeliest, one by one."""
    nats, greedy = 0.0, True
    for at in range(len(span.ids) - span.scored, len(span.ids)):
        with torch.no_grad():
            logs = model(torch.tensor([span.ids[:at]]))[0, -1].double().log_softmax(-1)
        nats += float(logs[span.ids[at]])
        greedy &= int(logs.argmax()) == span.ids[at]
    return nats, greedy


def random_groups(seed: int, boundary: int, context: int = 32) -> list[list[ScoredSpan]]:
    """Spans that share nothing, something, all but the last token, or all."""
    draw, groups, number = random.Random(seed), [], 0
    for _ in range(draw.randrange(1, 9)):
        shared = [boundary, *(draw.randrange(256) for _ in range(draw.randrange(context - 1)))]
        group = []
        for _ in range(draw.choice([1, 1, 2, 4])):
            own = [draw.randrange(3) for _ in range(draw.randrange(1, context + 2 - len(shared)))]
            ids = shared + own
            group.append(ScoredSpan(number, ids, draw.randrange(1, len(ids))))
            number += 1
        groups.append(group)
    return groups


@pytest.mark.parametrize("seed", range(12))
def test_scores_are_those_of_reading_one_token_at_a_time(
    seed: int, model: LanguageModel, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    if seed % 2:
        monkeypatch.setattr(likelihood, "LOGITS", 1000)  # three places at once
    groups = random_groups(seed, tokenizer.boundary)
    made = [span for group in groups for span in group]
    sizes = [40, 200, 8192]
    found = score(
        model, groups, len(made), ALONE, torch.float32, batch_tokens=sizes[seed % len(sizes)]
    )
    for span in made:
        nats, greedy = slow_score(model, span)
        assert found.nats[span.candidate] == pytest.approx(nats, rel=1e-5, abs=1e-5)
        assert found.greedy[span.candidate] == greedy


def test_likeliest_tokens_are_what_greedy_decoding_gives(
    model: LanguageModel, tokenizer: Tokenizer
) -> None:
    ids = [tokenizer.boundary, 5, 6]
    for _ in range(6):
        ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
    groups = [[ScoredSpan(0, ids, 6)], [ScoredSpan(1, [*ids[:-1], ids[-1] ^ 1], 6)]]
    assert score(model, groups, 2, ALONE, torch.float32).greedy.tolist() == [True, False]


@given(
    prompt=st.integers(1, 60),
    answer=st.integers(1, 60),
    context=st.integers(2, 24),
)
def test_spans_score_each_token_of_the_answer_once_and_fit_the_model(
    prompt: int, answer: int, context: int
) -> None:
    ids = list(range(prompt + answer))
    made = scored_spans(7, ids[:prompt], ids[prompt:], context)
    assert [i for w in made for i in w.ids[-w.scored :]] == ids[prompt:]
    for span in made:
        end = span.ids[-1] + 1
        assert len(span.ids) <= context + 1
        assert len(span.ids) > span.scored
        assert span.ids[0] == 0
        assert span.ids[1:] == ids[end - len(span.ids) + 1 : end]
        assert len(span.ids) == min(end, context + 1)
    if prompt + answer <= context + 1:
        assert made == [ScoredSpan(7, ids, answer)]


@given(context=st.text(max_size=30), answer=st.text(min_size=1, max_size=30))
def test_a_pair_is_the_text_of_both_and_the_answer_is_never_empty(
    context: str, answer: str, tokenizer: Tokenizer
) -> None:
    prompt, ids = encode_pair(tokenizer, Candidate(context, answer))
    assert prompt[0] == tokenizer.boundary
    assert [*prompt[1:], *ids] == tokenizer.encode(context + answer)
    assert ids


def test_blanks_between_context_and_answer_are_the_answers(tokenizer: Tokenizer) -> None:
    expected = encode_pair(tokenizer, Candidate("Answer:", " cat"))
    assert encode_pair(tokenizer, Candidate("Answer: ", "cat")) == expected
    assert tokenizer.decode(expected[1]) == " cat"


class Knowing(nn.Module):
    """Knows what follows some beginnings and finds everything else equally likely.

    The cache keeps its token ids in the place of keys.
    """

    def __init__(self, model: LanguageModel, known: dict[tuple[int, ...], int]) -> None:
        super().__init__()
        self.config = dataclasses.replace(model.config, max_position_embeddings=64)
        self.known, self.layers = known, 2
        self.lm_head = nn.Identity()
        self.model = self.read

    def read(self, tokens: Tensor, cache: Any) -> Tensor:
        begun = torch.as_tensor(cache.length).expand(len(tokens), 1)[:, 0].tolist()
        for layer in range(self.layers):
            seen, _ = cache.extend(layer, *[tokens[:, None, :, None].float()] * 2)
        out = torch.zeros(*tokens.shape, self.config.vocab_size)
        for row, start in enumerate(begun):
            for at in range(tokens.shape[1]):
                ids = tuple(seen[row, 0, : start + at + 1, 0].int().tolist())
                if ids in self.known:
                    out[row, at, self.known[ids]] = 20
        return out


def make_examples(count: int, answers: int, seed: int = 0) -> list[Example]:
    draw = random.Random(seed)
    made = []
    for i in range(count):
        texts = draw.sample(WORDS, answers)
        candidates = tuple(
            Candidate(f"Question: {seed}{i:03}?\nAnswer:", f" {text}") for text in texts
        )
        made.append(Example(candidates, draw.randrange(answers)))
    return made


def knowing(
    model: LanguageModel, tokenizer: Tokenizer, examples: list[Example], right: bool = True
) -> Any:
    """A model that knows the right answers, or one wrong answer of each."""
    known = {}
    for example in examples:
        which = example.gold if right else (example.gold + 1) % len(example.candidates)
        prompt, answer = encode_pair(tokenizer, example.candidates[which])
        ids = [*prompt, *answer]
        known |= {tuple(ids[:at]): ids[at] for at in range(len(prompt), len(ids))}
    return Knowing(model, known)


def scores(
    task: str, examples: list[Example], model: Any, tokenizer: Tokenizer
) -> dict[str, Metric]:
    found = evaluate_task(TASKS[task], examples, model, tokenizer, ALONE, torch.float32)
    assert (found.task, found.examples) == (task, len(examples))
    return {metric.name: metric for metric in found.metrics}


@pytest.mark.parametrize("task", ["arc_easy", "piqa", "hellaswag"])
def test_a_model_that_knows_the_answers_gets_them_all(
    task: str, model: LanguageModel, tokenizer: Tokenizer
) -> None:
    examples = make_examples(40, 4)
    found = scores(task, examples, knowing(model, tokenizer, examples), tokenizer)
    assert set(found) == {"acc", "acc_norm"}
    for metric in found.values():
        assert metric[1:4] == (1.0, 0.0, 0.25)
        assert metric.above_chance == pytest.approx(0.75 / math.sqrt(0.25 * 0.75 / 40))
    wrong = scores(task, examples, knowing(model, tokenizer, examples, right=False), tokenizer)
    assert wrong["acc"].score == wrong["acc_norm"].score == 0


def test_winogrande_is_scored_by_what_follows_the_option(
    model: LanguageModel, tokenizer: Tokenizer
) -> None:
    examples = [
        Example(tuple(Candidate(f"The {i} so {name}", " ran") for name in ("dog", "cat")), i % 2)
        for i in range(20)
    ]
    found = scores("winogrande", examples, knowing(model, tokenizer, examples), tokenizer)
    assert set(found) == {"acc"}
    assert found["acc"][1:4] == (1.0, 0.0, 0.5)


def test_lambada_is_right_where_greedy_decoding_gives_the_word(
    model: LanguageModel, tokenizer: Tokenizer
) -> None:
    examples = [Example((Candidate(f"{i} cats sat on the", " mat"),)) for i in range(20)]
    answer = encode_pair(tokenizer, examples[0].candidates[0])[1]
    found = scores("lambada", examples, knowing(model, tokenizer, examples[:5]), tokenizer)
    assert found["acc"][1:] == (0.25, math.sqrt(0.25 * 0.75 / 20), 0.0, None)
    size = tokenizer.padded_vocab_size
    known = math.log(1 + (size - 1) * math.exp(-20))
    nats = len(answer) * (5 * known + 15 * math.log(size)) / 20
    assert found["perplexity"].score == pytest.approx(math.exp(nats), rel=1e-5)


def test_a_model_that_knows_nothing_is_near_chance(
    model: LanguageModel, tokenizer: Tokenizer
) -> None:
    found = scores("arc_easy", make_examples(300, 4), model, tokenizer)
    for metric in found.values():
        assert metric.chance == 0.25
        assert metric.above_chance is not None
        assert abs(metric.above_chance) < 4


def test_chance_is_the_mean_over_examples_of_different_numbers_of_answers(
    model: LanguageModel, tokenizer: Tokenizer
) -> None:
    examples = make_examples(10, 2) + make_examples(30, 5, seed=1)
    metric = scores("arc_easy", examples, knowing(model, tokenizer, examples), tokenizer)["acc"]
    assert metric.chance == pytest.approx((10 / 2 + 30 / 5) / 40)
    spread = math.sqrt(10 * 0.25 + 30 * 0.16) / 40
    assert metric.above_chance == pytest.approx((1 - (metric.chance or 0)) / spread)


def test_an_answer_is_compared_by_bytes_where_length_is_taken_out(
    model: LanguageModel, tokenizer: Tokenizer
) -> None:
    with torch.no_grad():
        model.lm_head.weight.zero_()  # each token costs the same: the fewest tokens win
    candidates = tuple(Candidate("Q:", f" {text}") for text in ("x", "the the the the"))
    found = scores("arc_easy", [Example(candidates, 0)], model, tokenizer)
    assert (found["acc"].score, found["acc_norm"].score) == (1, 0)
    short, long = (encode_pair(tokenizer, candidate)[1] for candidate in candidates)
    assert len(short) < len(long)
    assert len(short) / len(b"x") > len(long) / len(b"the the the the")


def test_contexts_that_the_model_cannot_read_whole_are_cut_and_counted(
    model: LanguageModel, tokenizer: Tokenizer
) -> None:
    long = Example((Candidate("x" * 100, " mat"),))
    fits = Example((Candidate("xyz", " mat"),))
    heard: list[int] = []
    found = evaluate_task(
        TASKS["lambada"],
        [long, fits, long],
        model,
        tokenizer,
        ALONE,
        torch.float32,
        done=heard.append,
    )
    assert (found.cut, found.examples, sum(heard)) == (2, 3, 3)


def test_ranks_share_the_examples_and_find_what_one_finds(
    model: LanguageModel, tokenizer: Tokenizer
) -> None:
    groups = random_groups(3, tokenizer.boundary) * 3
    made = [span for group in groups for span in group]
    sums: list[Tensor] = []

    class Recorded(Ranks):
        def sum(self, values: Tensor) -> Tensor:
            sums.append(values.clone())
            return values

    cpu = torch.device("cpu")
    for group in (Recorded(cpu), Recorded(cpu, 0, 2), Recorded(cpu, 1, 2)):
        score(model, groups, len(made), group, torch.float32, batch_tokens=50)
    torch.testing.assert_close(sums[1] + sums[2], sums[0], rtol=1e-12, atol=0)
    assert all((part[0] != 0).any() for part in sums)

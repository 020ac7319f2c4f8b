"""When a model is compiled, what happens where that fails, and that it computes the same."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import nn

from schemas.errors import UserError
from trainer.data.loader import IGNORED
from trainer.evaluate.loss import token_losses
from trainer.model.model import LanguageModel, documents_of
from trainer.train import step
from trainer.train.step import EAGER, INDUCTOR, RowLosses, compile_model, missing_compiler

CPU = torch.device("cpu")
LONG = 10**12  # tokens, enough for any model to pay


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """Deterministic algorithms are a setting of the process."""
    yield
    torch.use_deterministic_algorithms(False)
    torch.utils.deterministic.fill_uninitialized_memory = True  # type: ignore[attr-defined]


@pytest.fixture
def compiles(monkeypatch: pytest.MonkeyPatch) -> Callable[[Exception | None], None]:
    """`torch.compile` replaced by what raises, or wraps, at the first call."""

    def use(error: Exception | None) -> None:
        def fake(model: Callable[..., object], **_: object) -> Callable[..., object]:
            def call(*arguments: object) -> object:
                if error is not None:
                    raise error
                return model(*arguments)

            return nn.Sequential(model) if isinstance(model, nn.Module) else call

        monkeypatch.setattr(torch, "compile", fake)
        monkeypatch.setattr(step, "missing_compiler", lambda _: None)

    return use


def test_a_short_run_is_not_compiled_and_a_long_one_is(
    model: LanguageModel, compiles: Callable[[Exception | None], None]
) -> None:
    compiles(None)
    enough = -(-step.MIN_WORK // model.num_parameters)
    assert compile_model("auto", model, enough - 1, CPU) == (model, EAGER)
    assert not torch.are_deterministic_algorithms_enabled()
    made, mode = compile_model("auto", model, enough, CPU)
    assert (made is model, mode) == (False, INDUCTOR)
    assert torch.are_deterministic_algorithms_enabled()


def test_the_demo_shape_is_compiled_from_about_five_million_tokens() -> None:
    demo = nn.Linear(5_245_696 // 64, 64, bias=False, device="meta")
    assert not step.pays(demo, 4_000_000)
    assert step.pays(demo, 5_000_000)


def test_off_never_compiles_and_on_always_does(
    model: LanguageModel, compiles: Callable[[Exception | None], None]
) -> None:
    compiles(None)
    assert compile_model("off", model, LONG, CPU) == (model, EAGER)
    assert compile_model("on", model, 1, CPU)[1] == INDUCTOR


def test_without_a_compiler_auto_is_eager_and_on_says_what_is_missing(
    model: LanguageModel, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert missing_compiler(CPU) == "compiling needs a C++ compiler (no-such-compiler not found)"
    assert compile_model("auto", model, LONG, CPU) == (model, EAGER)
    assert capsys.readouterr() == ("", "")
    with pytest.raises(UserError, match=r"run\.compile = 'on': compiling needs a C\+\+ compiler"):
        compile_model("on", model, LONG, CPU)


def test_a_compiler_that_fails_is_reported_once_and_refused_where_it_was_asked_for(
    model: LanguageModel,
    compiles: Callable[[Exception | None], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    compiles(RuntimeError("\nPython.h: no such file\nmore"))
    assert compile_model("auto", model, LONG, CPU) == (model, EAGER)
    assert capsys.readouterr().err == (
        "run.compile = 'auto': compiling failed (RuntimeError: Python.h: no such file); "
        "running uncompiled\n"
    )
    with pytest.raises(UserError, match=r"'on': compiling failed \(RuntimeError: Python\.h"):
        compile_model("on", model, LONG, CPU)


def test_row_losses_are_the_sums_of_the_tokens_losses(model: LanguageModel) -> None:
    tokens, targets, documents, positions = batch(model)
    found = RowLosses(model)(tokens, targets, documents, positions)
    each = token_losses(model(tokens, documents=documents, positions=positions), targets)
    torch.testing.assert_close(found, each.sum(1))
    assert each[0, 3].item() == 0


def test_what_no_counted_target_sees_has_no_gradient(untied_model: LanguageModel) -> None:
    """A loss mask that counts one target: the gradient reaches that token's document up to it."""
    boundary = untied_model.config.boundary
    tokens = torch.tensor([[7, 8, boundary, 11, 12, 13, 14]])
    targets = torch.full_like(tokens, IGNORED)
    targets[0, 4] = 13
    RowLosses(untied_model)(tokens, targets).sum().backward()
    gradient = untied_model.model.embed_tokens.weight.grad
    assert gradient is not None
    assert set(gradient.abs().sum(1).nonzero().flatten().tolist()) == {boundary, 11, 12}


def test_a_row_without_a_target_has_no_loss_and_no_gradient(model: LanguageModel) -> None:
    tokens = torch.tensor([[7, 8, 9]])
    losses = RowLosses(model)(tokens, torch.full_like(tokens, IGNORED))
    losses.sum().backward()
    assert losses.tolist() == [0.0]
    assert all(not p.grad.any() for p in model.parameters() if p.grad is not None)


@pytest.mark.soak
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_compiled_graph_has_the_losses_and_gradients_of_the_model(model: LanguageModel) -> None:
    """With a document mask, twice: equal in bits, and as close to eager as fp32 is."""
    eager, twin = copy.deepcopy(model), copy.deepcopy(model)
    arguments = batch(model)
    expected = RowLosses(eager)(*arguments)
    expected.sum().backward()
    rounds = []
    made, mode = compile_model("on", RowLosses(twin), 1, CPU)
    for _ in range(2):
        twin.zero_grad()
        losses = made(*arguments)
        losses.sum().backward()
        rounds.append([losses.detach(), *(p.grad.clone() for p in twin.parameters())])  # type: ignore[union-attr]
    assert mode == INDUCTOR
    assert all(torch.equal(a, b) for a, b in zip(*rounds, strict=True))
    torch.testing.assert_close(rounds[0][0], expected.detach())
    for (name, a), b in zip(eager.named_parameters(), rounds[0][1:], strict=True):
        torch.testing.assert_close(b, a.grad, atol=1e-4, rtol=1e-3, msg=name)


def batch(model: LanguageModel) -> tuple[torch.Tensor, ...]:
    """Two rows of several documents, with a target that does not count."""
    boundary = model.config.boundary
    tokens = torch.randint(boundary, (2, 17), generator=torch.Generator().manual_seed(0))
    tokens[:, [0, 5]] = boundary
    targets = tokens[:, 1:].clone()
    targets[0, 3] = IGNORED
    inputs = tokens[:, :-1].contiguous()
    return inputs, targets, *documents_of(inputs, boundary)

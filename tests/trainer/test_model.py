"""The model compared with a reference in plain loops; the document mask."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from trainer.model.model import LanguageModel, ModelConfig
from trainer.settings import ModelSettings

BOUNDARY = 0
SHAPE = {"hidden_size": 24, "head_dim": 8, "intermediate_size": 40, "num_hidden_layers": 2}


def make(heads: int = 4, key_heads: int = 2, tied: bool = True, mask: bool = True) -> LanguageModel:
    torch.manual_seed(1)
    settings = ModelSettings(
        num_attention_heads=heads,
        num_key_value_heads=key_heads,
        tie_word_embeddings=tied,
        document_mask=mask,
        **SHAPE,
    )
    model = LanguageModel(ModelConfig(settings, 64, BOUNDARY, 16))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape) * 0.4)
    return model


def norm(x: Tensor, weight: Tensor) -> Tensor:
    return x / (x.pow(2).mean() + 1e-6).sqrt() * weight


def turn(x: Tensor, position: int) -> Tensor:
    """RoPE written with complex numbers: pair (i, i + D/2) turned by position * theta^(-2i/D)."""
    half = len(x) // 2
    turned = x.clone()
    for i in range(half):
        angle = position * 10_000.0 ** (-2 * i / len(x))
        z = complex(x[i], x[i + half]) * complex(math.cos(angle), math.sin(angle))
        turned[i], turned[i + half] = z.real, z.imag
    return turned


def reference(model: LanguageModel, tokens: list[int]) -> Tensor:
    """Logits of one document, T x V: a token, a head and a past token at a time."""
    w, s = model.state_dict(), model.config.settings
    stream = [w["model.embed_tokens.weight"][t] for t in tokens]
    for layer in range(s.num_hidden_layers):
        p = f"model.layers.{layer}."
        normed = [norm(x, w[p + "input_layernorm.weight"]) for x in stream]
        mixed = attention(w, p + "self_attn.", normed, s)
        stream = [x + m for x, m in zip(stream, mixed, strict=True)]
        for i, x in enumerate(stream):
            n = norm(x, w[p + "post_attention_layernorm.weight"])
            gate = w[p + "mlp.gate_proj.weight"] @ n
            up = w[p + "mlp.up_proj.weight"] @ n
            stream[i] = x + w[p + "mlp.down_proj.weight"] @ (gate / (1 + (-gate).exp()) * up)
    head = w["lm_head.weight"]
    return torch.stack([head @ norm(x, w["model.norm.weight"]) for x in stream])


def attention(w: dict[str, Tensor], p: str, xs: list[Tensor], s: ModelSettings) -> list[Tensor]:
    share, size = s.num_attention_heads // s.num_key_value_heads, s.head_dim
    out = []
    for t, x in enumerate(xs):
        heads = []
        for h in range(s.num_attention_heads):
            rows = slice(h * size, (h + 1) * size)
            kv = slice(h // share * size, (h // share + 1) * size)
            q = turn(norm(w[p + "q_proj.weight"][rows] @ x, w[p + "q_norm.weight"]), t)
            scores, values = [], []
            for u in range(t + 1):
                k = turn(norm(w[p + "k_proj.weight"][kv] @ xs[u], w[p + "k_norm.weight"]), u)
                scores.append(q @ k / math.sqrt(size))
                values.append(w[p + "v_proj.weight"][kv] @ xs[u])
            weights = torch.stack(scores).softmax(0)
            heads.append((weights[:, None] * torch.stack(values)).sum(0))
        out.append(w[p + "o_proj.weight"] @ torch.cat(heads))
    return out


@pytest.mark.parametrize(("heads", "key_heads"), [(4, 4), (4, 2), (6, 1)])
@pytest.mark.parametrize("tied", [True, False])
def test_logits_equal_a_model_written_with_loops(heads: int, key_heads: int, tied: bool) -> None:
    model = make(heads, key_heads, tied)
    tokens = [BOUNDARY, 5, 9, 5, 63, 17, 2]
    with torch.no_grad():
        found = model(torch.tensor([tokens]))[0]
        torch.testing.assert_close(found, reference(model, tokens), atol=2e-4, rtol=2e-4)


@pytest.mark.parametrize("tied", [True, False])
def test_logits_and_gradients_are_those_of_transformers_qwen3(tied: bool) -> None:
    transformers = pytest.importorskip("transformers", reason="needs transformers (the test extra)")
    ours = make(tied=tied, mask=False)
    s = ours.config.settings
    config = transformers.Qwen3Config(
        vocab_size=64,
        hidden_size=s.hidden_size,
        intermediate_size=s.intermediate_size,
        num_hidden_layers=s.num_hidden_layers,
        num_attention_heads=s.num_attention_heads,
        num_key_value_heads=s.num_key_value_heads,
        head_dim=s.head_dim,
        rope_parameters={"rope_type": "default", "rope_theta": s.rope_theta},
        tie_word_embeddings=tied,
        attn_implementation="sdpa",
    )
    theirs = transformers.Qwen3ForCausalLM(config)
    theirs.load_state_dict(ours.state_dict())
    tokens = torch.randint(64, (3, 16), generator=torch.Generator().manual_seed(0))
    found, expected = ours(tokens), theirs(input_ids=tokens, use_cache=False).logits
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    for logits in (found, expected):
        logits.log_softmax(-1)[..., 7].mean().backward()
    named = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, named[name].grad, atol=1e-5, rtol=1e-4)


def test_given_documents_and_positions_count_and_not_the_boundary_tokens() -> None:
    """As the loader numbers a row that continues a document and ends with padding."""
    model = make()
    row = torch.tensor([[7, 8, 9, 5, 9, 5, 3, 3]])
    documents = torch.tensor([[0, 0, 0, 1, 1, 1, 2, 2]])
    positions = torch.tensor([[0, 1, 2, 0, 1, 2, 0, 1]])
    with torch.no_grad():
        together = model(row, documents=documents, positions=positions)[0]
        alone = [model(part[None])[0] for part in row[0].split([3, 3, 2])]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=1e-5)


def test_each_document_of_a_row_has_the_logits_it_has_alone() -> None:
    model = make()
    documents = [[7, 8, 9], [BOUNDARY, 5, 9, 5], [BOUNDARY], [BOUNDARY, 9, 9, 1, 2]]
    row = [t for document in documents for t in document]
    with torch.no_grad():
        together = model(torch.tensor([row]))[0]
        alone = torch.cat([reference(model, document) for document in documents])
    torch.testing.assert_close(together, alone, atol=2e-4, rtol=2e-4)


def test_without_the_mask_a_document_sees_the_one_before() -> None:
    model = make(mask=False)
    with torch.no_grad():
        a = model(torch.tensor([[3, 4, BOUNDARY, 5]]))[0, -1]
        b = model(torch.tensor([[9, 4, BOUNDARY, 5]]))[0, -1]
        whole = reference(model, [3, 4, BOUNDARY, 5])[-1]
    assert not torch.allclose(a, b, atol=1e-3)
    torch.testing.assert_close(a, whole, atol=2e-4, rtol=2e-4)


def test_a_token_outside_the_mask_has_no_gradient() -> None:
    model = make(tied=False)
    tokens = torch.tensor([[3, 4, BOUNDARY, 5, 6, 7]])
    model(tokens)[0, 4].square().sum().backward()  # sees BOUNDARY, 5, 6
    gradient = model.model.embed_tokens.weight.grad
    assert gradient is not None
    reached = {int(i) for i in gradient.abs().sum(1).nonzero()}
    assert reached == {BOUNDARY, 5, 6}


def test_attention_under_bfloat16_stays_close_to_fp32() -> None:
    model = make()
    tokens = torch.tensor([[BOUNDARY, 5, 9, 5, 63, 17, 2]])
    with torch.no_grad():
        exact = model(tokens).log_softmax(-1)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rough = model(tokens)
    assert rough.dtype == torch.bfloat16
    probability = exact.exp()
    divergence = (probability * (exact - rough.float().log_softmax(-1))).sum(-1)
    assert float(divergence.abs().max()) < 0.05


def test_a_tied_head_counts_once_and_an_untied_one_is_its_own() -> None:
    tied, untied = make(tied=True), make(tied=False)
    assert tied.lm_head.weight is tied.model.embed_tokens.weight
    assert untied.num_parameters - tied.num_parameters == 64 * 24
    assert untied.num_parameters == sum(t.numel() for t in untied.state_dict().values())

"""An exported folder against the checkpoint it was made from, as transformers computes it.

Both get equal random ids behind the document boundary; what is compared are the logits of every
place, and what each writes when it always takes the likeliest token. Cost: three forward passes and
a short generation on the CPU.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from schemas.errors import UserError
from schemas.tokenizer import Tokenizer
from trainer.hf import DTYPES, never_drawn
from trainer.model import LanguageModel

MAX_DIFFERENCE = 1e-4  # of a logit in fp32
ROWS, MAX_TOKENS, NUM_GREEDY = 4, 128, 32


@dataclass(frozen=True)
class Comparison:
    """The greatest difference of a logit in fp32 and bf16, and the greatest logit there is.

    `bf16_agrees` is the share of places where bf16 has the same likeliest token; `num_equal` of
    `num_greedy` tokens that greedy generation began with are equal.
    """

    fp32: float
    bf16: float
    largest: float
    bf16_agrees: float
    num_equal: int
    num_greedy: int


def compare(
    model: LanguageModel, tokenizer: Tokenizer, folder: Path, dtype: str, chats: bool
) -> Comparison:
    """Compare `model` (on the CPU) with its export in `dtype`; `UserError` without transformers.

    Where the file has bf16 weights, `model` is taken with weights rounded to them.
    """
    try:
        from transformers import AutoModelForCausalLM
        from transformers.utils import logging
    except ImportError:
        raise UserError(
            "--check needs transformers, which is not installed: pip install transformers"
        ) from None
    quiet: Any = logging.disable_progress_bar
    quiet()
    model, tokens = _rounded(model, DTYPES[dtype]), _probe(model, tokenizer)
    with torch.no_grad():
        ours = model.eval()(tokens)
        theirs = {}
        for name, kind in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
            loaded = AutoModelForCausalLM.from_pretrained(
                folder, dtype=kind, attn_implementation="sdpa"
            )
            theirs[name] = loaded(tokens).logits.float()
            if name == "fp32":
                equal, count = _greedy(model, loaded, tokenizer, chats)
    return Comparison(
        fp32=float((ours - theirs["fp32"]).abs().max()),
        bf16=float((ours - theirs["bf16"]).abs().max()),
        largest=float(ours.abs().max()),
        bf16_agrees=float((ours.argmax(-1) == theirs["bf16"].argmax(-1)).double().mean()),
        num_equal=equal,
        num_greedy=count,
    )


def _rounded(model: LanguageModel, dtype: torch.dtype) -> LanguageModel:
    """A copy of the model, its weights as a file of `dtype` holds them."""
    model = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.to(dtype))
    return model


def _probe(model: LanguageModel, tokenizer: Tokenizer) -> Tensor:
    """`ROWS` documents of random ids, each begun by the boundary."""
    random = torch.Generator().manual_seed(0)
    known = torch.tensor(sorted(tokenizer.token_bytes))
    length = min(MAX_TOKENS, model.config.max_position_embeddings)
    tokens = known[torch.randint(len(known), (ROWS, length), generator=random)]
    tokens[:, 0] = tokenizer.boundary
    return tokens


def _greedy(
    model: LanguageModel, loaded: Any, tokenizer: Tokenizer, chats: bool
) -> tuple[int, int]:
    """How many tokens of both texts are equal before the first that is not, and of how many."""
    prompt = _probe(model, tokenizer)[:1, :8]
    count = min(NUM_GREEDY, model.config.max_position_embeddings - prompt.shape[1])
    given = torch.ones_like(prompt)
    theirs = loaded.generate(prompt, attention_mask=given, max_new_tokens=count, do_sample=False)
    forbidden, tokens = never_drawn(tokenizer, chats), prompt
    for _ in range(theirs.shape[1] - prompt.shape[1]):
        logits = model(tokens)[:, -1]
        logits[:, forbidden] = -torch.inf
        tokens = torch.cat([tokens, logits.argmax(-1, keepdim=True)], 1)
    equal = (tokens == theirs)[0, prompt.shape[1] :].long()
    return int(equal.cumprod(0).sum()), len(equal)

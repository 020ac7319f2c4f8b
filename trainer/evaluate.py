"""Loss of held-out text, in nats a token and in bits a byte.

Bits per byte does not depend on the tokenizer: the nats of all targets that are text, over the
UTF-8 bytes that these targets stand for. The document boundary stands for none and is left out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from schemas.tokenizer import Tokenizer
from trainer.data import TokenStream
from trainer.distributed import Ranks
from trainer.model import LanguageModel
from trainer.precision import autocast

IGNORED = -100  # a target that does not count, cross_entropy's default


@dataclass(frozen=True)
class Validation:
    """`loss` in nats a target, `bits_per_byte` of text, and how many `targets` were measured."""

    loss: float
    bits_per_byte: float
    targets: int


def token_losses(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of each target in fp32 nats, B x T; 0 where the target is `IGNORED`."""
    flat = F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), reduction="none")
    return flat.view(targets.shape)


@torch.no_grad()
def validate(
    model: LanguageModel,
    stream: TokenStream,
    token_bytes: Tensor,
    ranks: Ranks,
    dtype: torch.dtype,
    *,
    seq_len: int,
    batch_size: int,
    max_windows: int = 0,
) -> Validation:
    """Loss over the first `max_windows` (0: all) windows, shared out over the ranks."""
    windows = validation_windows(len(stream), seq_len, max_windows)
    own = windows[ranks.rank :: ranks.world_size]
    sums = torch.zeros(4, dtype=torch.float64, device=ranks.device)  # nats, targets, nats, bytes
    model.eval()
    for first in range(0, len(own), batch_size):
        rows = [_window(stream, w, seq_len) for w in own[first : first + batch_size]]
        batch = torch.from_numpy(np.stack(rows)).to(ranks.device)
        inputs, targets = batch[:, :-1].clamp(min=0), batch[:, 1:]
        with autocast(ranks.device, dtype):
            logits = model(inputs)
        losses = token_losses(logits, targets).double()
        size = token_bytes[targets.clamp(min=0)] * (targets != IGNORED)
        counted = (targets != IGNORED).sum(), (losses * (size > 0)).sum(), size.sum()
        sums += torch.stack([losses.sum(), *counted])
    model.train()
    nats, count, text_nats, text_bytes = ranks.sum(sums).tolist()
    bits = text_nats / math.log(2) / max(1.0, text_bytes)
    return Validation(nats / max(1.0, count), bits, int(count))


def validation_windows(num_tokens: int, seq_len: int, max_windows: int = 0) -> range:
    """Numbers of the windows that cover the split, the last one perhaps in part."""
    count = max(1, -(-(num_tokens - 1) // seq_len))
    return range(min(count, max_windows) if max_windows else count)


def bytes_of_tokens(tokenizer: Tokenizer) -> Tensor:
    """UTF-8 bytes that each id below `padded_vocab_size` stands for; 0 for control tokens."""
    sizes = torch.zeros(tokenizer.padded_vocab_size, dtype=torch.int64)
    for number, token in tokenizer.token_bytes.items():
        sizes[number] = len(token)
    return sizes


def _window(stream: TokenStream, window: int, seq_len: int) -> np.ndarray:
    start = window * seq_len
    tokens = stream.read(start, min(seq_len + 1, len(stream) - start)).astype(np.int64)
    return np.pad(tokens, (0, seq_len + 1 - len(tokens)), constant_values=IGNORED)

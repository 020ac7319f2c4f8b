"""Token ids of many texts in one array, without a Python object a token.

tiktoken can hand out its buffer of ids instead of a list. That call takes the names of the control
tokens that it may produce: none are given, so that a text that spells one out becomes ordinary
tokens, the same as `Tokenizer.encode` gives. Cost: tiktoken's own, and one copy of the ids.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import tiktoken

from schemas.tokenizer import LONG_BLANKS, MAX_BLANKS, Tokenizer, without_surrogates

Int32s = npt.NDArray[np.int32]


def token_lists(texts: Sequence[str], known: Tokenizer) -> pa.ListArray:
    """For each text the document boundary and the text's ids: list<int32> (n,)."""
    boundary = np.array([known.boundary], dtype=np.int32)
    found = [encode_array(text, known) for text in texts]
    pieces = [piece for ids in found for piece in (boundary, ids)]
    ends = np.cumsum([0, *(1 + len(ids) for ids in found)], dtype=np.int64)
    assert ends[-1] < 1 << 31, f"{ends[-1]} tokens in one batch"
    values = np.concatenate([np.empty(0, np.int32), *pieces])
    return pa.ListArray.from_arrays(pa.array(ends.astype(np.int32)), pa.array(values))


def encode_array(text: str, known: Tokenizer) -> Int32s:
    """`Tokenizer.encode` as an array, int32 (n,)."""
    encoding = known.encoding
    if not isinstance(encoding, tiktoken.Encoding):  # Hugging Face's hands out a list alone
        return np.array(known.encode(text), dtype=np.int32)
    if len(text) <= MAX_BLANKS:
        return _encode(text, encoding)
    cuts = [0]
    for run in LONG_BLANKS.finditer(text):
        cuts += range(run.start() + MAX_BLANKS, run.end() + 1, MAX_BLANKS)
    cuts.append(len(text))
    return np.concatenate([_encode(text[start:end], encoding) for start, end in pairwise(cuts)])


def _encode(text: str, encoding: tiktoken.Encoding) -> Int32s:
    # No control token is allowed to come out, and none is refused where the text spells it out.
    try:
        return encoding.encode_to_numpy(text, allowed_special=set(), disallowed_special=()).view(
            "i4"
        )
    except UnicodeEncodeError:  # half a surrogate pair, which Arrow's texts cannot hold
        return _encode(without_surrogates(text), encoding)

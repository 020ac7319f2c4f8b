"""How fast this machine is just now, so that a bound on CPU time means the same on all.

The same core takes twice as long beside a busy neighbour, and machines differ as much.
"""

from __future__ import annotations

import functools
import re
import time

# CPU seconds of `_fixed_work` on the machine for which the bounds were set, when it is quiet.
_REFERENCE_SECONDS = 0.026
_NUMBER = re.compile(r"\d+ ")


def _fixed_work() -> float:
    start = time.process_time()
    texts: dict[int, str] = {}
    for i in range(100_000):
        texts[i & 1023] = str(i)
    assert sum(1 for _ in _NUMBER.finditer(" ".join(texts.values()) * 20)) > 20_000
    return time.process_time() - start


def at_reference_speed(seconds: float) -> float:
    """CPU seconds, just measured here, as they would be on the reference machine; never more.

    Less than 0.02 s is returned as it is.
    """
    return seconds if seconds < 0.02 else seconds / _slowness(int(time.monotonic()))


@functools.lru_cache(maxsize=1)
def _slowness(_second: int) -> float:
    """At least 1; measured once per second. The quickest of three runs: an underestimate makes a
    bound stricter.
    """
    return max(1.0, min(_fixed_work() for _ in range(3)) / _REFERENCE_SECONDS)

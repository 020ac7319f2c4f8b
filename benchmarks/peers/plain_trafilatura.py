"""trafilatura called plainly, in a process where nothing of ours was imported.

    python benchmarks/peers/plain_trafilatura.py < pages > texts

Reads a page a line, as a JSON string, and answers each by a line `[text, CPU seconds]`.
"""

from __future__ import annotations

import json
import logging
import sys
import time

import trafilatura

logging.disable(logging.CRITICAL)
for line in sys.stdin:
    html = json.loads(line)
    start = time.process_time()
    text = trafilatura.extract(html, favor_precision=True, include_comments=False) or ""
    print(json.dumps([text, time.process_time() - start]), flush=True)

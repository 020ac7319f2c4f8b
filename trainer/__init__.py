"""The trainer: from token shards to a language model that writes."""

import schemas.python  # noqa: F401 (first of all: it refuses a Python that is too old)

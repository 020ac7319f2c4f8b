"""The trainer: from token shards to a language model."""

import schemas.python  # noqa: F401 (first: it refuses a Python that is too old)

"""Thin Spark jobs: one module, one stage, one set of datasets written."""

import schemas.python  # noqa: F401 (first of all: it refuses a Python that is too old)

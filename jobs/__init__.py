"""Thin Spark jobs: one module, one stage, one set of datasets written."""

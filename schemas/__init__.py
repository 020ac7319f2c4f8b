"""The contracts: the columns of every dataset, manifests, settings and token ids.

Everything here may be imported by `corpus`, `jobs` and `trainer`; it imports none of them.
"""

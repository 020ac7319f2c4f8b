"""Which document of a cluster of duplicates stays: an explicit, total order on documents."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Survivor:
    """Section [survivor]: `longest`, `earliest` or `latest` capture, or `first` by id.

    Ties go to the earlier date, then the smaller id, then the smaller key, so that the same
    document stays whatever the order of the input.
    """

    keep: Literal["longest", "earliest", "latest", "first"] = "longest"

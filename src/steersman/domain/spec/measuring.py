"""What a document says about measuring: metrics of a team's own, and how they are named where versions are compared."""

from __future__ import annotations

from typing import Annotated

import msgspec

from steersman.domain.metrics import COMPARISONS, METRICS, NAME_PATTERN, Direction, names_label
from steersman.domain.spec.parts import Part

ComparedMetric = Annotated[str, msgspec.Meta(extra_json_schema={"examples": [*METRICS, *COMPARISONS]})]
"""One of ours, or one the document declares; validation refuses any other."""


class DeclaredMetric(Part, frozen=True, kw_only=True):
    """A metric of the team's own: the mean of an SQL expression over the requests a version answered, or a function of an
    installed distribution over the scores and labels of a block."""

    name: Annotated[str, msgspec.Meta(pattern=NAME_PATTERN)]
    expression: Annotated[str, msgspec.Meta(min_length=1, max_length=1000)] | None = None
    """Over one row: `score`, `label`, and the input columns by name. What names `label` waits for labels."""
    entry_point: Annotated[str, msgspec.Meta(min_length=1, max_length=200)] | None = None
    """Instead of an expression: its name in the entry points "steersman.metrics" of what is installed beside Steersman."""
    direction: Direction
    """Which way it is good."""

    @property
    def needs_labels(self) -> bool:
        """Whether it waits for ground truth."""
        return self.expression is None or names_label(self.expression)

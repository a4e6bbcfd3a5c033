"""The metrics a document may name, and which way is better.

The vocabulary is closed: a gate on a misspelt metric would never find data, and no data is never a pass. The numbers
themselves are computed in `steersman.stats.performance`; a test keeps the two lists equal.
"""

from __future__ import annotations

from enum import StrEnum


class Direction(StrEnum):
    HIGHER = "higher"
    LOWER = "lower"


METRICS: dict[str, Direction] = {
    "log_loss": Direction.LOWER,
    "brier": Direction.LOWER,
    "roc_auc": Direction.HIGHER,
    "accuracy": Direction.HIGHER,
    "f1": Direction.HIGHER,
    "precision": Direction.HIGHER,
    "recall": Direction.HIGHER,
    "rmse": Direction.LOWER,
    "mae": Direction.LOWER,
    "calibration_error": Direction.LOWER,
}
"""Every metric by name, with the direction that is better. All need labels; errors and latency are guardrails."""


def harm(metric: str, difference: float) -> float:
    """How much worse a difference `candidate - reference` is, positive = worse, in the metric's own unit."""
    return difference if METRICS[metric] is Direction.LOWER else -difference

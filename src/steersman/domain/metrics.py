"""The metrics a document may name, which way is better, and what each needs.

The vocabulary is closed: a gate on a misspelt metric would never find data, and no data is never a pass. `METRICS` need
labels and judge one version or two; `COMPARISONS` exist only where two versions met the same traffic, so gates and
monitors cannot name them. What else a team measures it declares in its own document (`spec.metrics`), with a direction,
and names it then like the others. The numbers are computed in `steersman.stats`; tests keep the lists equal.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum


class Direction(StrEnum):
    """Which way a metric is good."""

    HIGHER = "higher"
    LOWER = "lower"


QUANTILES: dict[str, float] = {f"quantile_loss_p{level:02d}": level / 100 for level in (5, 10, 25, 50, 75, 90, 95)}
"""The level at which each `quantile_loss_pNN` judges a predicted quantile."""

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
    **dict.fromkeys(QUANTILES, Direction.LOWER),
    "calibration_error": Direction.LOWER,
}
"""Metrics of scores and labels, by name, with the direction that is better."""

LATENCIES: dict[str, float] = {"latency_p50": 0.5, "latency_p95": 0.95, "latency_p99": 0.99}
"""The quantile of the milliseconds a request took, by metric."""

COMPARISONS: dict[str, Direction] = {
    "agreement": Direction.HIGHER,
    "score_shift": Direction.LOWER,
    "error_rate": Direction.LOWER,
    **dict.fromkeys(LATENCIES, Direction.LOWER),
}
"""What two versions under the same traffic show without a label: `agreement` is the share of requests where both decide
alike, `score_shift` the mean absolute difference of their scores, `error_rate` the share that failed (5xx)."""

PAIRS_ONLY = frozenset({"agreement", "score_shift"})
"""They compare two answers to one request; a split has none."""

MEANS = frozenset({"log_loss", "brier", "accuracy", "mae", *QUANTILES, "agreement", "score_shift", "error_rate"})
"""Metrics that are means of rows. Only of these (and of declared ones) a single row is evidence, or a weighted one."""

HARM_RANGES: dict[str, tuple[float, float]] = {
    "accuracy": (-1.0, 1.0),
    "brier": (-1.0, 1.0),
    "agreement": (0.0, 1.0),
    "error_rate": (-1.0, 1.0),
}
"""Where the harm of one request lies that both versions answered, of means that have a range. Of these fewer than 500
requests can be judged; in a split, where requests are weighted, of none."""

NAME_PATTERN = r"^[a-z][a-z0-9_]{0,39}$(?!\n)"
"""How a declared metric may be called."""


FUNCTIONS = frozenset(
    {"abs", "ceil", "floor", "round", "sign", "sqrt", "exp", "ln", "log10", "log2", "log1p", "pow", "power", "mod"}
    | {"least", "greatest", "coalesce", "nullif", "lower", "upper", "length", "starts_with", "ends_with", "cast"}
)
"""Functions a declared metric may use: all of one row. An aggregate or a window would look at other rows."""

_KEYWORDS = frozenset(
    {
        "case",
        "when",
        "then",
        "else",
        "end",
        "and",
        "or",
        "not",
        "in",
        "between",
        "like",
        "is",
        "null",
        "true",
        "false",
        "as",
    }
)
_QUOTED = re.compile(r"'(?:[^']|'')*'")
_WORD = re.compile(r"""("[^"]*"|[A-Za-z_][A-Za-z0-9_]*)(\s*\()?""")


def refuse_expression(text: str) -> str | None:
    """Why an SQL expression is no measure of one row and one version; None where the words allow it.

    Only words are looked at here: which functions, that no other row is, and that `score` takes part. Whether the whole is
    SQL says the table's own parser when the document is applied.
    """
    words = _WORD.findall(_QUOTED.sub("''", text))
    for word, opens in words:
        low = word.lower()
        if low in ("over", "select"):
            return f"{word} looks at other rows than its own; write it for one row, the mean is taken"
        if opens and low not in FUNCTIONS | _KEYWORDS:
            return f"function {word} is not one of {', '.join(sorted(FUNCTIONS))}"
    if "score" not in (word.strip('"') for word, _ in words):
        return "it does not name score, so it is the same for every version"
    return None


def names_label(text: str) -> bool:
    """Whether a declared metric's expression needs ground truth."""
    return "label" in (word.strip('"') for word, _ in _WORD.findall(_QUOTED.sub("''", text)))


def known(declared: Mapping[str, Direction]) -> dict[str, Direction]:
    """Every metric an analysis may name: ours, and those the document declares."""
    return {**METRICS, **COMPARISONS, **declared}


def is_mean(metric: str) -> bool:
    """Whether the metric is a mean of rows; one declared by an expression always is."""
    return metric in MEANS or metric not in {**METRICS, **COMPARISONS}


def harm(metric: str, difference: float, direction: Direction | None = None) -> float:
    """How much worse a difference `candidate - reference` is, positive = worse, in the metric's own unit.

    `direction` is that of a declared metric; raises KeyError for a name that is neither ours nor comes with one.
    """
    better = direction or {**METRICS, **COMPARISONS}[metric]
    return difference if better is Direction.LOWER else -difference

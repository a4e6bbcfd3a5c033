"""What the loop is measured against, computed from the same rows in the same run.

- *static*: the first version, left alone for the year;
- *ceiling*: retrained at every month's beginning on all that was known, in service at once, without holdout, gate,
  shadow or canary. No honest process reaches it: it says how much there was to win;
- *scheduled*: retrained every 28 days, whatever happens, through the document's gates and steps. It says what the
  monitors are worth beside a calendar.

`drive.py` puts this into its report. By itself: `python ceiling.py [--sample 0.1] [--permute 7]`.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from flights import prepare
from simulate import Loop, read_policy
from train import Rows
from year import FIRST, MONTHS, Year

SUMMER = MONTHS[2:7]
"""May to September, over which gains are averaged: before, the first version still knows the season; after, winter
returns and it knows it again."""

CALENDAR_DAYS = 28


def ceiling(year: Year) -> Rows:
    """Scores of instant monthly retraining."""
    scores = year.train(FIRST).scores.copy()
    for month in MONTHS:
        rows = year.month == month
        scores[rows] = year.train(year.start_of(month)).scores[rows]
    return scores


def summer(months: dict[str, float]) -> float:
    return float(np.mean([months[month] for month in SUMMER]))


def compared(flights: pl.DataFrame, policy: Path, *, seed: int = 0) -> dict[str, Any]:
    """Mean monthly AUC of the three over the summer, their gains over static, and their months. Takes 20 s."""
    year = Year.of(flights, seed=seed)
    scheduled = Loop(year, read_policy(policy), calendar_days=CALENDAR_DAYS).run()
    scores = {"static": year.train(FIRST).scores, "ceiling": ceiling(year), "scheduled": scheduled.scores}
    months = {name: year.by_month("roc_auc", values) for name, values in scores.items()}
    static = summer(months["static"])
    return {
        name: {"auc": summer(by_month), "gain": summer(by_month) - static, "months": by_month}
        for name, by_month in months.items()
    } | {"scheduled_retrainings": len(scheduled.retrained)}


def main() -> None:
    parser = argparse.ArgumentParser(description="Static, ceiling and scheduled retraining on the same flights.")
    parser.add_argument("--sample", type=float, default=1.0, metavar="SHARE")
    parser.add_argument("--permute", type=int, metavar="SEED")
    arguments = parser.parse_args()
    flights = prepare(share=arguments.sample, permute=arguments.permute)
    print(json.dumps(compared(flights, Path(__file__).with_name("model.yaml")), indent=2))


if __name__ == "__main__":
    main()

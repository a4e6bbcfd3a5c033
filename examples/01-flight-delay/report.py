"""What came of the year: figures for people (a table) and for programs (JSON)."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from faults import MODEL, Fault
from flights import FEATURES
from up import entries
from year import MONTHS, log_loss, roc_auc

from steersman.client import Steersman


@dataclass
class Answers:
    """What callers were told, flight by flight, and how many requests it took."""

    scores: dict[str, float] = field(default_factory=dict)
    requests: int = 0
    failures: int = 0
    failed_in_canary: int = 0


def static_scores(flights: pl.DataFrame, model_file: Path) -> np.ndarray[Any, Any]:
    """What version 1, left alone, would have said about the same flights; read from its own bytes."""
    import lightgbm

    booster = lightgbm.Booster(model_file=str(model_file))
    features = flights.select(pl.col(FEATURES).cast(pl.Float64)).to_numpy()
    return np.asarray(booster.predict(features, num_threads=1), dtype=np.float64)


def months(flights: pl.DataFrame, answers: Answers, static: np.ndarray[Any, Any]) -> list[dict[str, Any]]:
    """Month by month, by local date of departure: the loop's answers beside the static model's, same flights."""
    loop = np.array([answers.scores.get(name, np.nan) for name in flights["flight_id"]])
    labels = flights["late"].cast(pl.Float64).to_numpy()
    month = flights["flight_id"].str.slice(0, 7).to_numpy()
    told = []
    for name in MONTHS:
        rows = (month == name) & ~np.isnan(loop)
        if not rows.any():
            continue
        told.append(
            {
                "month": name,
                "flights": int(rows.sum()),
                "auc_loop": roc_auc(loop[rows], labels[rows]),
                "auc_static": roc_auc(static[rows], labels[rows]),
                "log_loss_loop": log_loss(loop[rows], labels[rows]),
                "log_loss_static": log_loss(static[rows], labels[rows]),
            }
        )
    return told


def assemble(
    client: Steersman,
    *,
    flights: pl.DataFrame,
    answers: Answers,
    static: np.ndarray[Any, Any],
    comparison: Mapping[str, Any] | None,
    faults: Sequence[Fault],
    began: float,
) -> dict[str, Any]:
    """The report, in the form `--report` writes. `began` is `time.monotonic()` at the start of the demo."""
    ledger = entries(client)
    releases = sorted(client.releases(MODEL), key=lambda r: r["number"])
    incidents = sorted(client.incidents(MODEL), key=lambda i: i["detected_at"])
    trainings = sorted(client.trainings(MODEL), key=lambda t: t["started_at"])
    verified = client.ledger_verify()
    share = client.kpis()["automated_share"]
    return {
        "requests": answers.requests,
        "request_failures": answers.failures,
        "months": months(flights, answers, static),
        "releases": [
            {
                k: r[k]
                for k in ("number", "version", "completion", "phase", "opened", "opened_at", "closed_at", "because")
            }
            for r in releases
        ],
        "incidents": [
            {
                **{
                    k: i[k]
                    for k in ("id", "kind", "state", "began_at", "detected_at", "resolved_at", "remedy", "because")
                },
                "detect_days": days_between(i["began_at"], i["detected_at"]),
                "resolve_days": days_between(i["detected_at"], i["resolved_at"]),
            }
            for i in incidents
        ],
        "retrainings": [
            {"trigger": t["incident"], "version": t["version"], "outcome": outcome_of(t, releases), "rows": t["rows"]}
            for t in trainings
            if t["purpose"] == "retrain"
        ],
        "challengers": [
            {"version": t["version"], "started_at": t["started_at"]} for t in trainings if t["purpose"] == "challenger"
        ],
        "faults": [fault.report(ledger, releases) for fault in faults],
        "ledger": {
            "entries": verified["entries"],
            "verified": verified["verified"],
            "checkpoint": verified["checkpoint"],
        },
        "automated_share": share,
        "comparison": comparison,
        "wall_s": round(time.monotonic() - began, 1),
    }


def outcome_of(training: Mapping[str, Any], releases: Sequence[Mapping[str, Any]]) -> str:
    """What became of a retrained version: the completion of its release, or how the training itself ended."""
    mine = [r for r in releases if r["version"] == training["version"] and training["version"] is not None]
    return str(mine[-1]["completion"] or mine[-1]["phase"]) if mine else str(training["outcome"])


def days_between(earlier: str | None, later: str | None) -> float | None:
    if earlier is None or later is None:
        return None
    return round((datetime.fromisoformat(later) - datetime.fromisoformat(earlier)).total_seconds() / 86_400, 2)


def table(report: Mapping[str, Any]) -> str:
    """The year on one screen."""
    lines = ["", "month     flights   AUC loop  static    gain   log loss loop  static"]
    for m in report["months"]:
        gain = m["auc_loop"] - m["auc_static"]
        lines.append(
            f"{m['month']}  {m['flights']:>8,}     {m['auc_loop']:.3f}   {m['auc_static']:.3f}  {gain:+.3f}"
            f"          {m['log_loss_loop']:.3f}   {m['log_loss_static']:.3f}"
        )
    summer = [m["auc_loop"] - m["auc_static"] for m in report["months"] if "2013-05" <= m["month"] <= "2013-09"]
    if summer:
        gain = sum(summer) / len(summer)
        lines.append(f"mean gain in AUC over the static model, May to September: {gain:+.3f} (n={len(summer)} months)")
        if report["comparison"] is not None:
            best, scheduled = report["comparison"]["ceiling"]["gain"], report["comparison"]["scheduled"]["gain"]
            lines.append(
                f"  of instant monthly retraining, a ceiling no process reaches: {best:+.3f} (the loop has {gain / best:.0%})"
            )
            lines.append(f"  of retraining every 28 days through the same gates, simulated: {scheduled:+.3f}")
    completions: dict[str, int] = {}
    for release in report["releases"]:
        ended = release["completion"] or release["phase"]
        completions[ended] = completions.get(ended, 0) + 1
    lines += ["", "releases      " + ", ".join(f"{count} {name}" for name, count in sorted(completions.items()))]
    detected = [i["detect_days"] for i in report["incidents"] if i["detect_days"] is not None]
    resolved = [i["resolve_days"] for i in report["incidents"] if i["resolve_days"] is not None]
    lines.append(
        f"incidents     {len(report['incidents'])}; median days to detect {median(detected)} (n={len(detected)}), "
        f"to resolve {median(resolved)} (n={len(resolved)})"
    )
    lines.append(f"retrainings   {len(report['retrainings'])}, challengers {len(report['challengers'])}")
    share = report["automated_share"]
    lines.append(f"by pipeline   {share['promoted']} of {share['of']} deployments")
    lines.append(f"requests      {report['requests']:,}, failed {report['request_failures']}")
    for fault in report["faults"]:
        lines.append(f"fault         {'handled' if fault['handled'] else 'NOT HANDLED'}: {fault['name']}")
    ledger = report["ledger"]
    lines.append(f"ledger        {ledger['entries']} entries, verify {'passed' if ledger['verified'] else 'FAILED'}")
    lines.append(f"took          {report['wall_s']:.0f} s of wall time")
    return "\n".join(lines)


def median(values: Sequence[float]) -> str:
    return f"{float(np.median(values)):.1f}" if values else "–"

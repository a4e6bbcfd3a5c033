"""Was the report true? Recompute it from what Steersman wrote down, without a line of Steersman.

The inputs are an export (`drive.py --export DIR`: the Delta tables and the ledger) and the report (`--report FILE`).
Months are recomputed from the tables' predictions and labels, requests from the tables, releases, incidents and
retrainings from the ledger, faults from both; the ledger's Merkle root is computed anew and compared with the signed
checkpoint's. Labels are compared with the flights themselves.

    python check.py export r.json [--sample 0.1] [--permute 7]

It prints a line per claim and ends with 1 if one of them does not hold.
"""

import argparse
import base64
import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from flights import FEATURES, prepare
from train import fit
from year import FIRST, METRICS, MONTHS, Year

Record = dict[str, Any]

ANSWERED = ("stable", "candidate")
"""Variants whose answer went to a caller; `shadow` and `challenger` are copies."""

LABELS_A_REQUEST = 500
"""Most labels the driver sends at once."""

AUC_TOLERANCE = 1e-9
"""The same scores in another order of summation; anything above is another answer."""


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One statement of the report, and what the records say. `wrong` is empty when they agree."""

    name: str
    told: str
    wrong: str = ""


@dataclass(frozen=True, kw_only=True)
class Records:
    """What was exported: answers and copies, labels, and the ledger's entries in order."""

    predictions: pl.DataFrame
    labels: pl.DataFrame
    ledger: list[Record]
    lines: list[bytes]
    checkpoint: str

    @property
    def answers(self) -> pl.DataFrame:
        return self.predictions.filter(pl.col("variant").is_in(ANSWERED))

    def entries(self, action: str, **data: Any) -> list[tuple[int, Record]]:
        """Entries of one action whose data agree, with their indexes."""
        return [
            (index, entry)
            for index, entry in enumerate(self.ledger)
            if entry["action"] == action and all(entry["data"].get(key) == value for key, value in data.items())
        ]


# --- reading


def read_records(export: Path) -> Records:
    files = ledger_files(export)
    lines = files["entries.jsonl"].splitlines()
    environments = sorted((export / "tables").glob("*/*/*/predictions*/_delta_log"))
    columns = ("event_id", "at", "version", "variant", "score", "status", "request_id")
    tables = [pl.read_delta(str(log.parent)).select(columns) for log in environments]
    labels = sorted((export / "tables").glob("*/*/labels/_delta_log"))
    return Records(
        predictions=pl.concat(tables),
        labels=pl.concat([pl.read_delta(str(log.parent)).select("event_id", "at", "value") for log in labels]),
        ledger=[json.loads(line) for line in lines],
        lines=lines,
        checkpoint=files["checkpoint"].decode(),
    )


def ledger_files(export: Path) -> dict[str, bytes]:
    """The ledger's export by file name, from a folder or an archive of one."""
    archives = [path for path in export.glob("ledger*.tar*") if path.is_file()]
    if archives:
        with tarfile.open(fileobj=io.BytesIO(archives[0].read_bytes())) as archive:
            members = {Path(member.name).name: archive.extractfile(member) for member in archive if member.isfile()}
            return {name: content.read() for name, content in members.items() if content is not None}
    return {path.name: path.read_bytes() for path in (export / "ledger").iterdir()}


# --- the ledger


def merkle_root(leaves: Sequence[bytes]) -> bytes:
    """The root of RFC 6962, section 2.1, level by level: an odd node moves up as it is."""
    level = [hashlib.sha256(b"\x00" + leaf).digest() for leaf in leaves]
    while len(level) > 1:
        pairs = [hashlib.sha256(b"\x01" + a + b).digest() for a, b in zip(level[::2], level[1::2], strict=False)]
        level = pairs + level[len(pairs) * 2 :]
    return level[0] if level else hashlib.sha256(b"").digest()


def check_ledger(records: Records, report: Record) -> Iterator[Claim]:
    """A checkpoint is text: origin, size, root; then the signature, which `steersman ledger verify` checks."""
    _, size, root = records.checkpoint.splitlines()[:3]
    told = report["ledger"]
    yield compare("ledger entries", told["entries"], [len(records.lines), int(size)])
    computed = base64.b64encode(merkle_root(records.lines)).decode()
    yield compare("ledger root", root, [computed])
    yield compare("ledger verified", told["verified"], [True])


# --- traffic


def check_requests(records: Records, report: Record) -> Iterator[Claim]:
    """Each request for a prediction left its rows under one request id, whether it was answered or failed.

    Requests that carry labels leave none; the driver sends a day's labels in parts of `LABELS_A_REQUEST`. A request
    failed if one of its flights got no answer: where a candidate raises, the stable version answers in its place, and
    both stand in the log.
    """
    answers = records.answers
    by_day = records.labels.group_by(pl.col("at").dt.date()).len()["len"]
    carrying_labels = sum(-(-count // LABELS_A_REQUEST) for count in by_day)
    yield compare("requests", report["requests"], [answers["request_id"].n_unique() + carrying_labels])
    answered = pl.col("status") == 200
    per_flight = answers.group_by("request_id", "event_id").agg(answered.any().alias("told"))
    failed = per_flight.filter(~pl.col("told"))
    yield compare("failed requests", report["request_failures"], [failed["request_id"].n_unique()])
    twice = answers.filter(pl.col("status") == 200)["event_id"]
    yield compare("flights answered twice", 0, [twice.len() - twice.n_unique()])
    labelled = records.labels["event_id"]
    yield compare("flights labelled twice", 0, [labelled.len() - labelled.n_unique()])


def check_labels(records: Records, flights: pl.DataFrame) -> Iterator[Claim]:
    """The labels are what happened, and none arrived before its time."""
    joined = records.labels.join(
        flights.select("flight_id", "late", "label_at"), left_on="event_id", right_on="flight_id"
    )
    yield compare("labels of unknown flights", 0, [records.labels.height - joined.height])
    yield compare("labels unlike the flight", 0, [joined.filter(pl.col("value") != pl.col("late")).height])
    yield compare("labels before their time", 0, [joined.filter(pl.col("at") < pl.col("label_at")).height])


def check_months(records: Records, report: Record, flights: pl.DataFrame) -> Iterator[Claim]:
    """AUC and log loss of what callers were told, and of the first version left alone (trained here once more)."""
    labels = records.labels.sort("at").unique("event_id", keep="last").select("event_id", label="value")
    answered = records.answers.filter((pl.col("status") == 200) & pl.col("score").is_not_null())
    static = pl.DataFrame({"event_id": flights["flight_id"], "static": static_scores(flights)})
    rows = answered.join(labels, on="event_id").join(static, on="event_id")
    month = rows["event_id"].str.slice(0, 7)
    told = {entry["month"]: entry for entry in report["months"]}
    yield compare("months", sorted(told), [sorted(set(month) & set(MONTHS))])
    for name, entry in sorted(told.items()):
        part = rows.filter(month == name)
        label = part["label"].to_numpy()
        yield compare(f"{name} flights", entry["flights"], [part.height])
        for short, metric in (("auc", METRICS["roc_auc"]), ("log_loss", METRICS["log_loss"])):
            for arm, column in (("loop", "score"), ("static", "static")):
                computed = metric(part[column].to_numpy(), label)
                yield near(f"{name} {short} {arm}", entry[f"{short}_{arm}"], computed)


def static_scores(flights: pl.DataFrame) -> Any:
    """Version 1 is a function of its rows and seed: train it again, on what was known on 1 March."""
    year = Year.of(flights)
    known = (year.label_at <= FIRST) & (flights["flight_id"].str.slice(0, 7) < MONTHS[0]).to_numpy()
    history = flights.filter(known)
    features = history.select(pl.col(FEATURES).cast(pl.Float64)).to_numpy()
    booster = fit(np.ascontiguousarray(features), history["late"].cast(pl.Float64).to_numpy(), seed=0)
    return np.asarray(booster.predict(year.features, num_threads=1), dtype=np.float64)


# --- decisions


def check_releases(records: Records, report: Record) -> Iterator[Claim]:
    """Each release was opened once, and completed at most once, as told."""
    opened = {entry["data"]["release"]: entry for _, entry in records.entries("release.opened")}
    yield compare("releases", sorted(r["number"] for r in report["releases"]), [sorted(opened)])
    for release in report["releases"]:
        number = release["number"]
        name = f"release {number} of version {release['version']}"
        entry = opened.get(number)
        if entry is None:
            continue
        yield compare(f"{name} opened", instant(release["opened_at"]), [instant(entry["at"])])
        yield compare(f"{name} version", release["version"], [entry["data"]["version"]])
        ends = records.entries("release.completed", release=number)
        yield compare(
            f"{name} completion", release["completion"], [end["data"]["completion"] for _, end in ends] or [None]
        )
        closed: list[datetime | None] = [instant(end["at"]) for _, end in ends]
        yield compare(f"{name} closed", release["closed_at"] and instant(release["closed_at"]), closed or [None])


def check_incidents(records: Records, report: Record) -> Iterator[Claim]:
    """Incidents are those of the ledger, and no retraining began without one."""
    opened = {entry["data"]["incident"]: entry for _, entry in records.entries("incident.opened")}
    yield compare("incidents", sorted(i["id"] for i in report["incidents"]), [sorted(opened)])
    for incident in report["incidents"]:
        entry = opened.get(incident["id"])
        if entry is not None:
            yield compare(f"incident {incident['id']}", incident["kind"], [entry["data"]["kind"]])
    started = records.entries("training.started", purpose="retrain")
    yield compare(
        "retrainings",
        sorted(r["trigger"] for r in report["retrainings"]),
        [sorted(e["data"]["incident"] for _, e in started)],
    )
    for _, entry in started:
        cause = opened.get(entry["data"]["incident"])
        wrong = "" if cause is not None and cause["at"] <= entry["at"] else "no incident was open"
        yield Claim(
            name=f"retraining of {entry['at'][:10]}", told=f"by incident {entry['data']['incident']}", wrong=wrong
        )


def check_automated_share(records: Records, report: Record) -> Iterator[Claim]:
    promoted = len(records.entries("release.promoted"))
    manual = len(records.entries("manual_change.observed"))
    told = report["automated_share"]
    yield compare("promoted releases", told["promoted"], [promoted])
    yield compare("deployments in all", told["of"], [promoted + manual])


# --- faults


def check_faults(records: Records, report: Record) -> Iterator[Claim]:
    """Each fault's evidence stands in the ledger, and the tables show no more harm than told."""
    for fault in report["faults"]:
        name = f"fault: {fault['name']}"
        if fault["struck_at"] is None:  # a replay of some days may end before its moment
            yield compare(f"{name}, did not happen", fault["handled"], [False])
            continue
        yield compare(f"{name}, handled", fault["handled"], [True])
        actions = [records.ledger[index]["action"] for index in fault["evidence"] if index < len(records.ledger)]
        yield compare(f"{name}, evidence in the ledger", len(fault["evidence"]), [len(actions)])
        check = FAULT_CHECKS.get(fault["name"])
        if check is None:
            yield Claim(name=name, told=fault["name"], wrong="nobody knows how to check this fault")
        else:
            yield from check(records, fault, actions)
    known = {str(fault.get("version")) for fault in report["faults"] if fault["name"] == FAILS_IN_SERVICE}
    elsewhere = records.answers.filter((pl.col("status") != 200) & ~pl.col("version").is_in(known))
    yield compare("failures of other versions", 0, [elsewhere.height])


FAILS_IN_SERVICE = "a candidate that fails in service"


def check_scrambled(records: Records, fault: Record, actions: list[str]) -> Iterator[Claim]:
    answered = records.answers.filter(pl.col("version") == str(fault["version"])).height
    yield compare("scrambled candidate: requests it answered", 0, [answered])
    completions = [e["data"]["completion"] for _, e in records.entries("release.completed", release=fault["release"])]
    yield compare("scrambled candidate: completion", "Aborted", completions or [None])


def check_failing(records: Records, fault: Record, actions: list[str]) -> Iterator[Claim]:
    mine = records.answers.filter(pl.col("version") == str(fault["version"]))
    others = mine.filter(pl.col("variant") != "candidate").height
    yield compare("failing candidate: requests it answered as stable", 0, [others])
    shown = "release.guardrail_broken" in actions and "release.completed" in actions
    yield compare("failing candidate: guardrail and completion", True, [shown])
    ends = records.entries("release.completed", release=fault["release"])
    yield compare("failing candidate: completion", "RolledBack", [e["data"]["completion"] for _, e in ends] or [None])
    after = [mine.filter(pl.col("at") > instant(end["at"])).height for _, end in ends]
    yield compare("failing candidate: requests after its rollback", 0, after or [None])


def check_control_killed(records: Records, fault: Record, actions: list[str]) -> Iterator[Claim]:
    ends = records.entries("release.completed", release=fault["release"])
    yield compare("control server: started again", True, ["control.started" in actions])
    yield compare("control server: completions of the release it was killed in", 1, [len(ends)])


def check_worker_killed(records: Records, fault: Record, actions: list[str]) -> Iterator[Claim]:
    yield compare("worker: a replica was lost and replaced", True, ["replica.lost" in actions])


def check_alias(records: Records, fault: Record, actions: list[str]) -> Iterator[Claim]:
    yield compare("alias: the change was refused", True, ["manual_change.refused" in actions])


FAULT_CHECKS: dict[str, Callable[[Records, Record, list[str]], Iterator[Claim]]] = {
    "a worker is killed": check_worker_killed,
    "someone moves champion": check_alias,
    "the control server is killed in a canary": check_control_killed,
    "a scrambled candidate": check_scrambled,
    FAILS_IN_SERVICE: check_failing,
}


# --- claims


def instant(text: str) -> datetime:
    return datetime.fromisoformat(text)


def compare(name: str, told: Any, found: Sequence[Any]) -> Claim:
    """Everything found must equal what was told."""
    others = [value for value in found if value != told]
    return Claim(name=name, told=shortened(told), wrong=f"found {shortened(others[0])}" if others else "")


def near(name: str, told: float, found: float) -> Claim:
    apart = abs(told - found)
    wrong = "" if apart <= AUC_TOLERANCE else f"found {found:.6f}, apart by {apart:.2g}"
    return Claim(name=name, told=f"{told:.6f}", wrong=wrong)


def shortened(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 100 else f"{text[:97]}..."


def check(records: Records, report: Record, flights: pl.DataFrame) -> Iterator[Claim]:
    yield from check_ledger(records, report)
    yield from check_requests(records, report)
    yield from check_labels(records, flights)
    yield from check_months(records, report, flights)
    yield from check_releases(records, report)
    yield from check_incidents(records, report)
    yield from check_automated_share(records, report)
    yield from check_faults(records, report)


def main() -> int:
    parser = argparse.ArgumentParser(description="Recompute a report from the exported tables and ledger.")
    parser.add_argument("export", type=Path)
    parser.add_argument("report", type=Path)
    parser.add_argument("--sample", type=float, default=1.0, metavar="SHARE", help="as given to drive.py")
    parser.add_argument("--permute", type=int, metavar="SEED", help="as given to drive.py")
    arguments = parser.parse_args()
    flights = prepare(share=arguments.sample, permute=arguments.permute)
    claims = list(check(read_records(arguments.export), json.loads(arguments.report.read_text()), flights))
    for claim in claims:
        print(f"{'WRONG ' if claim.wrong else 'agrees'}  {claim.name}: {claim.told} {claim.wrong}".rstrip())
    wrong = sum(bool(claim.wrong) for claim in claims)
    print(f"{len(claims)} claims, {wrong} wrong")
    return 1 if wrong or not claims else 0


if __name__ == "__main__":
    raise SystemExit(main())

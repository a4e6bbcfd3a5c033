"""A year in production: real flights, real labels, real processes; only the calendar is made to run faster.

The driver is what surrounds a model in production: an airline that asks about each flight and reports a day later how
it went, a data scientist who registers the first version, and people who make mistakes. It knows Steersman's public
client and nothing else. What happens to the model during the year is Steersman's doing.

    python drive.py                          # the whole year, then the console stays open
    python drive.py --exit --report r.json   # ends instead, and writes the figures
    python drive.py --sample 0.1 --seed 7    # a tenth of the flights, faults at other moments
"""

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
from ceiling import compared
from faults import MODEL, Fault, Surroundings, plan
from flights import FEATURES, WEATHER, prepare
from report import Answers, assemble, static_scores, table
from up import HERE, Installation, documents, registry_environment, run_script

from steersman.client import Steersman
from steersman.client.inference import Label, prepare_labels, prepare_prediction, read_prediction
from steersman.client.traffic import Prepared, Traffic

FIRST = datetime(2013, 3, 1, tzinfo=UTC)
LAST = datetime(2014, 1, 5, tzinfo=UTC)
"""The last labels arrive on 2 January; two days later everything has been judged that can be."""

SINGLE_SHARE = 0.03
"""Share of flights asked about one by one, as a late change would be: each costs as much as a whole batch."""

TYPES = {column: "FP64" if column in WEATHER else "INT64" for column in FEATURES} | {"flight_id": "BYTES"}

DAY = timedelta(days=1)


def requests_of(day: pl.DataFrame) -> Iterator[tuple[list[str], Prepared]]:
    """A day as an airline asks about it: one batch per origin and hour in order of departure, some flights alone."""
    for (_at, _origin), hour in day.group_by(["predicted_at", "origin"], maintain_order=True):
        alone = hour["flight_id"].hash(seed=1) % 1000 < SINGLE_SHARE * 1000
        parts = [hour.filter(~alone), *hour.filter(alone).iter_slices(1)]
        for part in parts:
            if part.height:
                names = part["flight_id"].to_list()
                inputs: dict[str, list[Any]] = {column: part[column].to_list() for column in FEATURES}
                inputs["flight_id"] = names
                at = part["predicted_at"][0]
                yield names, prepare_prediction(MODEL, inputs, event_ids=names, at=at, datatypes=TYPES)


def ask(traffic: Traffic, day: pl.DataFrame, answers: Answers) -> None:
    """Send a day's requests and keep what was answered."""
    asked = list(requests_of(day))
    replies = traffic.send(request for _, request in asked)
    for (names, _), reply in zip(asked, replies, strict=True):
        answers.requests += 1
        if reply.status != 200:
            answers.failures += 1
            continue
        for name, score in zip(names, read_prediction(reply.body).scores, strict=True):
            if score is not None:
                answers.scores[name] = score


def tell(traffic: Traffic, due: pl.DataFrame, answers: Answers) -> None:
    """Report the labels that arrived on a day, at the time each arrived."""
    rows = due.select("flight_id", "late", "label_at").iter_rows()
    labels = [Label(event_id=name, value=float(late), at=at) for name, late, at in rows]
    for start in range(0, len(labels), 500):
        reply = traffic.send([prepare_labels(MODEL, labels[start : start + 500])])[0]
        answers.requests += 1
        if reply.status != 202:
            answers.failures += 1
            print(f"\nlabels were not taken: {reply.status} {reply.body[:300]!r}", file=sys.stderr)


def first_version(around: Surroundings) -> None:
    """What a data scientist does: train on January and February, register, ask for a release."""
    record = around.log.with_name("first.json")
    environment = {
        **registry_environment(around.credentials),
        "STEERSMAN_DATA": str(around.history),
        "STEERSMAN_SEED": "0",
        "STEERSMAN_MODEL_NAME": "flight-delay",
        "STEERSMAN_RUN_RECORD": str(record),
    }
    run_script("train.py", environment=environment, log=around.log)
    around.client.apply(documents(around.history))
    version = json.loads(record.read_text())["version"]
    around.client.release(MODEL, version, because="first version, trained on January and February")
    around.client.advance(FIRST)


class Progress:
    """One line that says where the year is; on a terminal it is rewritten in place."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._terminal = sys.stdout.isatty()
        self._told = ""

    def show(self, at: datetime, answers: Answers, client: Steersman) -> None:
        month = f"{at:%Y-%m}"
        if not self._terminal and month == self._told:
            return
        self._told = month
        place = client.status(MODEL)["environments"]["production"]
        spent = time.monotonic() - self._began
        line = (
            f"{at:%Y-%m-%d}  version {place['live']} answers, {place['phase'] or 'quiet'}; "
            f"{answers.requests:,} requests, {answers.failures} failed, {spent:.0f} s"
        )
        print(f"\r\x1b[K{line}" if self._terminal else line, end="" if self._terminal else "\n", flush=True)


def replay(
    around: Surroundings, flights: pl.DataFrame, faults: list[Fault], answers: Answers, *, last: datetime
) -> None:
    """Day by day: ask, report what became known, let something go wrong, and let Steersman settle."""
    progress = Progress()
    client = around.client
    with Traffic(client.router_url(), around.credentials.token, connections=8, retries=3) as traffic:
        day = FIRST
        while day < last:
            for fault in faults:
                fault.maybe((day - FIRST).days, day)
            ask(traffic, flights.filter(pl.col("predicted_at").is_between(day, day + DAY, closed="left")), answers)
            tell(traffic, flights.filter(pl.col("label_at").is_between(day, day + DAY, closed="left")), answers)
            day += DAY
            client.advance(day)
            progress.show(day, answers, client)
    print()


def run(arguments: argparse.Namespace, state: Path) -> dict[str, Any]:
    """The whole demo against a Steersman of its own; ends it unless it is to stay open."""
    began = time.monotonic()
    installation = Installation.begin(state, replay_from=FIRST, port=arguments.port, allow_code=MODEL)
    try:
        history = state / "data" / "history.parquet"
        history.parent.mkdir(parents=True, exist_ok=True)
        year = prepare(share=arguments.sample, permute=arguments.permute)
        year.filter((pl.col("flight_id") < "2013-03-01") & (pl.col("label_at") <= FIRST)).write_parquet(history)
        flights = year.filter(pl.col("flight_id") >= "2013-03-01")
        credentials = installation.ready()
        print("\n".join(installation.lines), flush=True)
        client = Steersman(credentials.url, credentials.token, router_url=credentials.router_url, timeout_s=60)
        log = state / "logs" / "demo.log"
        around = Surroundings(client=client, credentials=credentials, state=state, history=history, log=log)
        first_version(around)
        last = FIRST + timedelta(days=arguments.days) if arguments.days else LAST
        faults = [] if arguments.no_faults else plan(arguments.seed, around, days=(last - FIRST).days)
        answers = Answers()
        replay(around, flights, faults, answers, last=last)
        flights = flights.filter(pl.col("label_at") < last)  # what is not known yet is not counted
        first = next(v for v in client.versions(MODEL) if v["number"] == 1)
        tree = state / "artifacts" / "sha256" / first["digest"].removeprefix("sha256:")
        static = static_scores(flights, tree / first["file"])
        report = assemble(
            client,
            flights=flights,
            answers=answers,
            static=static,
            comparison=None if arguments.days else compared(year, HERE / "model.yaml"),
            faults=faults,
            began=began,
        )
        client.keep_report(report)
        print(table(report), flush=True)
        if arguments.report:
            arguments.report.write_text(json.dumps(report, indent=2) + "\n")
        if arguments.export:
            export(client, state, arguments.export)
        if not arguments.exit:
            print(f"\nThe console stays open at {credentials.url}/ ; Ctrl-C ends it.", flush=True)
            signal.pause()
        return report
    finally:
        installation.end()


def export(client: Steersman, state: Path, into: Path) -> None:
    """Copy what an independent checker needs: the tables and the ledger."""
    into.mkdir(parents=True, exist_ok=True)
    client.ledger_export(into / "ledger.tar")
    shutil.copytree(state / "tables", into / "tables", dirs_exist_ok=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="make demo", description="A year of real flights in production.")
    parser.add_argument("--exit", action="store_true", help="end when the year is over")
    parser.add_argument("--report", type=Path, metavar="FILE", help="write the figures as JSON")
    parser.add_argument("--export", type=Path, metavar="DIR", help="copy tables and ledger for the independent checker")
    parser.add_argument("--sample", type=float, default=1.0, metavar="SHARE", help="keep this share of whole flights")
    parser.add_argument("--seed", type=int, default=0, help="moves the moments of the faults")
    parser.add_argument("--permute", type=int, metavar="SEED", help="permute the rows in time: a year without drift")
    parser.add_argument("--no-faults", action="store_true", help="nothing goes wrong on purpose")
    parser.add_argument("--days", type=int, help="replay only this many days")
    parser.add_argument("--port", type=int, default=7700, help="port of the console; the router takes the next one")
    parser.add_argument("--state", type=Path, metavar="DIR", help="keep the state here instead of a temporary folder")
    arguments = parser.parse_args()
    kept = arguments.state is not None
    state = (arguments.state or Path(tempfile.mkdtemp(prefix="steersman-demo-"))).resolve()
    if kept and state.exists() and any(state.iterdir()):
        parser.error(f"{state} is not empty: a replay starts from nothing")
    # Whoever terminates it must not leave an installation behind.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        report = run(arguments, state)
    except KeyboardInterrupt:
        print("\nended")
        return 0
    finally:
        if not kept:
            shutil.rmtree(state, ignore_errors=True)
    handled = all(fault["handled"] for fault in report["faults"])
    return 0 if handled and report["ledger"]["verified"] else 1


if __name__ == "__main__":
    os.environ.setdefault("POLARS_MAX_THREADS", "2")
    sys.path.insert(0, str(HERE))
    raise SystemExit(main())

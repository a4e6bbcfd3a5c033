"""The whole data plane beside other model servers: processor time a request, latency, throughput, start, memory.

    make bench ARGS="serving --rounds 3 --requests 600 --only ours,floor,mlflow"

One scikit-learn model, the same numbers, one worker each, all in one run, in turns. Processor time is that of the whole
tree of processes a server consists of; of ours that includes the router with its signature check and token check, the
write-ahead log of both bodies, and the committer turning it into Delta tables until nothing waits. An answer that is not
the model's own prediction disqualifies.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import joblib
import numpy as np
import psutil
import skops.io
from sklearn.linear_model import LogisticRegression

from measuring import accounts, contenders, load, report
from measuring.contenders import COLUMNS, Contender, Form, NotMeasuredError
from measuring.report import Target

SEED = 20130301
ROWS = 64
"""Different requests that a measurement rotates through."""

CONNECTIONS = (1, 8)
WARM_UP_S = 1.5
MEASURE_S_MAX = 60.0

MLMODEL = "flavors: {python_function: {predict_fn: predict_proba}}\n"
"""Beside ours, as MLflow writes it: in its scoring protocol too a row is answered with probabilities."""

OF_MLFLOW_MAX = 1 / 10
OF_BEST_OTHER_MAX = 1 / 3
OF_FLOOR_MAX = 1.5
START_OF_MLFLOW_MAX = 0.5
OTHERS = ("litserve", "bentoml", "ray")


@dataclass(slots=True)
class Found:
    """Rounds of one server and form; lists by number of connections."""

    name: str
    form: str
    cpu_ms: dict[int, list[float]] = field(default_factory=lambda: {count: [] for count in CONNECTIONS})
    p50_ms: dict[int, list[float]] = field(default_factory=lambda: {count: [] for count in CONNECTIONS})
    p99_ms: dict[int, list[float]] = field(default_factory=lambda: {count: [] for count in CONNECTIONS})
    throughput: dict[int, list[float]] = field(default_factory=lambda: {count: [] for count in CONNECTIONS})
    parts_us: dict[str, list[float]] = field(default_factory=dict)
    memory_mb: list[float] = field(default_factory=list)
    start_s: list[float] = field(default_factory=list)
    start_cpu_s: list[float] = field(default_factory=list)
    refused: str = ""

    def cpu(self, connections: int) -> float:
        return statistics.median(self.cpu_ms[connections])


def train(folder: Path) -> tuple[Path, list[tuple[list[float], bytes]]]:
    """The model's file, and rows with the digits of the probability that each must be answered with."""
    generator = np.random.default_rng(SEED)
    inputs = generator.normal(size=(5_000, len(COLUMNS)))
    chance = 1 / (1 + np.exp(-inputs @ generator.normal(scale=0.3, size=len(COLUMNS))))
    model = LogisticRegression(max_iter=500).fit(inputs, generator.random(5_000) < chance)
    path = folder / "model.joblib"
    joblib.dump(model, path)
    (folder / "skops").mkdir()
    skops.io.dump(model, folder / "skops" / "model.skops")
    (folder / "skops" / "MLmodel").write_text(MLMODEL)
    rows = []
    for row in generator.normal(size=(10 * ROWS, len(COLUMNS))).round(7):
        probability = float(model.predict_proba(row.reshape(1, -1))[0, 1])
        digits = repr(probability)
        # Twelve digits identify the prediction; the thirteenth keeps a last bit from carrying into them.
        if 0.1 < probability < 0.9 and len(digits) >= 16 and digits[14] not in "09":
            rows.append((row.tolist(), digits[:14].encode()))
    return path, rows[:ROWS]


class Bench:
    """Measures one contender after the other."""

    def __init__(self, rows: Sequence[tuple[list[float], bytes]], core: int | None, requests: int) -> None:
        self._rows = rows
        self._core = core
        self._requests = requests

    def round(self, contender: Contender, kept: dict[str, Found]) -> None:
        """One start, all forms. A server that fails is out of the run, and the page says why."""
        began = time.monotonic()
        try:
            contender.start()
            for form in contender.forms:
                self._check(contender, form, kept[form.name], began if form is contender.forms[0] else None)
            for form in contender.forms:
                if not kept[form.name].refused:
                    self._measure(contender, form, kept[form.name])
        except NotMeasuredError as error:
            print(f"serving: {contender.name}: {error}\n{contender.say()}", flush=True)
            for found in kept.values():
                found.refused = found.refused or str(error)
        finally:
            contender.stop()
            accounts.end_all()

    def _check(self, contender: Contender, form: Form, found: Found, began: float | None) -> None:
        """Every row once; `began` is given with the first form, whose first answer says how long the start took."""
        for number, (row, expected) in enumerate(self._rows):
            request = form.request(row, expected)
            first = began is not None and number == 0
            status, body = contender.await_answer(request) if first else contender.ask(request)
            if status != 200 or expected not in body:
                found.refused = f"answered {status}: {body[:300].decode(errors='replace')}"
                return
            if first and began is not None:
                found.start_s.append(time.monotonic() - began)
                found.start_cpu_s.append(accounts.cpu_s(accounts.tree()))

    def _measure(self, contender: Contender, form: Form, found: Found) -> None:
        sent = [form.request(row, expected) for row, expected in self._rows]

        def plan(connections: int, requests: int, seconds: float) -> load.Plan:
            return load.Plan(
                port=contender.port, sent=sent, connections=connections, requests=requests, seconds=seconds,
                core=self._core,
            )  # fmt: skip

        warm = load.run(plan(CONNECTIONS[-1], 10**9, WARM_UP_S))
        # As many requests as take about two seconds, so that quick servers are measured as long as slow ones.
        requests = max(self._requests, int(2 * warm.throughput))
        for connections in CONNECTIONS:
            contender.settle()
            parts = accounts.cpu_s_by_pid(contender.parts().values())
            before = accounts.cpu_s(accounts.tree())
            outcome = load.run(plan(connections, requests, MEASURE_S_MAX))
            contender.settle()
            spent_s = accounts.cpu_s(accounts.tree()) - before
            if outcome.failed:
                raise NotMeasuredError(f"requests failed: {outcome.failures}")
            found.cpu_ms[connections].append(spent_s / outcome.answered * 1000)
            found.p50_ms[connections].append(outcome.latency_ms_p50)
            found.p99_ms[connections].append(outcome.latency_ms_p99)
            found.throughput[connections].append(outcome.throughput)
            if connections == CONNECTIONS[-1]:
                for name, pid in contender.parts().items():
                    used_us = (accounts.cpu_s([psutil.Process(pid)]) - parts[pid]) / outcome.answered * 1e6
                    found.parts_us.setdefault(name, []).append(used_us)
        found.memory_mb.append(accounts.memory_mb(accounts.tree()))


def judge(found: dict[str, dict[str, Found]]) -> list[Target]:
    """The issue's targets, for each form of ours, by the worse of one and eight connections; only those measured."""

    def worst(one: Found, other: Found) -> float:
        return max(one.cpu(connections) / other.cpu(connections) for connections in CONNECTIONS)

    def other(name: str) -> Found | None:
        return next((one for one in found.get(name, {}).values() if not one.refused), None)

    floor, mlflow = other("floor"), other("mlflow")
    rivals = [rival for name in OTHERS if (rival := other(name)) is not None]
    targets = []
    forms = [form for form in found.get("ours", {}).values() if not form.refused]
    for one in forms:
        limits = [(mlflow, OF_MLFLOW_MAX, "1/10 of"), (floor, OF_FLOOR_MAX, "1.5 times")]
        if rivals:
            best = min(rivals, key=lambda rival: rival.cpu(CONNECTIONS[-1]))
            limits.insert(1, (best, OF_BEST_OTHER_MAX, "1/3 of the best of the others,"))
        for against, limit, words in limits:
            if against is not None:
                ratio = worst(one, against)
                targets.append(
                    Target(
                        promise=f"{one.form}: CPU a request at most {words} {against.name}",
                        measured=f"{ratio:.3f}",
                        met=ratio <= limit,
                    )
                )
    if forms and mlflow is not None:
        ratio = statistics.median(forms[0].start_s) / statistics.median(mlflow.start_s)
        promise = "start to ready at most half of mlflow models serve"
        targets.append(Target(promise=promise, measured=f"{ratio:.2f}", met=ratio <= START_OF_MLFLOW_MAX))
    return targets


def page(found: dict[str, dict[str, Found]], arguments: argparse.Namespace, machine: str) -> str:
    cpu, latency, started, refused, parts = [], [], [], [], []
    for forms in found.values():
        for one in forms.values():
            if one.refused:
                refused.append(f"- {one.name}, {one.form}: {one.refused}")
                continue
            cpu.append((one.name, one.form, *(report.spread(one.cpu_ms[count]) for count in CONNECTIONS)))
            numbers = [report.spread(kind[count]) for count in CONNECTIONS for kind in (one.p50_ms, one.p99_ms)]
            rates = [report.spread(one.throughput[count], 0) for count in CONNECTIONS]
            latency.append((one.name, one.form, *numbers, *rates))
            if one.start_s:
                took = (report.spread(one.start_s, 1), report.spread(one.start_cpu_s, 1))
                started.append((one.name, *took, report.spread(one.memory_mb, 0)))
            if one.parts_us:
                split = (report.spread(one.parts_us[name], 0) for name in ("router", "worker", "committer"))
                parts.append((one.form, *split))
    head = ("ours at 8 connections, µs a request", "router", "worker", "committer")
    ours = report.table(head, parts) if parts else ""
    command = f'make bench ARGS="serving --rounds {arguments.rounds} --requests {arguments.requests}"'
    unmeasured = "\n".join(["", "Not measured:", "", *refused]) if refused else ""
    return f"""
# Serving one row: Steersman beside other model servers

For those who choose a model server, and pay for its processors.

{report.today()}. {machine}.
Ours: {report.versions(("steersman", "scikit-learn", "numpy", "uvicorn", "uvloop", "httptools", "msgspec", "deltalake"))}.
Others: {", ".join(pinned())}; everything they were installed with is in `bench/peers/*.txt`.

{report.targets(judge(found))}

Ratios are of medians, the worse of 1 and 8 connections.

## Processor time of the whole process tree, ms a request

{report.table(("server", "request", "1 connection", "8 connections"), cpu)}

{ours}

## Latency (ms) and requests a second

{report.table(("server", "request", "p50, 1", "p99, 1", "p50, 8", "p99, 8", "requests/s, 1", "requests/s, 8"), latency)}

## Start to the first right answer, and memory

{report.table(("server", "seconds", "CPU seconds", "MB resident, summed"), started)}
{unmeasured}

## How

`{command}`: median, min–max; a measurement has at least
{arguments.requests} requests and about two seconds. The model is a logistic regression on {len(COLUMNS)} numeric columns
(seed {SEED}); all answer `predict_proba` of one row.
Servers take turns, each started anew in every round with one worker, thread limits of 1 and access logs off, and are the
only server running while measured. Processor time is user and system time of every process the server started, children
included, before and after a fixed number of requests on {ROWS} different rows.
Ours includes the committer, which has written all of them into Delta tables before the clock is read. Every answer is
compared with the model's own prediction (12 digits). The load generator polls on the last core; servers have the others
(on two cores: one). A warm-up of {WARM_UP_S:g} s is not counted.

- Steersman: router (token, envelope, routing), worker (signature check), write-ahead log of both bodies, committer. The
  control server takes no part in a request and is not started. Ready means that the first answer through the router is
  right; worker, router and committer start together.
- floor: `bench/peers/floor_service.py`, a raw ASGI app on uvicorn with uvloop and httptools: `json.loads`,
  `predict_proba`, `json.dumps`; no router, no check, no log.
- mlflow models serve: `--env-manager local --workers 1`, the model saved with its signature and
  `pyfunc_predict_fn="predict_proba"`.
- BentoML, LitServe, Ray Serve: the smallest service their documentation shows, `bench/peers/*_service.py`, one worker or
  replica. Each runs on what its own packages install.
"""


def pinned() -> list[str]:
    """What the peers' files pin of the servers themselves."""
    named = ("mlflow", "bentoml", "litserve", "ray")
    lines = [line for name in named for line in (contenders.PEERS / f"{name}.txt").read_text().splitlines()]
    return [line.replace("==", " ") for line in lines if line.partition("==")[0] in named]


def main() -> int:
    parser = argparse.ArgumentParser(prog="make bench ARGS=serving", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--requests", type=int, default=500, help="of a measurement, at least")
    parser.add_argument("--only", default="", help="comma-separated: " + ",".join(contenders.contenders()))
    arguments = parser.parse_args()
    chosen = contenders.contenders()
    if arguments.only:
        chosen = {name: chosen[name] for name in arguments.only.split(",")}
    machine = report.machine()
    accounts.adopt_orphans()
    found = {name: {form.name: Found(one.name, form.name) for form in one.forms} for name, one in chosen.items()}
    with tempfile.TemporaryDirectory(prefix="sb-", ignore_cleanup_errors=True) as folder:
        model, rows = train(Path(folder))
        for contender in chosen.values():
            contender.prepare(Path(folder), model)
        _, core = accounts.split_cores()
        bench = Bench(rows, core, arguments.requests)
        for number in range(arguments.rounds):
            for name, contender in chosen.items():
                if not all(one.refused for one in found[name].values()):
                    bench.round(contender, found[name])
                    print(f"round {number + 1}: {contender.name} done", flush=True)
    text = page(found, arguments, machine)
    if arguments.only:
        print(text)
    else:
        report.write("serving", text)
    return 0 if all(target.met for target in judge(found)) else 1


if __name__ == "__main__":
    raise SystemExit(main())

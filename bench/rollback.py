"""A rollback from every phase of a release, under load: how long does it take, and does a caller notice?

    make bench ARGS="rollback --rounds 5"

A whole installation of real processes. Callers ask without a pause, and each rollback begins beside gates of another model
that have just begun. In each round the next version is brought into each phase in turn and taken back. Measured from the
request for the rollback until the router has the route, and until the last answer of any other version. The second table is
what a turn of the control loop costs when nothing moves, at 20 and at 200 models, with fakes for the world.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from measuring import report
from measuring.report import Target
from steersman.testing.installed import Installed
from steersman.testing.rollbacks import HOLDOUT_ROWS, PHASES, Rehearsal, Took
from steersman.testing.story import Story, model_document

ROLLBACK_S_MAX = 3.0
PLACES = (20, 200)
TURNS = 7
STEPS = {"production": {"strategy": {"canary": {"steps": [{"setWeight": 100}, {"promote": {}}]}}}}


def rehearse(rounds: int, callers: int) -> tuple[list[Took], int, list[str]]:
    with tempfile.TemporaryDirectory(prefix="steersman-rollback-") as folder, Installed(Path(folder)) as installed:
        rehearsal = Rehearsal(installed, callers=callers)
        rehearsal.prepare()
        with rehearsal.load():
            took = [rehearsal.roll_back_from(phase) for _ in range(rounds) for phase in PHASES]
        return took, rehearsal.requests, rehearsal.failures


def idle_turn_ms(places: int) -> float:
    """The median CPU time of a turn that finds nothing to do, with `places` models each in production; CPU, because other
    work on the machine would count in one of the two numbers that are compared and not in the other."""
    with tempfile.TemporaryDirectory(prefix="steersman-turns-") as folder:
        story = Story.begin(Path(folder))
        story.registry.add(1)
        for number in range(places):
            document = model_document(environments=STEPS)
            document["metadata"]["name"] = f"model-{number}"
            story.apply(document)
            story.commands.register("default", f"model-{number}", 1, actor="bench")
            story.commands.release("default", f"model-{number}", 1, "production", actor="bench", because="first")
        story.control.settle()
        taken = []
        for _ in range(TURNS):
            began = time.process_time()
            assert not story.control.reconciler.turn()
            taken.append((time.process_time() - began) * 1000)
        story.store.close()
        return statistics.median(taken)


def judge(took: Sequence[Took], requests: int, failures: Sequence[str], turns: dict[int, float]) -> list[Target]:
    slowest = max(max(one.routed_s, one.answered_s) for one in took)
    few, many = (turns[places] for places in PLACES)
    busy = sum(one.gate_running for one in took)
    return [
        Target(
            promise=f"a warm rollback takes at most {ROLLBACK_S_MAX:g} s, from any phase",
            measured=f"{slowest:.2f} s the slowest of {len(took)}",
            met=slowest <= ROLLBACK_S_MAX,
        ),
        Target(
            promise="no request fails",
            measured=f"{len(failures)} of {requests + len(failures)} {'; '.join(sorted(set(failures))[:3])}".strip(),
            met=not failures,
        ),
        Target(
            promise="another model's gates were under way from before to after every rollback",
            measured=f"in {busy} of {len(took)}",
            met=busy == len(took),
        ),
        Target(
            promise="a turn at ten times the models costs at most fifteen times as much",
            measured=f"{many / few:.1f} times ({few:.1f} ms CPU, {many:.1f} ms)",
            met=many <= 15 * few,
        ),
    ]


def page(
    took: Sequence[Took],
    requests: int,
    failures: Sequence[str],
    turns: dict[int, float],
    arguments: argparse.Namespace,
    machine: str,
) -> str:
    rows = []
    for phase in PHASES:
        mine = [one for one in took if one.phase == phase]
        routed, answered = ([getattr(one, name) for one in mine] for name in ("routed_s", "answered_s"))
        rows.append((phase, str(len(mine)), report.spread(routed), report.spread(answered)))
    costs = [(str(places), f"{ms:.1f}", f"{ms / places:.2f}") for places, ms in turns.items()]
    command = f'make bench ARGS="rollback --rounds {arguments.rounds}"'
    return f"""
# Rollbacks under load

For those who want to know what `steersman rollback` promises.

{report.today()}, {report.versions(("steersman", "uvicorn", "sqlalchemy"))}.
{machine}.

{report.targets(judge(took, requests, failures, turns))}

{report.table(("phase of the release", "rollbacks", "s until routed", "s until the last other answer"), rows)}

Median, and the range over the rounds.

## What a turn of the loop costs

A turn that finds nothing to do, with fakes for the world and a real database.

{report.table(("models", "ms CPU a turn", "ms CPU a model"), costs)}

## How

`{command}`. An installation of real processes: control server, router, committer, LightGBM workers of one replica each.
{arguments.callers} callers ask one row every 20 ms over a new connection each time; before each rollback the control server
begins to evaluate gates of another model, which score two versions on {HOLDOUT_ROWS:,} rows of a holdout. The version before
is warm (`keepWarm: 1`, the default). From `Pending` a rollback brings back the version promoted before the one that answers;
from the other phases, the version that answered before the release.
"""


def main() -> int:
    parser = argparse.ArgumentParser(prog="make bench ARGS=rollback", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="of one rollback from each phase")
    parser.add_argument("--callers", type=int, default=3)
    arguments = parser.parse_args()
    machine = report.machine()
    turns = {places: idle_turn_ms(places) for places in PLACES}
    took, requests, failures = rehearse(arguments.rounds, arguments.callers)
    report.write("rollback", page(took, requests, failures, turns, arguments, machine))
    return 0 if all(target.met for target in judge(took, requests, failures, turns)) else 1


if __name__ == "__main__":
    raise SystemExit(main())

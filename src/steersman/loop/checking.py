"""Checks: a version's own tests and its gates, before anybody asks for a release; what `steersman ci` waits for.

A check is an operation like any other, so it survives the control server. The version runs as a replica of its own, in
the library environment that its files ask for, outside of every environment of the model: nothing routes to it, and when
the check is over it is stopped. Its tests are declared by the document and run where trainings run, in the same walls,
without credentials; they find the version at an address, its files and the holdout in folders they may read.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from steersman.decide.checking import TESTS, conclude
from steersman.decide.rolling_out import GateFact, verdict_data
from steersman.decide.routing import live
from steersman.domain import spec
from steersman.domain.errors import NotFound
from steersman.domain.events import Action, Event
from steersman.domain.identifiers import new_id
from steersman.domain.operation import Operation, OperationKind, OperationState
from steersman.domain.release import Release
from steersman.domain.verdicts import Outcome, Verdict
from steersman.domain.version import Version
from steersman.loop.evaluating import Contest, cut_holdout, evaluate_gates, replica_address
from steersman.loop.world import Documents, World
from steersman.ports import JobState, ReplicaSpec, TargetError, TrainingJob
from steersman.store.records import StoredVerdict
from steersman.store.transaction import Transaction

CHECKS = "_checks"
"""Where a replica that is only checked runs: no document can declare an environment of that name, and nothing is routed
there."""


TESTS_FAILED = 1
"""The exit code of tests that ran and failed."""

TESTS_SAID_MAX = 1500
"""Characters of a test run's last words that are kept with its verdict."""


def subject_of(version: Version) -> str:
    """Under which name the evidence of a version's checks is kept: its bytes, whoever asks."""
    return f"version/{version.workspace}/{version.model}/{version.digest}"


def ask_check(
    tx: Transaction,
    world: World,
    documents: Documents,
    *,
    place: tuple[str, str],
    number: int,
    environment: str,
    actor: str,
) -> Operation:
    """Ask for a check of a registered version against what is live in `environment`; the one on its way, if there is one."""
    workspace, name = place
    model = documents.model(tx, workspace, name)
    version = tx.version(workspace, name, number)
    if version is None:
        raise NotFound(f"version {number} of {name} is not registered here")
    if environment not in model.spec.environments:
        raise NotFound(
            f"model {name} declares no environment {environment!r}",
            next_step=f"Name one of: {', '.join(model.spec.environments) or 'none is declared yet'}.",
        )
    earlier = tx.operations_like(_prefix(version))
    if earlier and not earlier[-1].state.ended:
        return earlier[-1]
    serving = live(tx.releases(workspace, name, environment))
    stored = tx.document("Model", workspace, name)
    assert stored is not None
    operation = Operation(
        id=new_id("op"),
        key=f"{_prefix(version)}{len(earlier) + 1:06d}",
        kind=OperationKind.CHECK,
        args={
            "workspace": workspace,
            "model": name,
            "version": number,
            "digest": version.digest,
            "environment": environment,
            "production": serving.version if serving else None,
            "production_digest": serving.digest if serving else None,
            "document": stored.digest,
            "actor": actor,
        },
        state=OperationState.INTENDED,
        at=world.clock.now(),
    )
    tx.add_operation(operation)
    return operation


def checks_of(tx: Transaction, workspace: str, model: str, number: int) -> list[dict[str, Any]]:
    """All checks of a version, newest first, as plain data."""
    version = tx.version(workspace, model, number)
    operations = tx.operations_like(_prefix(version)) if version is not None else []
    return [check_status(operation) for operation in reversed(operations)]


def newest_check(tx: Transaction, release: Release) -> list[StoredVerdict]:
    """What the newest check of a release's bytes found; empty where they were never checked."""
    version = tx.version(release.workspace, release.model, release.version)
    found = tx.verdicts(subject_of(version), "check") if version is not None else []
    newest = max((verdict.step for verdict in found), default=0)
    return [verdict for verdict in found if verdict.step == newest]


def check_status(operation: Operation) -> dict[str, Any]:
    """One check: what was asked, how far it is, and what came out. `outcome` is None while it goes on."""
    result = operation.result or {}
    ended = operation.state.ended
    unheard = f"could not be carried out: {operation.error}" if operation.error else "is not judged yet"
    return {
        **{
            name: operation.args[name]
            for name in ("workspace", "model", "version", "digest", "environment", "production")
        },
        "check": int(operation.key.rpartition("/")[2]),
        "document": operation.args["document"],
        "asked_by": operation.args["actor"],
        "at": operation.at.isoformat(),
        "state": str(operation.state),
        "outcome": str(result.get("outcome", Outcome.ERROR)) if ended else None,
        "because": result.get("because", unheard),
        "gates": result.get("gates", []),
    }


def _prefix(version: Version) -> str:
    return f"check/{version.workspace}/{version.model}/{version.number}/{version.digest[7:23]}/"


# --- carrying it out

SpecOf = Callable[[World, spec.Model, Version, str], ReplicaSpec]


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """A check that is over: the operation's result, and what is written with it."""

    result: dict[str, Any]
    record: Callable[[Transaction], None]


def check(world: World, documents: Documents, operation: Operation, spec_of: SpecOf) -> Checked | None:
    """Go on with a check; None while workers start or tests run. Raises where an attempt failed.

    Production's version answers where it is live; where it does not run there, it is started beside the candidate.
    """
    args = operation.args
    with world.store.read() as tx:
        model = documents.revision(tx, args["document"])
        candidate = _version(tx, args, args["version"])
        production = _version(tx, args, args["production"]) if args["production"] is not None else None
    asked = msgspec.structs.replace(spec_of(world, model, candidate, CHECKS), local_port=True)  # by its own tests
    wanted, production_in = [asked], str(args["environment"])
    if production is not None and not _runs(world, spec_of(world, model, production, production_in)):
        wanted.append(spec_of(world, model, production, CHECKS))
        production_in = CHECKS
    started = [_started(world, replica) for replica in wanted]  # all of them begin before one is waited for
    if not all(started):
        return None
    contest = Contest(
        model=model,
        candidate=candidate,
        production=production,
        candidate_in=CHECKS,
        production_in=production_in,
        name=f"check-{operation.id}",
        at=operation.at,
    )
    facts: list[GateFact] = []
    if model.spec.tests is not None:
        python = world.target.interpreter(wanted[0])
        state = _tests(world, model.spec.tests, contest, python)
        if state.state == "running":
            return None
        facts.append(tests_fact(state, python))
    facts += msgspec.convert(evaluate_gates(world, contest), list[GateFact])
    outcome, because = conclude(facts)
    shown = [{"gate": f.gate, "applies": f.applies, **verdict_data(f.gate, f.verdict)} for f in facts]
    return Checked(
        result={"outcome": str(outcome), "because": because, "gates": shown},
        record=lambda tx: _record(tx, world, operation, facts, outcome, because),
    )


def check_given_up(tx: Transaction, world: World, operation: Operation) -> None:
    """A check that could not be carried out is recorded as what it is: not judged."""
    _record(tx, world, operation, [], Outcome.ERROR, "could not be carried out; see the operation that failed")


def checked_digests(tx: Transaction) -> set[str]:
    """Digests that checks still need running."""
    wanted: set[str] = set()
    for operation in tx.open_operations():
        if operation.kind is OperationKind.CHECK:
            wanted |= {operation.args["digest"], operation.args["production_digest"]}
    return wanted


def _started(world: World, wanted: ReplicaSpec) -> bool:
    world.target.ensure(wanted, 1)
    if _runs(world, wanted):
        return True
    failure = world.target.failure(wanted)
    if failure is not None:
        raise TargetError(failure)
    return False


def _runs(world: World, wanted: ReplicaSpec) -> bool:
    place = (wanted.workspace, wanted.environment, wanted.model, wanted.digest)
    return any(r.ready and (r.workspace, r.environment, r.model, r.digest) == place for r in world.target.observe())


def _tests(world: World, tests: spec.Tests, contest: Contest, python: Path | None) -> JobState:
    """The model's own tests, with the libraries that the version answers with: started once, then only looked at."""
    candidate = contest.candidate
    folder = world.jobs / contest.name
    folder.mkdir(parents=True, exist_ok=True)
    data = folder / "holdout.parquet"
    if not data.exists() and not isinstance(cut_holdout(world, contest), Verdict):
        data = folder / "holdout.parquet"
    elif not data.exists():
        data = folder / "no-rows"
        data.touch()
    artifact = world.artifacts.path(candidate.digest)
    job = TrainingJob(
        id=f"{contest.name}-tests",
        command=tests.command,
        source=world.document_root / (tests.source.directory or "."),
        data=data,
        environment={
            "STEERSMAN_MODEL_URL": f"http://{replica_address(world, candidate, CHECKS)}/v2/models/{candidate.model}",
            "STEERSMAN_MODEL_FILES": str(artifact.resolve()),
            "STEERSMAN_MODEL_VERSION": str(candidate.number),
        },
        timeout_s=tests.timeout.total_seconds(),
        memory_mb=tests.limits.memory_mb,
        cpu_s=tests.limits.cpu.total_seconds() if tests.limits.cpu else None,
        threads=tests.limits.threads,
        readable=(artifact.resolve(),),
        python=python,
    )
    world.trainer.ensure(job)
    return world.trainer.poll(job.id)


def tests_fact(state: JobState, python: Path | None) -> GateFact:
    """What a test run that ended says: 0 passes and 1 fails, which is how test runners end. With another code they could not
    run (pytest: nothing collected, a file that cannot be imported), and one that was ended from outside says nothing."""
    code = state.record.get("exit_code")
    own = python is not None
    where = "in the version's own environment" if own else "with this installation's libraries"
    if state.state == "succeeded":
        outcome, said = Outcome.SUCCESSFUL, f"the model's own tests passed, {where}"
    elif code == TESTS_FAILED:
        outcome, said = Outcome.FAILED, f"the model's own tests failed, {where}"
    elif isinstance(code, int) and code > 0:
        outcome, said = Outcome.ERROR, f"the model's own tests could not run, {where}: they ended with exit code {code}"
    else:
        outcome, said = Outcome.ERROR, f"the model's own tests did not come to an end by themselves, {where}"
    details = [state.because[-TESTS_SAID_MAX:]] if state.because else []
    details += [f"environment {python.parents[1].name[:12]}"] if python is not None else []
    because = "\n".join((said, *details))
    return GateFact(gate=TESTS, applies=True, verdict=Verdict(outcome=outcome, because=because), recorded_as=said)


def _record(
    tx: Transaction,
    world: World,
    operation: Operation,
    facts: Sequence[GateFact],
    outcome: Outcome,
    because: str,
) -> None:
    args, now = operation.args, world.clock.now()
    version = _version(tx, args, args["version"])
    number = int(operation.key.rpartition("/")[2])
    for fact in facts:
        body = {**verdict_data(fact.gate, fact.verdict), "applies": fact.applies}
        tx.add_verdict(StoredVerdict(subject=subject_of(version), kind="check", step=number, at=now, body=body))
    tx.append(
        Event(
            action=Action.VERSION_CHECKED,
            at=now,
            actor=args["actor"],
            workspace=version.workspace,
            kind="version",
            name=f"{version.model}/{version.number}",
            because=because,
            data={
                "version": version.number,
                "digest": version.digest,
                "outcome": str(outcome),
                "environment": args["environment"],
                "production": args["production"],
                "document": args["document"],
                "verdicts": [verdict_data(fact.gate, fact.recorded) for fact in facts],
            },
        )
    )


def _version(tx: Transaction, args: dict[str, Any], number: int) -> Version:
    version = tx.version(args["workspace"], args["model"], number)
    if version is None:
        raise LookupError(f"version {number} of {args['model']} is not registered here")
    return version

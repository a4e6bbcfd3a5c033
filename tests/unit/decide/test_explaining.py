"""Each way in which a release waits or ends has one explanation, found from what the planner itself does."""

import contextlib
import io
import re
import string
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from steersman.cli.parsing import parse
from steersman.decide.explaining import ENDED, PAUSED, REASONS, Circumstances, Reason, explain
from steersman.decide.rolling_out import Facts, GateFact, GuardrailReading, Move, degrade, plan
from steersman.decide.steering import pause, resume
from steersman.decide.steps import GATES_STEP
from steersman.domain import spec
from steersman.domain.events import Action
from steersman.domain.release import Arm, Cause, Completion, Opened, Phase, Release
from steersman.domain.verdicts import Doubt, Outcome, Verdict

NOW = datetime(2013, 3, 10, tzinfo=UTC)
STABLE = Arm(release="rel-1", version=1, digest="sha256:1")
ID = "rel-01a20935-4273-7a02-b659-b1c5b3ab13d6"


def release(phase: Phase, step: int = 0, **changes: Any) -> Release:
    fields: dict[str, Any] = {
        "id": ID,
        "workspace": "ops",
        "model": "delay",
        "environment": "production",
        "number": 2,
        "version": 2,
        "digest": "sha256:2",
        "previous": STABLE,
        "document": "sha256:d",
        "phase": phase,
        "step": step,
        "step_started_at": NOW - timedelta(days=20),
        "opened": Opened.COMMAND,
        "opened_at": NOW - timedelta(days=21),
        "opened_by": "ann",
        "entered": True,
    }
    return Release(**{**fields, **changes})


def verdict(outcome: Outcome, **more: Any) -> Verdict:
    numbers = {"n": 9, "estimate": 0.1, "margin": 0.02, **more}
    return Verdict(outcome=outcome, because=f"roc_auc: {outcome}", metric="roc_auc", **numbers)


def analysis(**changes: Any) -> spec.Analysis:
    fields: dict[str, Any] = {"metrics": ("roc_auc",), "critical": True, "max_duration": timedelta(days=14)}
    return spec.Analysis(**{**fields, **changes})


def facts(of: Release, *steps: spec.Step, **changes: Any) -> Facts:
    policy = spec.EnvironmentPolicy(strategy=spec.Canary(steps=(*steps, spec.Promote())))
    known = Facts(
        now=NOW, release=of, policy=policy, tier=1, horizon=timedelta(days=1), gates_declared=1, gates=None,
        in_effect=True, stable=STABLE,
    )  # fmt: skip
    return replace(known, **changes)


def told(move: Move | None, known: Facts, **more: Any) -> Reason:
    """What is said of a release after a move, from what the move leaves behind."""
    assert move is not None
    after = move.release
    steps = known.policy.strategy.steps
    step = steps[after.step] if 0 <= after.step < len(steps) else None
    return explain(Circumstances(release=after, step=step, **more)).reason


def gated(outcome: Outcome) -> Facts:
    gates = (GateFact(gate="roc_auc on holdout", applies=True, verdict=verdict(outcome)),)
    return facts(release(Phase.PENDING, GATES_STEP, entered=False), analysis(), gates=gates)


def analysed(found: Verdict | None, **changes: Any) -> Facts:
    verdicts = {} if found is None else {"roc_auc": found}
    return facts(release(Phase.PROGRESSING), analysis(**changes), analysis=verdicts)


def rolls_back(found: Verdict | None) -> Facts:
    return analysed(found, on_inconclusive=spec.OnInconclusive.ROLLBACK)


FAILED, UNDECIDED, ERROR = (verdict(o) for o in (Outcome.FAILED, Outcome.INCONCLUSIVE, Outcome.ERROR))
UNLABELLED = verdict(Outcome.INCONCLUSIVE, estimate=None, doubt=Doubt.LABELS)
MISSPLIT = verdict(Outcome.ERROR, estimate=None, doubt=Doubt.SPLIT)


def baking(**changes: Any) -> Facts:
    promoted = release(Phase.VERIFYING, 1, promoted_at=NOW - timedelta(days=2), exposed=True)
    known = facts(promoted, **changes)
    bake = spec.Bake(duration=timedelta(days=14), metrics=("roc_auc",))
    policy = spec.EnvironmentPolicy(strategy=spec.Canary(steps=(spec.Promote(), bake)))
    return replace(known, policy=policy)


ENDS_AND_PAUSES: dict[Reason, Callable[[], Facts]] = {
    Reason.GATE_FAILED: lambda: gated(Outcome.FAILED),
    Reason.GATE_UNDECIDED: lambda: gated(Outcome.INCONCLUSIVE),
    Reason.GATE_UNMEASURED: lambda: gated(Outcome.ERROR),
    Reason.GATES_BROKEN: lambda: replace(gated(Outcome.FAILED), gates=None, gates_broken="no dataset"),
    Reason.ANALYSIS_FAILED: lambda: analysed(FAILED),
    Reason.WORSE: lambda: analysed(FAILED, critical=False),
    Reason.UNDECIDED: lambda: analysed(UNDECIDED),
    Reason.UNMEASURED: lambda: analysed(None),
    Reason.UNLABELLED: lambda: analysed(UNLABELLED),
    Reason.MISSPLIT: lambda: analysed(MISSPLIT),
    Reason.UNDECIDED_ENDED: lambda: rolls_back(UNDECIDED),
    Reason.UNMEASURED_ENDED: lambda: rolls_back(ERROR),
    Reason.UNLABELLED_ENDED: lambda: rolls_back(UNLABELLED),
    Reason.MISSPLIT_ENDED: lambda: rolls_back(MISSPLIT),
    Reason.PAUSE_STEP: lambda: facts(release(Phase.PROGRESSING), spec.Pause()),
    Reason.APPROVAL_LACKING: lambda: facts(release(Phase.PROGRESSING), spec.Approval()),
    Reason.NOTHING_TO_COMPARE: lambda: replace(analysed(None), stable=None),
    Reason.GUARDRAIL_BROKEN: lambda: facts(
        release(Phase.PROGRESSING, exposed=True),
        spec.Pause(),
        guardrails=(GuardrailReading(name="error-rate", critical=True, verdict=verdict(Outcome.FAILED)),),
    ),
    Reason.DEADLINE: lambda: facts(
        release(Phase.PROGRESSING, entered=False), spec.Mirror(), in_effect=False, awaited_since=NOW - timedelta(days=1)
    ),
    Reason.TARGET_FAILED: lambda: facts(
        release(Phase.PROGRESSING, entered=False), spec.Mirror(), broken="its worker ended before it was ready"
    ),
    Reason.BAKE_FAILED: lambda: baking(analysis={"roc_auc": verdict(Outcome.FAILED)}),
    Reason.TAKEN_BACK: lambda: baking(undone_by=3),
    Reason.PROMOTED: lambda: baking(replaced_by=3),
}
"""Facts in which the planner's own move leads to each reason."""


@pytest.mark.parametrize("reason", ENDS_AND_PAUSES)
def test_what_the_planner_does_is_told_by_its_reason(reason: Reason) -> None:
    known = ENDS_AND_PAUSES[reason]()
    assert told(plan(known), known) is reason


@pytest.mark.parametrize("reason", ENDS_AND_PAUSES)
def test_the_entry_of_a_pause_or_an_end_holds_its_cause(reason: Reason) -> None:
    move = plan(ENDS_AND_PAUSES[reason]())
    assert move is not None
    stops = [note for note in move.notes if note.action in (Action.RELEASE_PAUSED, Action.RELEASE_DEGRADED)]
    if move.release.phase in (Phase.PAUSED, Phase.DEGRADED):
        assert [note.data["cause"] for note in stops] == [str(move.release.cause)]


def test_a_release_that_waits_for_its_first_approval_says_so_and_one_beyond_its_envelope_says_that() -> None:
    known = facts(release(Phase.PENDING, 0, entered=False), analysis(), gates=(), tier=2)
    assert told(plan(known), known, lacking=1) is Reason.APPROVAL_LACKING
    beyond = replace(known, outside="another algorithm")
    assert told(plan(beyond), beyond, lacking=1) is Reason.OUTSIDE_ENVELOPE


def test_a_metric_that_is_surely_worse_and_not_critical_is_not_told_as_undecided() -> None:
    """Judging calls it inconclusive, as it must not fail the release; a person who decides must know better."""
    worse = verdict(Outcome.INCONCLUSIVE, lower=0.05, upper=0.15)
    known = analysed(worse, critical=False)
    assert told(plan(known), known) is Reason.WORSE


def test_a_verdict_without_any_evidence_is_told_as_not_measured() -> None:
    known = analysed(verdict(Outcome.INCONCLUSIVE, n=0, estimate=None))
    assert told(plan(known), known) is Reason.UNMEASURED


@pytest.mark.parametrize(
    ("cause", "ending", "reason"),
    [
        (Cause.ABORTED, Completion.ABORTED, Reason.ABORTED),
        (Cause.REJECTED, Completion.ROLLED_BACK, Reason.REJECTED),
        (Cause.SUPERSEDED, Completion.SUPERSEDED, Reason.SUPERSEDED),
    ],
)
def test_no_sentence_is_read_whatever_a_person_writes(cause: Cause, ending: Completion, reason: Reason) -> None:
    known = facts(release(Phase.PROGRESSING), analysis())
    for said in ("gate failed elsewhere", "guardrail broken, says ann", "undecided after 3 d", "paused by nobody"):
        assert told(degrade(known.release, ending, now=NOW, because=said, cause=cause), known) is reason
    assert told(pause(known.release, now=NOW, because="aborted by ann: no"), known) is Reason.HELD


def test_a_pause_that_is_left_leaves_no_cause_behind() -> None:
    known = facts(release(Phase.PROGRESSING), analysis())
    held = pause(known.release, now=NOW, because="paused by ann: lunch").release
    assert held.cause is Cause.HELD
    assert resume(held, known.policy, now=NOW, because="back").release.cause is None


@pytest.mark.parametrize("cause", Cause)
def test_every_cause_is_explained_where_it_pauses_or_where_it_ends(cause: Cause) -> None:
    for table, stopped in (
        (PAUSED, release(Phase.PAUSED, cause=cause)),
        (ENDED, release(Phase.DEGRADED, ending=Completion.ABORTED, cause=cause)),
    ):
        if cause in table:
            assert explain(Circumstances(release=stopped, step=spec.Pause())).reason is table[cause]


def test_a_release_stopped_before_causes_were_kept_is_told_from_what_is_known_of_it() -> None:
    """As 0.1 wrote it: the record has no `cause`, and its sentence is left to people."""
    paused = msgspec.to_builtins(release(Phase.PAUSED, because="undecided after 14 d (roc_auc: …)"))
    ended = msgspec.to_builtins(release(Phase.HEALTHY, completion=Completion.ABORTED, because="gate failed: …"))
    for old, reason in ((paused, Reason.PAUSED_BEFORE), (ended, Reason.ENDED_BEFORE)):
        assert old.pop("cause") is None
        read = msgspec.convert(old, Release)
        assert explain(Circumstances(release=read, step=analysis())).reason is reason
    assert "read it under `because`" in REASONS[Reason.ENDED_BEFORE].means


def test_a_release_that_only_waits_says_for_what() -> None:
    def said(of: Release, step: spec.Step, **more: Any) -> Reason:
        return explain(Circumstances(release=of, step=step, **more)).reason

    progressing = release(Phase.PROGRESSING)
    assert said(release(Phase.PENDING), analysis(), waits_for=1) is Reason.QUEUED
    assert said(release(Phase.PENDING), analysis()) is Reason.GATES_UNDER_WAY
    assert said(release(Phase.PENDING), analysis(), frozen="frozen until Monday: holidays") is Reason.FROZEN
    assert said(release(Phase.PENDING), analysis(), exhausted="waits until it recovers") is Reason.BUDGET_USED_UP
    assert said(progressing, analysis()) is Reason.COLLECTING
    assert said(progressing, analysis(), doubt=Doubt.LABELS, doubted="0 % of 900") is Reason.LABELS_AWAITED
    assert said(progressing, analysis(), doubt=Doubt.SPLIT, doubted="17 % (meant 10 %)") is Reason.SPLIT_DOUBTED
    assert said(progressing, spec.Pause(duration=timedelta(days=1))) is Reason.RESTING
    assert said(progressing, spec.SetWeight(weight_pct=10)) is Reason.STEP_COMING
    assert said(release(Phase.PROGRESSING, entered=False), analysis()) is Reason.STEP_COMING
    assert said(release(Phase.VERIFYING), spec.Promote()) is Reason.VERIFYING
    assert said(release(Phase.PENDING, opened=Opened.ROLLBACK), spec.Promote()) is Reason.COMING_BACK
    back = release(Phase.HEALTHY, completion=Completion.FAST_ROLLED_BACK)
    assert said(back, spec.Promote()) is Reason.BROUGHT_BACK


@pytest.mark.parametrize("reason", Reason)
def test_every_row_is_whole_and_its_commands_are_taken_by_the_real_parser(reason: Reason) -> None:
    row = REASONS[reason]
    assert row.choices
    for text in (row.means, row.advice, *(choice.does for choice in row.choices)):
        assert text == text.strip()
    for choice in row.choices:
        names = {name for _, name, _, _ in string.Formatter().parse(choice.command) if name}
        places = {"release": ID, "model": "ops/delay", "place": " --environment staging", "version": "2"}
        assert names <= set(places)
        line = choice.command.format_map(places).replace("VERSION", "3").replace('"…"', "why")
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            assert not isinstance(parse(line.split()[1:]), int), line


@pytest.mark.parametrize("reason", ENDS_AND_PAUSES)
def test_no_place_in_a_told_sentence_stays_open(reason: Reason) -> None:
    known = ENDS_AND_PAUSES[reason]()
    move = plan(known)
    assert move is not None
    said = explain(Circumstances(release=move.release, step=known.policy.strategy.steps[0]))
    for text in (said.means, said.advice, *(c.command + c.does for c in said.choices)):
        assert not re.search(r"[{}]|None", text), text


def test_an_environment_other_than_production_stands_in_the_command() -> None:
    staged = release(Phase.VERIFYING, environment="staging")
    said = explain(Circumstances(release=staged, step=None))
    assert said.choices[0].command == 'steersman rollback ops/delay --environment staging --because "…"'


def test_who_answers_when_it_is_over_depends_on_whether_the_version_ever_did() -> None:
    def means(**changes: Any) -> str:
        ended = release(Phase.HEALTHY, completion=Completion.ABORTED, cause=Cause.ABORTED, **changes)
        return explain(Circumstances(release=ended, step=None)).means

    assert means() == "A person ended it; version 1 answers as before in production."
    assert means(exposed=True) == "A person ended it; version 1 answers again in production."
    assert means(previous=None) == "A person ended it; it never answered anybody."
    assert means(previous=None, exposed=True) == "A person ended it; nothing answers in production."


def test_a_weight_that_stays_during_a_pause_is_said() -> None:
    waits = release(Phase.PAUSED, weight_pct=10.0, exposed=True, cause=Cause.PAUSE_STEP)
    said = explain(Circumstances(release=waits, step=spec.Pause()))
    assert "version 2 meanwhile answers 10 % of the requests" in said.means
    assert msgspec.to_builtins(said)["reason"] == "pause until resumed"

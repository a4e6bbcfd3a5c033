"""What a release does next: one pure function from facts to a move.

`plan` is asked again and again, by any process, at any time, and is told nothing about what changed: it looks at the
release and at what is known now and returns the next move, or None when there is nothing to do but wait. A move is the
release as it becomes, the events to record and the evidence to keep; carrying it out is one transaction elsewhere.
Side effects are not moves: what should run and who should answer follows from the release (`decide.routing`), and the
release goes on when that has been *seen* to be in effect.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

import msgspec

from steersman.decide.approving import Agreement, demanded_at_start, demanded_by, lacking
from steersman.decide.causes import GATES_SAID, cause_of_gates, cause_of_undecided
from steersman.decide.judging import SettlementAction, settle_inconclusive
from steersman.decide.steps import GATES_STEP, promotes_past, step_name, steps_of, with_weight
from steersman.domain import spec
from steersman.domain.durations import format_duration
from steersman.domain.events import Action
from steersman.domain.release import Arm, Cause, Completion, Opened, Phase, Release, completed, moved
from steersman.domain.verdicts import Outcome, Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class GateFact:
    """One gate's verdict; `applies` is False where there was nothing to compare with, and `because` says so.

    `recorded_as` stands in the ledger instead of a verdict that holds measurements of this machine, which do not.
    """

    gate: str
    applies: bool
    verdict: Verdict
    recorded_as: str | None = None

    @property
    def recorded(self) -> Verdict:
        """The verdict as the ledger keeps it."""
        if self.recorded_as is None:
            return self.verdict
        outcome = self.verdict.outcome if self.applies else Outcome.INCONCLUSIVE
        return Verdict(outcome=outcome, because=self.recorded_as, margin=self.verdict.margin)


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardrailReading:
    name: str
    critical: bool
    verdict: Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Everything `plan` may know about one release, all of it observed before it was asked.

    `in_effect`: the router has applied the traffic this release asks for and its replicas are ready. `drained`: no
    replica of its version is left that nothing else needs. `waits_for`: the number of an older release still on its way.
    `broken`: why the traffic it asks for cannot come about. `approvers`: agreements that count at the present step.
    `analysis`: verdicts by metric of the present analysis or bake; empty while nothing was measured.
    `awaited_since`: when what the release waits for (`awaited`) was first seen to be missing; None where it waits for
    nothing. `exhausted`: why an error budget keeps releases waiting. `outside`: why an automatic release is beyond its
    model's envelope.
    `stable`: what answers by default now. `replaced_by`: number of a release promoted after this one; `undone_by`: of a
    rollback that brought the version before this one back. `undoing`: such a rollback is on its way.
    """

    now: datetime
    release: Release
    policy: spec.EnvironmentPolicy
    tier: int
    horizon: timedelta
    gates_declared: int
    gates: tuple[GateFact, ...] | None
    gates_broken: str | None = None
    in_effect: bool
    drained: bool = True
    waits_for: int | None = None
    broken: str | None = None
    awaited_since: datetime | None = None
    outside: str | None = None
    approvers: tuple[Agreement, ...] = ()
    analysis: Mapping[str, Verdict] = field(default_factory=dict)
    guardrails: tuple[GuardrailReading, ...] = ()
    frozen: str | None = None
    exhausted: str | None = None
    stable: Arm | None = None
    replaced_by: int | None = None
    undone_by: int | None = None
    undoing: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """An event of a move, before the loop adds who and when."""

    action: Action
    because: str
    data: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """A verdict of a move, kept with the release. `applies` is False for a gate that had nothing to compare with."""

    kind: str
    name: str
    verdict: Verdict
    applies: bool = True

    @property
    def kept(self) -> dict[str, Any]:
        """As it stands with the release."""
        return {**verdict_data(self.name, self.verdict), **({} if self.applies else {"applies": False})}


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    release: Release
    notes: tuple[Note, ...] = ()
    evidence: tuple[Evidence, ...] = ()


def plan(facts: Facts) -> Move | None:
    """The release's next move, or None while it waits. Raises IllegalTransition only on a defect of this module."""
    release = facts.release
    if release.completion is not None:
        return None
    if release.phase is Phase.DEGRADED:
        return _degraded(facts)
    if broken := _guardrail_broken(facts):
        return broken
    if facts.broken is not None and release.phase in (Phase.PENDING, Phase.PROGRESSING):
        return degrade(release, failure(release), now=facts.now, because=facts.broken, cause=Cause.NOT_RUNNING)
    if overdue := _overdue(facts):
        return overdue
    if release.phase is Phase.VERIFYING:
        return _verifying(facts)
    if compares_with_another(facts) and facts.waits_for is None:
        return _compare_anew(facts)
    if release.phase is Phase.PENDING:
        return _pending(facts)
    if release.phase is Phase.PROGRESSING:
        return _thawed(facts, _progressing(facts))
    return _paused(facts)


def awaited(facts: Facts) -> str | None:
    """What the release waits for the world to bring about; None where it waits for time, evidence, people or others."""
    release = facts.release
    held = facts.frozen is not None or facts.exhausted is not None
    if held or facts.waits_for is not None or compares_with_another(facts):
        return None
    if release.phase is Phase.PENDING and facts.gates_declared and facts.gates is None and facts.gates_broken is None:
        return "the verdicts of its gates" if release.opened is not Opened.ROLLBACK else None
    if release.phase is Phase.PROGRESSING and not release.entered and not facts.in_effect:
        return f"the traffic of step {release.step} ({step_name(steps_of(facts.policy, release)[release.step])})"
    return None


def _overdue(facts: Facts) -> Move | None:
    what, deadline = awaited(facts), facts.policy.progress_deadline
    if what is None or facts.awaited_since is None or facts.now < facts.awaited_since + deadline:
        return None
    because = f"{what} did not come about within progressDeadline, {format_duration(deadline)}"
    ending = failure(facts.release)
    return degrade(facts.release, ending, now=facts.now, because=because, cause=Cause.PROGRESS_DEADLINE)


def compares_with_another(facts: Facts) -> bool:
    """Whether the version the release is compared with no longer answers: it waited its turn, or that one was taken back."""
    previous = facts.release.previous
    if facts.release.opened is Opened.ROLLBACK or facts.release.phase is Phase.VERIFYING:
        return False
    return (previous.digest if previous else None) != (facts.stable.digest if facts.stable else None)


def _compare_anew(facts: Facts) -> Move:
    """From now on the release is compared with, and goes back to, what answers now; its present step begins again.

    With nobody left to compare with, a person decides: the candidate must not skip what it still has to prove.
    """
    after = msgspec.structs.replace(facts.release, previous=facts.stable, entered=False)
    if facts.stable is not None:
        return Move(release=after)
    because = "the version it was compared with was taken back and no other answers; a person decides"
    if after.phase is Phase.PAUSED:
        return Move(release=msgspec.structs.replace(after, held=True, because=because, cause=Cause.NOTHING_TO_COMPARE))
    return hold(after, now=facts.now, because=because, cause=Cause.NOTHING_TO_COMPARE)


def _thawed(facts: Facts, move: Move | None) -> Move | None:
    """A freeze or a used-up budget holds a release where it is; what fails still goes back."""
    if move is None or move.release.phase is Phase.DEGRADED:
        return move
    if facts.frozen is not None:
        return None
    return move if facts.exhausted is None else _says_why(facts.release, facts.exhausted)


def _says_why(release: Release, because: str) -> Move | None:
    """A release that a used-up budget holds where it is says so, once; nothing else of it changes."""
    if release.because == because:
        return None
    return Move(release=msgspec.structs.replace(release, because=because))


# --- before traffic


def _pending(facts: Facts) -> Move | None:
    release = facts.release
    if facts.waits_for is not None or facts.frozen is not None:
        return None
    if facts.exhausted is not None:
        return _says_why(facts.release, facts.exhausted)
    if release.opened is Opened.ROLLBACK:
        return _start(facts, "goes back to a version that was promoted before")
    if facts.gates_broken is not None:
        because = f"gates could not be evaluated: {facts.gates_broken}"
        move = degrade(release, Completion.ABORTED, now=facts.now, because=because, cause=Cause.GATES_BROKEN)
        return _after(move, Note(action=Action.GATES_FAILED, because=because))
    if facts.gates is None:
        return None if facts.gates_declared else _approved_or_wait(facts)
    failed = [result for result in facts.gates if result.applies and result.verdict.outcome is not Outcome.SUCCESSFUL]
    evidence = tuple(
        Evidence(kind="gate", name=result.gate, verdict=result.verdict, applies=result.applies)
        for result in facts.gates
    )
    recorded = tuple(Evidence(kind="gate", name=result.gate, verdict=result.recorded) for result in facts.gates)
    if failed:
        because = "; ".join(f"{result.gate}: {result.recorded.because}" for result in failed)
        cause = cause_of_gates([result.verdict.outcome for result in failed])
        said = f"{GATES_SAID[cause]}: {because}"
        move = degrade(release, Completion.ABORTED, now=facts.now, because=said, cause=cause)
        note = Note(action=Action.GATES_FAILED, because=because, data=_summaries(recorded))
        return Move(release=move.release, notes=(note, *move.notes), evidence=evidence)
    if release.step != GATES_STEP:
        return _approved_or_wait(facts)
    because = "; ".join(f"{result.gate}: {result.recorded.because}" for result in facts.gates) or "no gates declared"
    return Move(
        release=msgspec.structs.replace(release, step=0, because="gates passed"),
        notes=(Note(action=Action.GATES_PASSED, because=because, data=_summaries(recorded)),),
        evidence=evidence,
    )


def _approved_or_wait(facts: Facts) -> Move | None:
    missing = _missing_at_start(facts)
    if missing is None:
        return _start(facts, _approved_by(facts) if facts.approvers else "gates passed")
    because = missing if facts.outside is None else f"{missing}; outside of the envelope: {facts.outside}"
    cause = Cause.APPROVAL_LACKING if facts.outside is None else Cause.OUTSIDE_ENVELOPE
    return _pause(facts, because, cause=cause, resumes=Phase.PENDING)


def _missing_at_start(facts: Facts) -> str | None:
    release, outside = facts.release, facts.outside is not None
    demand = demanded_at_start(
        facts.policy, facts.tier, environment=release.environment, outside=outside, hotfix=release.hotfix
    )
    return lacking(demand, facts.approvers)


def _approved_by(facts: Facts) -> str:
    return f"approved by {', '.join(agreement.actor for agreement in facts.approvers)}"


def _start(facts: Facts, because: str) -> Move:
    after = moved(facts.release, Phase.PROGRESSING, at=facts.now, because=because, step=0, entered=False)
    return Move(release=with_weight(after, facts.policy))


# --- steps


def _progressing(facts: Facts) -> Move | None:
    release = facts.release
    step = steps_of(facts.policy, release)[release.step]
    if release.previous is None and isinstance(step, spec.Mirror | spec.Analysis | spec.Pause):
        return _next(facts, f"{step_name(step)} passed over: no version is in {release.environment} to compare with")
    if passed := _passed_over(facts, step):
        return passed
    if not release.entered:
        if not facts.in_effect:
            return None
        if isinstance(step, spec.Promote):
            return _promote(facts)
        entered = msgspec.structs.replace(release, entered=True, step_started_at=facts.now)
        because = f"step {release.step} ({step_name(step)}) is in effect"
        note = Note(action=Action.STEP_STARTED, because=because, data=_step_data(release, step))
        return Move(release=entered, notes=(note,))
    match step:
        case spec.Mirror() | spec.SetWeight():
            return _next(facts, f"{step_name(step)} in effect")
        case spec.Pause(duration=None):
            return _pause(facts, "pauses until someone resumes it", cause=Cause.PAUSE_STEP)
        case spec.Pause(duration=duration):
            done = facts.now >= release.step_started_at + (duration or timedelta())
            return _next(facts, "pause is over") if done else None
        case spec.Analysis():
            return _analysis(facts, step)
        case spec.Approval():
            missing = lacking(demanded_by(step, facts.policy), facts.approvers)
            return (
                _next(facts, _approved_by(facts))
                if missing is None
                else _pause(facts, missing, cause=Cause.APPROVAL_LACKING)
            )
        case spec.Promote():
            return _promote(facts) if facts.in_effect else None
        case spec.Bake():
            return _next(facts, f"{step_name(step)} passed over")


def _passed_over(facts: Facts, step: spec.Step) -> Move | None:
    """Past an analysis or a pause that a person promoted past, or that a waiver names; recorded as such."""
    release = facts.release
    if not isinstance(step, spec.Analysis | spec.Pause):
        return None
    waived = next((w for w in release.waived if w.step == release.step and facts.now < w.until), None)
    if waived is not None:
        because = f"{step_name(step)} skipped: waived by {waived.actor}: {waived.because}"
    elif release.full and promotes_past(step, facts.tier):
        because = f"{step_name(step)} skipped: a person promoted"
    else:
        return None
    data = {"step": release.step, "kind": step_name(step), "waiver": waived.waiver if waived else None}
    note = Note(action=Action.STEP_SKIPPED, because=because, data={**data, **_release_data(release)})
    return _next(facts, because, note)


def _next(facts: Facts, because: str, *notes: Note, evidence: tuple[Evidence, ...] = ()) -> Move:
    release = facts.release
    after = msgspec.structs.replace(
        release, step=release.step + 1, entered=False, step_started_at=facts.now, because=because
    )
    return Move(release=with_weight(after, facts.policy), notes=notes, evidence=evidence)


def _analysis(facts: Facts, step: spec.Analysis) -> Move | None:
    release = facts.release
    verdicts = {metric: facts.analysis.get(metric) for metric in step.metrics}
    known = {metric: verdict for metric, verdict in verdicts.items() if verdict is not None}
    evidence = tuple(Evidence(kind="analysis", name=metric, verdict=verdict) for metric, verdict in known.items())
    failed = {metric: verdict for metric, verdict in known.items() if verdict.outcome is Outcome.FAILED}
    if failed:
        because = "; ".join(verdict.because for verdict in failed.values())
        note = Note(action=Action.ANALYSIS_CONCLUDED, because=because, data=_summaries(evidence))
        if not step.critical:
            paused = _pause(facts, because, cause=Cause.ANALYSIS_FAILED)
            return Move(release=paused.release, notes=(note, *paused.notes), evidence=evidence)
        move = degrade(release, failure(release), now=facts.now, because=because, cause=Cause.ANALYSIS_FAILED)
        return Move(release=move.release, notes=(note, *move.notes), evidence=evidence)
    if len(known) == len(verdicts) and all(verdict.outcome is Outcome.SUCCESSFUL for verdict in known.values()):
        because = "; ".join(verdict.because for verdict in known.values())
        note = Note(action=Action.ANALYSIS_CONCLUDED, because=because, data=_summaries(evidence))
        return _next(facts, because, note, evidence=evidence)
    if facts.now < release.step_started_at + step.duration_max:
        return None
    return _inconclusive(facts, step, verdicts, evidence)


def _inconclusive(
    facts: Facts, step: spec.Analysis, verdicts: Mapping[str, Verdict | None], evidence: tuple[Evidence, ...]
) -> Move:
    """The time for an analysis is over and the data cannot tell: what the document says happens."""
    settled = [
        settle_inconclusive(
            verdict or Verdict(outcome=Outcome.ERROR, because=f"{metric} was not measured", metric=metric),
            policy=step.when_inconclusive,
            tier=facts.tier,
            elapsed=facts.now - facts.release.step_started_at,
            max_duration=step.duration_max,
            blocks_min=step.evidence_min,
        )
        for metric, verdict in verdicts.items()
        if verdict is None or verdict.outcome is not Outcome.SUCCESSFUL
    ]
    because = "; ".join(settlement.because for settlement in settled)
    note = Note(action=Action.ANALYSIS_CONCLUDED, because=because, data=_summaries(evidence))
    actions, cause = {settlement.action for settlement in settled}, cause_of_undecided(verdicts.values())
    if SettlementAction.ROLLBACK in actions:
        move = degrade(facts.release, failure(facts.release), now=facts.now, because=because, cause=cause)
    elif actions == {SettlementAction.PROMOTE}:
        return _next(facts, because, note, evidence=evidence)
    else:
        move = _pause(facts, because, cause=cause)
    return Move(release=move.release, notes=(note, *move.notes), evidence=evidence)


def _promote(facts: Facts) -> Move:
    release = facts.release
    after = moved(
        release,
        Phase.VERIFYING,
        at=facts.now,
        because="promoted",
        promoted_at=facts.now,
        weight_pct=100.0,
        exposed=True,
        entered=False,
        step=release.step + 1,
    )
    because = f"version {release.version} is the stable version of {release.environment}"
    return Move(
        release=after, notes=(Note(action=Action.RELEASE_PROMOTED, because=because, data=_release_data(release)),)
    )


# --- after promotion


def _verifying(facts: Facts) -> Move | None:
    release = facts.release
    promoted_at = release.promoted_at or release.step_started_at
    if release.opened is Opened.ROLLBACK:
        because = f"version {release.version} answers again"
        return _complete(facts, Completion.FAST_ROLLED_BACK, because) if facts.in_effect else None
    if facts.undone_by is not None:
        because = f"taken back by the rollback of release {facts.undone_by}"
        return degrade(release, Completion.ROLLED_BACK, now=facts.now, because=because, cause=Cause.TAKEN_BACK)
    ending = Completion.FAST_PROMOTED if release.full or release.hurried else Completion.PROMOTED
    if facts.replaced_by is not None:
        return _complete(facts, ending, f"release {facts.replaced_by} took its place while it was verified")
    bake = next((step for step in steps_of(facts.policy, release)[release.step :] if isinstance(step, spec.Bake)), None)
    warm_for = facts.policy.strategy.warm_for if isinstance(facts.policy.strategy, spec.BlueGreen) else timedelta()
    if bake is None:
        if not facts.in_effect or facts.now < promoted_at + warm_for or facts.undoing:
            return None
        return _stood(facts, ending, "promoted; the document asks for no bake")
    evidence = tuple(Evidence(kind="bake", name=metric, verdict=verdict) for metric, verdict in facts.analysis.items())
    failed = {name: verdict for name, verdict in facts.analysis.items() if verdict.outcome is Outcome.FAILED}
    said = "; ".join(verdict.because for verdict in facts.analysis.values())
    if failed:
        because = f"failed in the bake: {said}"
        move = degrade(release, Completion.ROLLED_BACK, now=facts.now, because=because, cause=Cause.BAKE_FAILED)
        return Move(release=move.release, notes=move.notes, evidence=evidence)
    if facts.now < promoted_at + max(bake.duration + facts.horizon, warm_for) or facts.undoing:
        return None
    unsaid = "nothing to compare with" if bake.metrics else "no metric declared"
    because = f"bake and label horizon passed: {said or unsaid}"
    if facts.analysis and not any(verdict.measured for verdict in facts.analysis.values()):
        because = f"bake and label horizon passed, and nothing was measured: {said}"
        done = _complete(facts, ending, because, cause=Cause.BAKE_UNMEASURED)
    else:
        done = _stood(facts, ending, because)
    return Move(release=done.release, notes=done.notes, evidence=evidence)


def _stood(facts: Facts, completion: Completion, because: str) -> Move:
    """It stood its bake to the end: this is what the next environment asks for."""
    stood = replace(facts, release=msgspec.structs.replace(facts.release, verified_at=facts.now))
    return _complete(stood, completion, because)


def _complete(facts: Facts, completion: Completion, because: str, cause: Cause | None = None) -> Move:
    after = completed(facts.release, completion, at=facts.now, because=because)
    data = {**_release_data(after), "completion": str(completion)}
    if cause is not None:
        after, data = msgspec.structs.replace(after, cause=cause), {**data, "cause": str(cause)}
    return Move(release=after, notes=(Note(action=Action.RELEASE_COMPLETED, because=because, data=data),))


# --- failure and people


def _guardrail_broken(facts: Facts) -> Move | None:
    release = facts.release
    if release.phase not in (Phase.PROGRESSING, Phase.PAUSED, Phase.VERIFYING):
        return None
    if release.opened is Opened.ROLLBACK:
        return None  # what it replaces was worse; there is no better place to go by oneself
    broken = [r for r in facts.guardrails if r.critical and r.verdict.outcome is Outcome.FAILED]
    if not broken:
        return None
    because = "; ".join(f"{reading.name}: {reading.verdict.because}" for reading in broken)
    evidence = tuple(Evidence(kind="guardrail", name=reading.name, verdict=reading.verdict) for reading in broken)
    note = Note(action=Action.GUARDRAIL_BROKEN, because=because, data=_summaries(evidence))
    said = f"guardrail broken: {because}"
    move = degrade(release, failure(release), now=facts.now, because=said, cause=Cause.GUARDRAIL_BROKEN)
    return Move(release=move.release, notes=(note, *move.notes), evidence=evidence)


def failure(release: Release) -> Completion:
    """How a release that does not make it completes: RolledBack once it answered a request of production."""
    return Completion.ROLLED_BACK if release.exposed else Completion.ABORTED


def degrade(release: Release, ending: Completion, *, now: datetime, because: str, cause: Cause) -> Move:
    """Give up: the traffic goes back to the previous version, then the release completes as `ending`."""
    after = moved(
        release,
        Phase.DEGRADED,
        at=now,
        because=because,
        cause=cause,
        ending=ending,
        weight_pct=0.0,
        degraded_at=now,
        entered=False,
    )
    data = {**_release_data(release), "ending": str(ending), "cause": str(cause)}
    return Move(release=after, notes=(Note(action=Action.RELEASE_DEGRADED, because=because, data=data),))


def _degraded(facts: Facts) -> Move | None:
    if not (facts.in_effect and facts.drained):
        return None
    return _complete(facts, facts.release.ending or Completion.ABORTED, facts.release.because)


def _pause(facts: Facts, because: str, *, cause: Cause, resumes: Phase = Phase.PROGRESSING) -> Move:
    after = moved(facts.release, Phase.PAUSED, at=facts.now, because=because, cause=cause, resumes=resumes)
    return Move(release=after, notes=(Note(action=Action.RELEASE_PAUSED, because=because, data={"cause": str(cause)}),))


def _paused(facts: Facts) -> Move | None:
    """Approvals let a paused release go on by themselves; everything else needs a person's `resume`."""
    release = facts.release
    if release.held:
        return None
    if release.resumes is Phase.PENDING:
        if _missing_at_start(facts) is not None:
            return None
        return Move(release=moved(release, Phase.PENDING, at=facts.now, because="approved", resumes=None))
    step = steps_of(facts.policy, release)[release.step]
    if isinstance(step, spec.Approval) and lacking(demanded_by(step, facts.policy), facts.approvers) is None:
        after = moved(release, Phase.PROGRESSING, at=facts.now, because=_approved_by(facts), resumes=None)
        return Move(release=after)
    return None


def hold(release: Release, *, now: datetime, because: str, cause: Cause) -> Move:
    """Only a person lets it go on from here; its traffic and the time its step began stay as they are."""
    after = moved(release, Phase.PAUSED, at=now, because=because, cause=cause, resumes=release.phase, held=True)
    after = msgspec.structs.replace(after, step_started_at=release.step_started_at)
    return Move(release=after, notes=(Note(action=Action.RELEASE_PAUSED, because=because, data={"cause": str(cause)}),))


def _after(move: Move, *before: Note) -> Move:
    return Move(release=move.release, notes=(*before, *move.notes), evidence=move.evidence)


def _step_data(release: Release, step: spec.Step) -> dict[str, Any]:
    return {
        "step": release.step,
        "kind": step_name(step),
        "weight_pct": f"{release.weight_pct:g}",
        **_release_data(release),
    }


def _release_data(release: Release) -> dict[str, Any]:
    return {"release": release.number, "version": release.version, "digest": release.digest}


def _summaries(evidence: tuple[Evidence, ...]) -> dict[str, Any]:
    return {"verdicts": [verdict_data(item.name, item.verdict) for item in evidence]}


def verdict_data(name: str, verdict: Verdict) -> dict[str, Any]:
    """A verdict for the ledger: numbers as text with six significant digits, because canonical JSON keeps no floats."""

    def text(value: float | None) -> str | None:
        return None if value is None else f"{value:.6g}"

    return {
        "name": name,
        "outcome": str(verdict.outcome),
        "because": verdict.because,
        "estimate": text(verdict.estimate),
        "lower": text(verdict.lower),
        "upper": text(verdict.upper),
        "n": verdict.n,
        "n_unit": verdict.n_unit,
        "margin": text(verdict.margin),
        "method": verdict.method,
        "needed": verdict.needed,
        **({"data": verdict.data, "code": verdict.code} if verdict.data or verdict.code else {}),
    }

"""From a monitor's reading to a finding, from findings to an incident, from an incident to the remedy, to recovery.

Three kinds of evidence become findings, and none is trusted with the others' task. *Drift* says that inputs changed,
not that anything was lost. *Performance* says that something was lost, not that it could have been avoided. The
*challenger* says that a freshly trained version does better on the same requests: regret, the strongest reason to
retrain.

Before a remedy starts there is triage, because the two expensive mistakes are made here: training on broken data, which
bakes the damage into a version, and training again and again. What triage returns is one action with its reason; it
changes nothing itself. A finding is a verdict whose outcome is *failed*; every function here is pure, `now` is event time.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

import numpy as np

from steersman.decide.judging import BLOCKS_MIN, harm_interval
from steersman.domain.incident import Finding, Incident, IncidentKind, IncidentState, Remedy
from steersman.domain.spec import RetrainMode
from steersman.domain.verdicts import NUnit, Outcome, Verdict
from steersman.stats.drift import Detector
from steersman.stats.performance import BlockDifferences

HYSTERESIS = 0.1
"""A finding is over when the evidence has fallen to this share of the limit that raised it; at the limit itself it
would flap."""

MATURED_DAYS_MIN = 14
"""Fewest matured days on which a recovery is verified: after 7 days a better version looks worse in 17 % of cases, after
14 in 8 % (flights of 2013)."""

RECOVERY_DAYS_MAX = 28
"""Matured days after which an incident that has not recovered is handed to a person."""

ATTEMPTS_MAX = 3
"""Remedies an incident tries before a person must look."""

NULL_RATE_JUMP = 0.2
"""Rise of a column's share of nulls, as a fraction of rows, that is a broken feed and not a changing world."""


def judge_drift(detector: Detector, *, windows_between_false_alarms: float, open_finding: bool = False) -> Verdict:
    """Have the inputs changed? Evidence of all columns against the limit for the wished rate of false alarms.

    With a finding open (`open_finding`) it stays open until the evidence has fallen to a tenth of the limit.
    """
    limit = windows_between_false_alarms
    if limit <= 1:
        raise ValueError(f"windows between false alarms must exceed 1, got {limit}")
    if not detector.evidence:
        return Verdict(outcome=Outcome.INCONCLUSIVE, because="no column could be compared yet", n_unit="blocks")
    names = ", ".join(detector.leading(3)) or "no column"
    failed = detector.alarms(limit * HYSTERESIS if open_finding else limit)
    return Verdict(
        outcome=Outcome.FAILED if failed else Outcome.SUCCESSFUL,
        because=f"evidence of change {detector.level:.3g}, limit {limit:g} (one false alarm in {limit:g} windows), "
        f"led by {names}, {len(detector.evidence)} columns, {detector.windows} windows",
        metric="drift",
        estimate=detector.level,
        n=detector.windows,
        n_unit="blocks",
        margin=limit,
        method="e-CUSUM of conformal p-values, mean over columns",
    )


def judge_realised(
    detector: Detector,
    *,
    metric: str,
    latest: float,
    usual: float,
    windows_between_false_alarms: float,
    open_finding: bool = False,
    n_unit: NUnit = "days",
) -> Verdict:
    """Is the realised metric worse than in the version's own reference windows?

    The detector has one column, fed with conformal p-values of the metric's *harm* per window among the reference
    windows' (`stats.drift.conformal_p`). `latest` and `usual` (the reference's mean) are shown, they do not decide.
    """
    if not detector.evidence:
        return Verdict(
            outcome=Outcome.INCONCLUSIVE, because=f"{metric}: no matured window yet", metric=metric, n_unit=n_unit
        )
    drift = judge_drift(detector, windows_between_false_alarms=windows_between_false_alarms, open_finding=open_finding)
    return Verdict(
        outcome=drift.outcome,
        because=f"{metric} {latest:.4f}, usually {usual:.4f}; evidence of loss {detector.level:.3g}, "
        f"limit {windows_between_false_alarms:g}, {detector.windows} {n_unit}",
        metric=metric,
        estimate=detector.level,
        n=detector.windows,
        n_unit=n_unit,
        margin=windows_between_false_alarms,
        method="e-CUSUM of conformal p-values",
    )


def judge_challenger(
    regret: BlockDifferences,
    *,
    margin: float,
    alpha: float = 0.05,
    blocks_min: int = BLOCKS_MIN,
    n_unit: NUnit = "days",
) -> Verdict:
    """Has production fallen behind a freshly trained version on the same requests?

    `regret` is `paired_blocks(metric, production, challenger, ...)`: production is the candidate, so above zero the
    challenger is better. A finding needs both: surely better at all (lower bound above zero) and better by the margin
    (estimate). Demanding the margin of the bound itself would find a real loss of .045 AUC only after four weeks.
    """
    name, n = regret.metric, regret.n
    if n < blocks_min:
        because = f"{name}: {n} {n_unit} beside the challenger, need at least {blocks_min}"
        return Verdict(
            outcome=Outcome.INCONCLUSIVE,
            because=because,
            metric=name,
            n=n,
            n_unit=n_unit,
            margin=margin,
            needed=blocks_min - n,
        )
    interval, _ = harm_interval(
        np.asarray(regret.harms, dtype=np.float64), margin=margin, alpha=alpha, counted=regret.counted
    )
    behind = interval.lower > 0.0 and interval.estimate >= margin
    level = interval.upper < margin
    outcome = Outcome.FAILED if behind else Outcome.SUCCESSFUL if level else Outcome.INCONCLUSIVE
    return Verdict(
        outcome=outcome,
        because=f"{name}: the challenger is better by {interval.estimate:+.4f} "
        f"[{interval.lower:+.4f}, {interval.upper:+.4f}], margin {margin:g}, {n} {n_unit}, {regret.rows_total} rows",
        metric=name,
        estimate=interval.estimate,
        lower=interval.lower if np.isfinite(interval.lower) else None,
        upper=interval.upper if np.isfinite(interval.upper) else None,
        n=n,
        n_unit=n_unit,
        margin=margin,
        method=f"{interval.method}, each bound {1 - alpha:.1%}",
    )


class Filing(StrEnum):
    """Where a finding goes."""

    OPEN = "open"  # a new incident
    ATTACH = "attach"  # one that is there already
    DROP = "drop"  # about a version that no longer answers


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """Where one finding belongs, and why."""

    filing: Filing
    incident: str | None
    because: str


def assign(finding: Finding, incidents: Sequence[Incident], *, stable_version: int | None) -> Assignment:
    """One incident per model, environment and cause.

    A finding joins the open incident of its own kind; it also joins one of another kind whose remedy is already under
    way or will be tried again, because that remedy replaces the very version the finding is about.
    """
    if stable_version is not None and finding.version != stable_version:
        because = f"about version {finding.version}, version {stable_version} answers now"
        return Assignment(filing=Filing.DROP, incident=None, because=because)
    here = [
        incident
        for incident in incidents
        if (incident.workspace, incident.model, incident.environment)
        == (finding.workspace, finding.model, finding.environment)
        and incident.state is not IncidentState.CLOSED
    ]
    for incident in sorted(here, key=lambda known: (known.detected_at, known.id)):
        if incident.kind is finding.kind:
            because = f"the {incident.kind} incident since {incident.detected_at:%Y-%m-%d}"
            return Assignment(filing=Filing.ATTACH, incident=incident.id, because=because)
    for incident in sorted(here, key=lambda known: (known.detected_at, known.id)):
        if incident.version != finding.version:
            continue
        if incident.state is IncidentState.OPEN and incident.attempts:
            because = f"the {incident.kind} incident tries again to replace version {finding.version}"
            return Assignment(filing=Filing.ATTACH, incident=incident.id, because=because)
        if incident.state is IncidentState.REMEDYING and incident.remedy in (Remedy.RETRAIN, Remedy.ROLLBACK):
            because = f"the {incident.kind} incident's {incident.remedy} already replaces version {finding.version}"
            return Assignment(filing=Filing.ATTACH, incident=incident.id, because=because)
    return Assignment(filing=Filing.OPEN, incident=None, because=f"no open {finding.kind} incident")


@dataclass(frozen=True, slots=True, kw_only=True)
class DataBreak:
    """A column whose feed is broken rather than changed."""

    column: str
    because: str


def data_breaks(
    null_rate_changes: dict[str, float], *, missing: Sequence[str] = (), retyped: Sequence[str] = ()
) -> tuple[DataBreak, ...]:
    """Columns that must not be learned from: gone, of another type, or with a jump of nulls (`NULL_RATE_JUMP`)."""
    found = [DataBreak(column=name, because=f"{name} is missing") for name in sorted(missing)]
    found += [DataBreak(column=name, because=f"{name} changed its type") for name in sorted(retyped)]
    for name, change in sorted(null_rate_changes.items()):
        if change >= NULL_RATE_JUMP:
            found.append(DataBreak(column=name, because=f"{name} has {change:+.0%} nulls"))
    return tuple(found)


@dataclass(frozen=True, slots=True, kw_only=True)
class RecentPromotion:
    """The last promotion: when, and how the present version compares in pairs with the one it replaced.

    `against_previous` is `judge_paired(present against previous, margin=0)`: failed means the previous one is surely
    better. `previous` is None where nothing can be rolled back to.
    """

    promoted_at: datetime
    previous: int | None
    against_previous: Verdict | None


class Action(StrEnum):
    """What happens with an open incident now."""

    START = "start"  # carry the remedy out
    WAIT = "wait"  # ask again at `until`, or when more is known
    ASK = "ask"  # a person decides


@dataclass(frozen=True, slots=True, kw_only=True)
class Triage:
    """One action with its reason; `remedy` is what is carried out, waited for or proposed."""

    action: Action
    remedy: Remedy
    because: str
    until: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TriageFacts:
    """What triage may know about an incident, all observed before.

    `monitor_retrains`: the monitor stands in `retrain.on`. `labels_new`: matured labels later than the data the present
    version was trained on. `regret`: the challenger monitor's last verdict on this version, None if never measured.
    `frozen`: why nothing may be released now; it never stops a rollback.
    """

    now: datetime
    incident: Incident
    mode: RetrainMode
    monitor_retrains: bool
    cooldown: timedelta
    retrained_at: datetime | None
    labels_new: int
    labels_needed: int
    breaks: tuple[DataBreak, ...] = ()
    promotion: RecentPromotion | None = None
    rollback_window: timedelta = timedelta(0)
    regret: Verdict | None = None
    frozen: str | None = None


def triage(facts: TriageFacts) -> Triage:
    """Choose the remedy: nothing on broken data, rollback of a bad promotion, acceptance of harmless drift, else retrain."""
    if facts.breaks:
        causes = "; ".join(broken.because for broken in facts.breaks)
        because = f"bad data, do not retrain: {causes}"
        return Triage(action=Action.ASK, remedy=Remedy.NONE, because=because)
    if rollback := _rollback(facts):
        return rollback
    if facts.incident.kind is IncidentKind.RELEASE:
        return Triage(action=Action.ASK, remedy=Remedy.NONE, because="a release failed; its record says why")
    if facts.incident.kind is IncidentKind.DRIFT and facts.regret and facts.regret.outcome is Outcome.SUCCESSFUL:
        because = f"inputs changed, but a fresh version would do no better ({facts.regret.because})"
        return Triage(action=Action.START, remedy=Remedy.ACCEPT, because=because)
    if facts.mode is RetrainMode.OFF or not facts.monitor_retrains:
        why = "retraining is off" if facts.mode is RetrainMode.OFF else "this monitor is not among retrain.on"
        return Triage(action=Action.ASK, remedy=Remedy.NONE, because=f"{why}; a person decides")
    return _retrain(facts)


def _rollback(facts: TriageFacts) -> Triage | None:
    promotion = facts.promotion
    if promotion is None or promotion.previous is None or promotion.against_previous is None:
        return None
    recent = facts.incident.detected_at - promotion.promoted_at <= facts.rollback_window
    after = facts.incident.detected_at >= promotion.promoted_at
    if not (recent and after and promotion.against_previous.outcome is Outcome.FAILED):
        return None
    because = (
        f"version {facts.incident.version} was promoted on {promotion.promoted_at:%Y-%m-%d} and version "
        f"{promotion.previous} is better: {promotion.against_previous.because}"
    )
    return Triage(action=Action.START, remedy=Remedy.ROLLBACK, because=because)


def _retrain(facts: TriageFacts) -> Triage:
    if facts.incident.attempts >= ATTEMPTS_MAX:
        because = f"{facts.incident.attempts} remedies did not help, a person must look"
        return Triage(action=Action.ASK, remedy=Remedy.NONE, because=because)
    if facts.retrained_at is not None and facts.now < facts.retrained_at + facts.cooldown:
        until = facts.retrained_at + facts.cooldown
        because = f"trained on {facts.retrained_at:%Y-%m-%d}, cooldown until {until:%Y-%m-%d}"
        return Triage(action=Action.WAIT, remedy=Remedy.RETRAIN, because=because, until=until)
    if facts.labels_new < facts.labels_needed:
        because = f"{facts.labels_new} matured labels since the last training data, need {facts.labels_needed}"
        return Triage(action=Action.WAIT, remedy=Remedy.RETRAIN, because=because)
    evidence = f"{facts.labels_new} matured labels are new"
    if facts.frozen is not None:
        return Triage(action=Action.WAIT, remedy=Remedy.RETRAIN, because=f"{evidence}; frozen: {facts.frozen}")
    return Triage(action=Action.START, remedy=Remedy.RETRAIN, because=f"{evidence}, cooldown over")


class RecoveryAction(StrEnum):
    """What becomes of an incident after its remedy."""

    WAIT = "wait"
    CLOSE = "close"
    ESCALATE = "escalate"


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovery:
    """The action, and the paired comparison it rests on (harm of the new version against the replaced one)."""

    action: RecoveryAction
    verdict: Verdict

    @property
    def because(self) -> str:
        """The comparison's sentence."""
        return self.verdict.because


def judge_recovery(
    harms: BlockDifferences,
    *,
    alpha: float = 0.05,
    days_min: int = MATURED_DAYS_MIN,
    days_max: int = RECOVERY_DAYS_MAX,
    n_unit: NUnit = "days",
) -> Recovery:
    """Did the remedy help? New version against the replaced one, on the same requests, over matured blocks.

    `harms` is `paired_blocks(metric, new, replaced, ...)`. Escalates at once when the new version is surely worse. From
    `days_min` on it closes when the new version is better by the estimate, and says whether surely so; otherwise it
    waits until `days_max` and escalates then.
    """
    name, n = harms.metric, harms.n
    if n < 2:
        waiting = Verdict(
            outcome=Outcome.INCONCLUSIVE,
            because=f"{name}: {n} matured {n_unit} after the remedy, need {days_min}",
            metric=name,
            n=n,
            n_unit=n_unit,
            needed=days_min - n,
        )
        return Recovery(action=RecoveryAction.WAIT, verdict=waiting)
    interval, _ = harm_interval(
        np.asarray(harms.harms, dtype=np.float64), margin=0.0, alpha=alpha, counted=harms.counted
    )
    surely_worse, surely_better = interval.lower > 0.0, interval.upper < 0.0
    if surely_worse and n >= BLOCKS_MIN:
        action, outcome, finding = RecoveryAction.ESCALATE, Outcome.FAILED, "surely worse than the replaced version"
    elif n < days_min:
        action, outcome, finding = RecoveryAction.WAIT, Outcome.INCONCLUSIVE, f"{days_min} {n_unit} are needed"
    elif interval.estimate < 0.0:
        sure = "surely better" if surely_better else "better by the estimate, not surely,"
        action, outcome = RecoveryAction.CLOSE, Outcome.SUCCESSFUL
        finding = f"{sure} than the replaced version"
    elif n < days_max:
        action, outcome, finding = RecoveryAction.WAIT, Outcome.INCONCLUSIVE, f"not better yet, waiting to {days_max}"
    else:
        action, outcome, finding = RecoveryAction.ESCALATE, Outcome.FAILED, "not better than the replaced version"
    verdict = Verdict(
        outcome=outcome,
        because=f"{name}: harm {interval.estimate:+.4f} [{interval.lower:+.4f}, {interval.upper:+.4f}], {n} matured "
        f"{n_unit}, {harms.rows_total} rows; {finding}",
        metric=name,
        estimate=interval.estimate,
        lower=interval.lower if np.isfinite(interval.lower) else None,
        upper=interval.upper if np.isfinite(interval.upper) else None,
        n=n,
        n_unit=n_unit,
        margin=0.0,
        method=f"{interval.method}, each bound {1 - alpha:.1%}",
        needed=days_min - n if n < days_min else None,
    )
    return Recovery(action=action, verdict=verdict)

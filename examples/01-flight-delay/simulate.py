"""How would this policy have done? The decision loop of `model.yaml`, by the day, without a server.

A policy has a dozen numbers (margins, holdout, cooldown, …), and each trades speed for certainty. This script replays
the year with the very functions Steersman decides with, on the days' metrics instead of traffic, and prints what came
of it next to the first version left alone. (`ceiling.py` says how much there was to win.)

    python simulate.py                                        # the document's policy
    python simulate.py --set spec.holdout.last=14d            # another one
    python simulate.py --permute 1                            # a year without drift: nothing should happen

Each midnight (UTC) it knows exactly the labels that had arrived by then, so a day counts as evidence on the third
midnight after it. Where the real loop has more to go through (requests, errors, crashes), this one is the optimistic
sketch.
"""

import argparse
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from flights import FEATURES, prepare
from year import FIRST, LAST, MONTHS, Version, Year

from steersman.client.documents import load_yaml
from steersman.decide import triaging
from steersman.decide.gating import GateResult, HoldoutScores, NotApplicable, gate_max_drop, gate_paired
from steersman.decide.judging import SettlementAction, judge_paired, settle_inconclusive
from steersman.domain import spec
from steersman.domain.documents import parse_document
from steersman.domain.verdicts import Outcome, Verdict
from steersman.stats.drift import Calibration, Detector, calibrate, compare, conformal_p, updated
from steersman.stats.performance import BlockDifferences
from steersman.stats.profiles import Profile, profile_numeric

REFERENCE_DAYS = 60
"""Days of training data that say what inputs usually look like, as in the real loop."""

REFERENCE_WINDOWS = 14
"""A version's first matured days that say how it usually does, as in the real loop."""

Policy = spec.Model


@dataclass(kw_only=True)
class Release:
    """One version on its way: shadow, canary, then the bake after its promotion."""

    version: Version
    opened: int
    phase: str = "shadow"
    since: int = 0
    replaced: Version | None = None
    closed: int | None = None
    completion: str = ""
    because: str = ""


@dataclass(kw_only=True)
class Incident:
    kind: str
    detected: int
    state: str = "open"
    because: str = ""
    attempts: int = 0
    resolved: int | None = None
    remedy: str = ""
    release: Release | None = None


@dataclass(kw_only=True)
class Watch:
    """What the monitors remember about the version that answers."""

    version: Version
    since: int
    calibrations: dict[str, Calibration]
    drift: Detector = field(default_factory=Detector)
    performance: Detector = field(default_factory=Detector)
    filed: dict[str, Incident] = field(default_factory=dict)


def blocks(gate: GateResult) -> bool:
    return not isinstance(gate.answer, NotApplicable) and gate.answer.outcome is not Outcome.SUCCESSFUL


class Loop:
    """The year under one policy. `calendar_days` replaces the monitors: retrain that often, whatever they would say."""

    def __init__(self, year: Year, policy: Policy, *, calendar_days: int | None = None) -> None:
        self.year, self.policy, self.calendar_days = year, policy, calendar_days
        self.horizon = _days(policy.spec.ground_truth.horizon if policy.spec.ground_truth else timedelta())
        self.steps = _steps(policy)
        self.monitors = {type(monitor): monitor for monitor in policy.spec.monitors}
        self.profiles = _profiles(year) if calendar_days is None else {}
        self.canary = np.array([_bucket(name) < self.steps.weight for name in year.flight_id])
        first = year.train(FIRST)
        self.live, self.scores = first, first.scores.copy()
        self.watch = self._watch(first, FIRST)
        self.releases: list[Release] = []
        self.incidents: list[Incident] = []
        self.trained: list[int] = []
        self.retrained: list[int] = []
        self.challenger: tuple[Version, int] | None = None

    def run(self) -> "Loop":
        for now in range(FIRST + 1, LAST + 1):
            self._advance(now)
            if self.calendar_days is None:
                for kind, because in self._findings(now):
                    self._file(kind, because, now)
            elif now >= max([FIRST, *self.retrained]) + self.calendar_days and not self._open_incidents():
                self.incidents.append(Incident(kind="calendar", detected=now))
            for incident in self._open_incidents():
                self._tend(incident, now)
            self._refresh_challenger(now)
        return self

    # --- releases

    def _advance(self, now: int) -> None:
        for release in [r for r in self.releases if not r.completion]:
            {"shadow": self._shadow, "canary": self._canary, "bake": self._bake}[release.phase](release, now)

    def _shadow(self, release: Release, now: int) -> None:
        step = self.steps.analysis
        verdict = self._paired(release.version, self.live, release.opened, now, step.margin, step.blocks_min)
        outcome, because = verdict.outcome, verdict.because
        if outcome is Outcome.INCONCLUSIVE:
            settled = settle_inconclusive(
                verdict,
                policy=step.when_inconclusive,
                tier=self.policy.spec.tier,
                elapsed=timedelta(days=now - release.opened),
                max_duration=step.duration_max,
                blocks_min=step.blocks_min,
            )
            if settled.action is SettlementAction.WAIT:
                return
            outcome = Outcome.SUCCESSFUL if settled.action is SettlementAction.PROMOTE else Outcome.FAILED
            because = settled.because
        if outcome is Outcome.FAILED:
            _end(release, "Aborted", because, now)
            return
        release.phase, release.since, release.because = "canary", now, because
        self._answer(release.version, now, self.canary)

    def _canary(self, release: Release, now: int) -> None:
        if now < release.since + self.steps.pause_days:
            return
        release.phase, release.since, release.replaced = "bake", now, self.live
        self._promote(release.version, now)

    def _bake(self, release: Release, now: int) -> None:
        assert release.replaced is not None
        step = self.steps.bake
        verdict = self._paired(release.version, release.replaced, release.since, now, step.margin, step.blocks_min)
        if verdict.outcome is Outcome.FAILED:
            _end(release, "RolledBack", verdict.because, now)
            self._promote(release.replaced, now)
        elif now >= release.since + _days(step.duration) + self.horizon:
            _end(release, "Promoted", verdict.because, now)

    def _promote(self, version: Version, now: int) -> None:
        self.live, self.challenger = version, None
        self.watch = self._watch(version, now)
        self._answer(version, now, np.ones(len(self.scores), dtype=bool))

    def _answer(self, version: Version, now: int, who: Any) -> None:
        rows = who & (self.year.predicted_at >= now)
        self.scores[rows] = version.scores[rows]

    def _paired(
        self, version: Version, reference: Version, since: int, now: int, margin: float, blocks_min: int
    ) -> Verdict:
        harms = self._harms(version, reference, since, now).harms
        return judge_paired(harms, margin=margin, metric="roc_auc", blocks_min=blocks_min)

    def _harms(self, version: Version, reference: Version, since: int, now: int) -> BlockDifferences:
        """Harm of `version` by day, from `since` to the last day whose labels are all there."""
        days = np.arange(since, max(since, int(now - self.horizon)))
        of, by = version.daily("roc_auc")[days], reference.daily("roc_auc")[days]
        kept = np.isfinite(of) & np.isfinite(by)
        days, of, by = days[kept], of[kept], by[kept]
        return BlockDifferences(
            metric="roc_auc",
            blocks=tuple(str(day) for day in days),
            harms=tuple(by - of),
            candidate=tuple(of),
            reference=tuple(by),
            rows=tuple(self.year.rows_of(int(day)) for day in days),
            skipped=(),
        )

    # --- monitors

    def _watch(self, version: Version, now: int) -> Watch:
        last = int(version.trained_until)
        days = range(max(0, last - REFERENCE_DAYS), last)
        calibrations = {name: calibrate([profiles[day] for day in days]) for name, profiles in self.profiles.items()}
        return Watch(version=version, since=now, calibrations=calibrations)

    def _findings(self, now: int) -> Iterator[tuple[str, str]]:
        """What each monitor reports about the version that answers; what an incident tends already is no news."""
        readings = {
            "drift": self._drift(now),
            "performance": self._performance(now),
            "challenger": self._regret(now),
        }
        for kind, verdict in readings.items():
            if verdict is not None and verdict.outcome is not Outcome.FAILED:
                self.watch.filed.pop(kind, None)
            elif verdict is not None and not self._is_tended(kind):
                yield kind, verdict.because

    def _is_tended(self, kind: str) -> bool:
        incident = self.watch.filed.get(kind)
        return incident is not None and (incident.state != "closed" or incident.remedy == "accept")

    def _drift(self, now: int) -> Verdict | None:
        monitor, watch = self.monitors.get(spec.DriftMonitor), self.watch
        if not isinstance(monitor, spec.DriftMonitor) or now <= watch.since:
            return None
        p_values = {}
        for name, calibration in watch.calibrations.items():
            score = compare(calibration.reference, self.profiles[name][now - 1]).score
            if np.isfinite(score):
                p_values[name] = calibration.p_value(score)
        watch.drift = updated(watch.drift, p_values)
        limit = monitor.false_alarm_every / monitor.window
        return triaging.judge_drift(
            watch.drift, windows_between_false_alarms=limit, open_finding="drift" in watch.filed
        )

    def _performance(self, now: int) -> Verdict | None:
        monitor, watch = self.monitors.get(spec.PerformanceMonitor), self.watch
        matured = int(now - self.horizon) - 1
        if not isinstance(monitor, spec.PerformanceMonitor) or matured < watch.since + REFERENCE_WINDOWS:
            return None
        values = watch.version.daily(monitor.metric)
        usual = values[watch.since : watch.since + REFERENCE_WINDOWS]
        p = conformal_p(float(values[matured]), sorted(usual))
        watch.performance = updated(watch.performance, {monitor.metric: p})
        return triaging.judge_realised(
            watch.performance,
            metric=monitor.metric,
            latest=float(values[matured]),
            usual=float(np.mean(usual)),
            windows_between_false_alarms=monitor.false_alarm_every / monitor.window,
            open_finding="performance" in watch.filed,
        )

    def _regret(self, now: int) -> Verdict | None:
        monitor = self.monitors.get(spec.ChallengerMonitor)
        if not isinstance(monitor, spec.ChallengerMonitor) or self.challenger is None:
            return None
        version, since = self.challenger
        regret = self._harms(self.live, version, since, now)
        return triaging.judge_challenger(
            regret, margin=monitor.margin, alpha=monitor.alpha, blocks_min=monitor.blocks_min
        )

    def _refresh_challenger(self, now: int) -> None:
        monitor = self.monitors.get(spec.ChallengerMonitor)
        on_its_way = any(r.phase in ("shadow", "canary") and not r.completion for r in self.releases)
        if not isinstance(monitor, spec.ChallengerMonitor) or on_its_way or self.calendar_days is not None:
            return
        if now >= max([FIRST, *self.trained]) + _days(monitor.refresh):
            self.trained.append(now)
            self.challenger = (self.year.train(now), now)

    # --- incidents

    def _open_incidents(self) -> list[Incident]:
        return [incident for incident in self.incidents if incident.state != "closed"]

    def _file(self, kind: str, because: str, now: int) -> None:
        """A finding joins an open incident of its kind, or one whose remedy is under way, else opens one."""
        known = self._open_incidents()
        same = [i for i in known if i.kind == kind] or [i for i in known if i.state == "remedying"]
        if not same:
            same = [Incident(kind=kind, detected=now, because=because)]
            self.incidents += same
        self.watch.filed[kind] = same[0]

    def _tend(self, incident: Incident, now: int) -> None:
        if incident.state == "open":
            self._triage(incident, now)
        elif incident.state == "remedying":
            self._follow(incident, now)
        else:
            self._recover(incident, now)

    def _triage(self, incident: Incident, now: int) -> None:
        regret = self._regret(now)
        if incident.kind == "drift" and regret is not None and regret.outcome is Outcome.SUCCESSFUL:
            self._close(incident, now, "accept", regret.because)
            return
        busy = any(other.state == "remedying" for other in self._open_incidents())
        cooldown = _days(self.policy.spec.retrain.cooldown)
        if busy or incident.attempts >= triaging.ATTEMPTS_MAX or now < max([-99, *self.retrained]) + cooldown:
            return
        self.trained.append(now)
        self.retrained.append(now)
        incident.state, incident.remedy = "remedying", "retrain"
        incident.release = self._release(now)

    def _release(self, now: int) -> Release:
        """Train a candidate without the holdout, and open its release if the gates let it pass."""
        holdout = _days(self.policy.spec.holdout.last) if self.policy.spec.holdout else 0.0
        version = self.year.train(now, holdout=holdout + self.horizon)
        release = Release(version=version, opened=now)
        blocking = [gate for gate in self.gates(version, now) if blocks(gate)]
        if blocking:
            _end(release, "Aborted", "; ".join(gate.answer.because for gate in blocking), now)
        self.releases.append(release)
        return release

    def gates(self, version: Version, now: int) -> list[GateResult]:
        """The document's gates on the holdout: the labelled flights after those the version learnt from."""
        at = self.year.predicted_at
        rows = (at >= version.trained_until) & (at < now - self.horizon)
        scores = HoldoutScores(
            labels=self.year.labels[rows],
            candidate=version.scores[rows],
            production=self.live.scores[rows],
            blocks=[str(int(moment)) for moment in at[rows]],
        )
        results = []
        for gate in self.policy.spec.gates:
            if isinstance(gate, spec.PairedGate):
                results.append(gate_paired(scores, metric=gate.metric, margin=gate.margin, alpha=gate.alpha))
            elif isinstance(gate, spec.DropGate):
                results.append(gate_max_drop(scores, metric=gate.metric, max_drop=gate.max_drop))
        return results

    def _follow(self, incident: Incident, now: int) -> None:
        release = incident.release
        assert release is not None
        if release.phase == "bake":
            incident.state = "recovering"
        elif release.completion:
            self._reopen(incident, release.because)

    def _recover(self, incident: Incident, now: int) -> None:
        release = incident.release
        assert release is not None
        assert release.replaced is not None
        if release.completion == "RolledBack":
            self._reopen(incident, release.because)
            return
        if self.live is not release.version:
            self._close(incident, now, "retrain", "a later release replaced the remedy's version")
            return
        recovery = triaging.judge_recovery(self._harms(release.version, release.replaced, release.since, now))
        if recovery.action is triaging.RecoveryAction.CLOSE:
            self._close(incident, now, "retrain", recovery.because)
        elif recovery.action is triaging.RecoveryAction.ESCALATE:
            self._reopen(incident, recovery.because)

    def _reopen(self, incident: Incident, because: str) -> None:
        incident.state, incident.attempts, incident.because = "open", incident.attempts + 1, because
        incident.release = None

    def _close(self, incident: Incident, now: int, remedy: str, because: str) -> None:
        incident.state, incident.resolved, incident.remedy, incident.because = "closed", now, remedy, because


@dataclass(frozen=True, kw_only=True)
class Steps:
    """The few numbers of the release's steps that matter without traffic."""

    analysis: spec.Analysis
    bake: spec.Bake
    weight: int
    pause_days: float


def _steps(policy: Policy) -> Steps:
    steps = policy.spec.environments["production"].strategy.steps
    return Steps(
        analysis=next(step for step in steps if isinstance(step, spec.Analysis)),
        bake=next(step for step in steps if isinstance(step, spec.Bake)),
        weight=next(step.weight_pct for step in steps if isinstance(step, spec.SetWeight)),
        pause_days=sum(_days(step.duration) for step in steps if isinstance(step, spec.Pause) and step.duration),
    )


def _end(release: Release, completion: str, because: str, now: int) -> None:
    release.completion, release.because, release.closed = completion, because, now


def _days(duration: timedelta) -> float:
    return duration / timedelta(days=1)


def _bucket(name: str) -> int:
    """0..99 by a hash of the flight's identity, as a sticky split would."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=4).digest()) % 100


def _profiles(year: Year) -> dict[str, list[Profile]]:
    columns = enumerate(FEATURES)
    return {name: [profile_numeric(year.features[year.day(d), i]) for d in range(LAST)] for i, name in columns}


def read_policy(path: Path, changes: Sequence[str] = ()) -> Policy:
    """The document, with changes such as `spec.holdout.last=14d` (a number in the path is a place in a list)."""
    plain = load_yaml(path.read_text(), source=path.name)[0]
    for change in changes:
        where, value = change.split("=", 1)
        *parents, last = where.split(".")
        at = plain
        for key in parents:
            at = at[int(key)] if isinstance(at, list) else at[key]
        at[int(last) if isinstance(at, list) else last] = load_yaml(value)[0]
    document = parse_document(plain, source=path.name)
    assert isinstance(document, spec.Model)
    return document


def describe(loop: Loop) -> Iterator[str]:
    """Releases and incidents, a line each."""

    def day(number: int | None) -> str:
        return "…" if number is None else f"{date(2013, 1, 1) + timedelta(days=number):%d %b}"

    for incident in loop.incidents:
        yield f"{day(incident.detected)} to {day(incident.resolved)}  {incident.kind}, {incident.remedy}: {incident.because}"
    for release in loop.releases:
        yield f"{day(release.opened)} to {day(release.closed)}  {release.completion or release.phase}: {release.because}"


def main() -> None:
    parser = argparse.ArgumentParser(description="Replay the year's decisions under the document's policy.")
    parser.add_argument("--set", action="append", default=[], metavar="PATH=VALUE", help="change the document")
    parser.add_argument("--sample", type=float, default=1.0, metavar="SHARE", help="keep this share of whole flights")
    parser.add_argument("--permute", type=int, metavar="SEED", help="permute the rows in time: a year without drift")
    parser.add_argument(
        "--calendar", type=int, metavar="DAYS", help="retrain this often instead of when monitors say so"
    )
    arguments = parser.parse_args()
    year = Year.of(prepare(share=arguments.sample, permute=arguments.permute))
    policy = read_policy(Path(__file__).with_name("model.yaml"), arguments.set)
    loop = Loop(year, policy, calendar_days=arguments.calendar).run()
    print("\n".join(describe(loop)))
    of_loop = year.by_month("roc_auc", loop.scores)
    alone = year.by_month("roc_auc", year.train(FIRST).scores)
    print("\nmonth    AUC loop  alone")
    for month in MONTHS:
        print(f"{month}     {of_loop[month]:.3f}  {alone[month]:.3f}")
    print(f"{len(loop.incidents)} incidents, {len(loop.releases)} releases, {len(loop.trained)} trainings")


if __name__ == "__main__":
    main()

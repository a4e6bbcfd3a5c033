"""Reads a model's monitors: folds the windows and blocks that are new into each monitor's running state.

A monitor's state belongs to one version: a promotion starts it afresh, because what is usual has changed. The
reference of drift are the days of the data the version was trained on; that of performance are its own first matured
windows, because what a version achieves on days it has not seen is only known from such days.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import msgspec
import numpy as np

from steersman.decide import triaging
from steersman.domain import spec
from steersman.domain.incident import IncidentKind
from steersman.domain.metrics import harm
from steersman.domain.release import Release
from steersman.domain.spec.watching import REFERENCE_WINDOWS
from steersman.domain.verdicts import Outcome, Verdict
from steersman.domain.version import Version
from steersman.loop.datasets import dataset_source
from steersman.loop.measuring import challenger_pairing, profile_of
from steersman.loop.observer import differences
from steersman.loop.world import Documents, World
from steersman.stats.drift import Calibration, Detector, calibrate, compare, conformal_p, updated
from steersman.stats.performance import BlockDifferences
from steersman.stats.profiles import from_bytes
from steersman.store.records import Window
from steersman.store.transaction import Transaction

REFERENCE_DAYS_MAX = 60
"""Most days of training data a drift calibration rests on; more would average the seasons away."""


class MonitorState(msgspec.Struct, frozen=True, kw_only=True):
    """What a monitor remembers about one version. `until` is the start of the newest window folded in."""

    digest: str
    until: datetime | None = None
    detector: Detector = Detector()
    null_changes: dict[str, float] = {}
    open: bool = False
    outcome: str = ""
    because: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One monitor's verdict now, and the state to keep."""

    monitor: str
    kind: IncidentKind
    verdict: Verdict
    began_at: datetime
    state: MonitorState


def read_monitors(world: World, documents: Documents, model: spec.Model, serving: Release) -> Iterator[Reading]:
    """A reading of every monitor that has something new to say about the version that answers."""
    for monitor in model.spec.monitors:
        with world.store.read() as tx:
            state = _state(tx, serving, monitor.name)
            match monitor:
                case spec.DriftMonitor():
                    reading = _drift(world, tx, model, serving, monitor, state)
                case spec.PerformanceMonitor():
                    reading = _performance(tx, serving, monitor, state)
                case spec.ChallengerMonitor():
                    reading = _challenger(world, tx, serving, monitor, state)
        if reading is not None:
            yield reading


def _state(tx: Transaction, serving: Release, monitor: str) -> MonitorState:
    known = tx.monitor_state(serving.workspace, serving.model, serving.environment, monitor, MonitorState)
    if known is None or known.digest != serving.digest:
        return MonitorState(digest=serving.digest)
    return known


def _new_windows(tx: Transaction, serving: Release, state: MonitorState) -> list[Window]:
    windows = tx.evidence.windows(serving.workspace, serving.environment, serving.model, digest=serving.digest)
    since = serving.promoted_at
    return [
        w for w in windows if (state.until is None or w.start > state.until) and (since is None or w.start >= since)
    ]


def _reading(monitor: str, kind: IncidentKind, verdict: Verdict, began_at: datetime, state: MonitorState) -> Reading:
    told = msgspec.structs.replace(state, outcome=str(verdict.outcome), because=verdict.because)
    return Reading(monitor=monitor, kind=kind, verdict=verdict, began_at=began_at, state=told)


# --- drift


def _drift(
    world: World, tx: Transaction, model: spec.Model, serving: Release, monitor: spec.DriftMonitor, state: MonitorState
) -> Reading | None:
    windows = _new_windows(tx, serving, state)
    if not windows:
        return None
    version = tx.version(serving.workspace, serving.model, serving.version)
    assert version is not None
    calibrations = _calibrations(world, model, version, monitor)
    detector, nulls = state.detector, state.null_changes
    for window in windows:
        stored = tx.evidence.profiles(
            serving.workspace, serving.environment, serving.model, serving.digest, window.start
        )
        profiles = msgspec.msgpack.decode(stored or b"\x80", type=dict[str, bytes])
        p_values: dict[str, float] = {}
        nulls = {}
        for name, calibration in calibrations.items():
            if name not in profiles or not window.rows:
                continue
            distances = compare(calibration.reference, from_bytes(profiles[name]))
            nulls[name] = distances.null_rate_change
            if not np.isnan(distances.score):
                p_values[name] = calibration.p_value(distances.score)
        detector = updated(detector, p_values)
    state = msgspec.structs.replace(state, until=windows[-1].start, detector=detector, null_changes=nulls)
    verdict = triaging.judge_drift(
        detector,
        windows_between_false_alarms=_windows_between(monitor.false_alarm_every, monitor.window),
        open_finding=state.open,
    )
    began = windows[-1].end - detector.onset() * monitor.window
    return _reading(monitor.name, IncidentKind.DRIFT, verdict, began, state)


def _windows_between(every: timedelta, window: timedelta) -> float:
    return max(every / window, 2.0)


_calibration_cache: dict[tuple[str, str, tuple[str, ...]], dict[str, Calibration]] = {}
"""By database-independent identity (digest, monitor, columns): a pure function of immutable bytes, so it may be kept."""


def _calibrations(
    world: World, model: spec.Model, version: Version, monitor: spec.DriftMonitor
) -> dict[str, Calibration]:
    """What is usual for each watched column: the days of the data the version was trained on."""
    names = monitor.columns or tuple(column.name for column in version.signature)
    key = (version.digest, monitor.name, names)
    if key in _calibration_cache:
        return _calibration_cache[key]
    if model.spec.train is None:
        return {}
    source = dataset_source(world, model, model.spec.train.data.dataset)
    path = world.jobs / (version.training or "") / "data.parquet"
    if version.training is None or not path.exists():
        folder = world.jobs / f"reference-{version.digest.removeprefix('sha256:')[:16]}"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "data.parquet"
        if not path.exists():
            world.datasets.snapshot(
                source, known_until=version.registered_at, time_from=None, time_until=None, into=path
            )
    rows = world.datasets.read(path, [source.time_column, *names])
    calibrations = _calibrate(rows, source.time_column, names, monitor.window)
    _calibration_cache.clear()
    _calibration_cache[key] = calibrations
    return calibrations


def _calibrate(rows: Any, time_column: str, names: Sequence[str], window: timedelta) -> dict[str, Calibration]:
    times = rows[time_column].astype("datetime64[us]")
    if not len(times):
        return {}
    width = np.timedelta64(window // timedelta(microseconds=1), "us")
    index = (times - times.min().astype("datetime64[D]").astype("datetime64[us]")) // width
    last = sorted(set(index.tolist()))[-REFERENCE_DAYS_MAX:]
    calibrations = {}
    for name in names:
        profiles = [profile_of(rows[name][index == day]) for day in last]
        try:
            calibrations[name] = calibrate(profiles)
        except ValueError:
            continue  # too few reference windows with enough rows: the column is not compared, and says nothing
    return calibrations


# --- performance


def _performance(
    tx: Transaction, serving: Release, monitor: spec.PerformanceMonitor, state: MonitorState
) -> Reading | None:
    windows = [
        w
        for w in tx.evidence.windows(serving.workspace, serving.environment, serving.model, digest=serving.digest)
        if monitor.metric in w.metrics and (serving.promoted_at is None or w.start >= serving.promoted_at)
    ]
    reference, later = windows[:REFERENCE_WINDOWS], windows[REFERENCE_WINDOWS:]
    new = [w for w in later if state.until is None or w.start > state.until]
    if len(reference) < REFERENCE_WINDOWS or not new:
        return None
    usual = float(np.mean([w.metrics[monitor.metric] for w in reference]))
    scores = [harm(monitor.metric, w.metrics[monitor.metric] - usual) for w in reference]
    detector = state.detector
    for window in new:
        p = conformal_p(harm(monitor.metric, window.metrics[monitor.metric] - usual), scores)
        detector = updated(detector, {monitor.metric: p})
    state = msgspec.structs.replace(state, until=new[-1].start, detector=detector)
    verdict = triaging.judge_realised(
        detector,
        metric=monitor.metric,
        latest=new[-1].metrics[monitor.metric],
        usual=usual,
        windows_between_false_alarms=_windows_between(monitor.false_alarm_every, monitor.window),
        open_finding=state.open,
    )
    began = new[-1].end - detector.onset() * monitor.window
    return _reading(monitor.name, IncidentKind.PERFORMANCE, verdict, began, state)


# --- challenger


def _challenger(
    world: World, tx: Transaction, serving: Release, monitor: spec.ChallengerMonitor, state: MonitorState
) -> Reading | None:
    regret = _regret(tx, serving, monitor)
    if regret is None or not regret.n:
        return None
    newest = datetime.fromisoformat(f"{regret.blocks[-1]}T00:00:00+00:00")
    if state.until is not None and newest <= state.until:
        return None
    verdict = triaging.judge_challenger(
        regret, margin=monitor.margin, alpha=monitor.alpha, blocks_min=monitor.blocks_min
    )
    began = datetime.fromisoformat(f"{regret.blocks[0]}T00:00:00+00:00")
    state = msgspec.structs.replace(state, until=newest)
    return _reading(monitor.name, IncidentKind.CHALLENGER, verdict, began, state)


def _regret(tx: Transaction, serving: Release, monitor: spec.ChallengerMonitor) -> BlockDifferences | None:
    challenger = tx.challenger(serving.workspace, serving.model, serving.environment)
    if challenger is None:
        return None
    pairing = challenger_pairing(serving, challenger.digest, challenger.since, monitor)
    blocks = tx.evidence.pair_blocks(
        pairing.workspace,
        pairing.environment,
        pairing.model,
        reference=pairing.reference,
        compared=pairing.compared,
        metric=monitor.metric,
        since=pairing.since,
    )
    return differences(monitor.metric, blocks)


def regret_of(tx: Transaction, model: spec.Model, serving: Release) -> Verdict | None:
    """The challenger monitor's present verdict on the version that answers, None if there is none."""
    monitor = next((m for m in model.spec.monitors if isinstance(m, spec.ChallengerMonitor)), None)
    regret = _regret(tx, serving, monitor) if monitor is not None else None
    if monitor is None or regret is None or not regret.n:
        return None
    verdict = triaging.judge_challenger(
        regret, margin=monitor.margin, alpha=monitor.alpha, blocks_min=monitor.blocks_min
    )
    return None if verdict.outcome is Outcome.INCONCLUSIVE else verdict

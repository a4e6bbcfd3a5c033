"""Turns closed windows of the inference log into evidence: pairs, guardrail readings, window metrics and profiles.

Each window is read once when it closes (its inputs) and once when its labels have had their horizon (its performance);
monitors and pages only read what was kept. A look never re-measures what is there, so looking again is cheap.
"""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

import msgspec
import numpy as np

from steersman.decide.routing import live, live_at
from steersman.domain import spec
from steersman.domain.incident import IncidentState
from steersman.domain.release import Release
from steersman.loop.datasets import horizon
from steersman.loop.gathering import present_pairing
from steersman.loop.guarding import Guarding
from steersman.loop.isolation import every
from steersman.loop.observer import Mark, Pairing, blocks_between, observe_pairing
from steersman.loop.world import Documents, World
from steersman.ports import AnsweredRows, Scope, Span
from steersman.stats.performance import METRICS, evaluate
from steersman.stats.profiles import Profile, profile_categorical, profile_numeric, to_bytes
from steersman.store.records import Window
from steersman.store.transaction import Transaction

WINDOW_DEFAULT = timedelta(days=1)


Measure = Callable[[spec.Model, Release, datetime, timedelta], None]
"""Measures one window of the version that was live in it."""


class Measuring:
    """Measures every model and environment of an installation."""

    def __init__(self, world: World, documents: Documents) -> None:
        self._world = world
        self._documents = documents
        self._guarding = Guarding(world, documents)

    def look(self) -> bool:
        """Measure what has become measurable; True if evidence was added."""
        with self._world.store.read() as tx:
            places = sorted({(r.workspace, r.model, r.environment) for r in tx.releases()})
        return every(places, self._look_at)

    def _look_at(self, place: tuple[str, str, str]) -> bool:
        with self._world.store.read() as tx:
            model = self._documents.model(tx, place[0], place[1])
            releases = tx.releases(*place)
            pairings = self._pairings(tx, model, releases)
        added = self._guarding.look(releases)
        for pairing in pairings:
            added = observe_pairing(self._world, pairing, horizon=horizon(model)) or added
        added = self._close_windows(model, releases) or added
        return self._mature_windows(model, releases) or added

    # --- pairs

    def _pairings(self, tx: Transaction, model: spec.Model, releases: Sequence[Release]) -> list[Pairing]:
        pairings = []
        for release in releases:
            if release.completion is None:
                document = self._documents.revision(tx, release.document)
                policy = document.spec.environments.get(release.environment, spec.EnvironmentPolicy())
                pairing = present_pairing(release, policy, document.spec.metrics)
                if pairing is not None:
                    pairings.append(pairing)
        serving = live(releases)
        if serving is None:
            return pairings
        open_incidents = tx.incidents(serving.workspace, serving.model, open_only=True)
        if any(i.release == serving.id and i.state is IncidentState.RECOVERING for i in open_incidents):
            # Recovery may take longer to show than the bake lasts, and a bake may judge no metric at all.
            recovery = recovery_pairing(model, serving)
            if recovery is not None and recovery not in pairings:
                pairings.append(recovery)
        challenger = tx.challenger(serving.workspace, serving.model, serving.environment)
        monitor = challenger_monitor(model)
        if challenger is not None and monitor is not None:
            pairings.append(challenger_pairing(serving, challenger.digest, challenger.since, monitor))
        return pairings

    # --- windows

    def _close_windows(self, model: spec.Model, releases: Sequence[Release]) -> bool:
        """Profile the inputs of windows that are over."""
        return self._windows(model, releases, "windows/closed", timedelta(), self._close)

    def _mature_windows(self, model: spec.Model, releases: Sequence[Release]) -> bool:
        """Measure the performance of windows whose labels have had their horizon."""
        return self._windows(model, releases, "windows/matured", horizon(model), self._mature)

    def _windows(
        self, model: spec.Model, releases: Sequence[Release], name: str, wait: timedelta, measure: Measure
    ) -> bool:
        promoted_at = min((r.promoted_at for r in releases if r.promoted_at is not None), default=None)
        if promoted_at is None:
            return False
        place = (releases[0].workspace, releases[0].model, releases[0].environment)
        with self._world.store.read() as tx:
            mark = tx.monitor_state(*place, name, Mark)
        length = window_of(model)
        since = promoted_at if mark is None else mark.until + length
        done = False
        for start in blocks_between(since, self._world.clock.now() - wait, length):
            serving = live_at(releases, start)
            if serving is not None:
                measure(model, serving, start, length)
            with self._world.store.write() as tx:
                tx.put_monitor_state(*place, name, Mark(until=start))
            done = True
        return done

    def _answered(self, release: Release, start: datetime, length: timedelta) -> AnsweredRows:
        scope = Scope(release.workspace, release.environment, release.model)
        span = Span(start, start + length)
        return self._world.log.answered(scope, span, as_of=self._world.clock.now(), digest=release.digest)

    def _close(self, model: spec.Model, release: Release, start: datetime, length: timedelta) -> None:
        rows = self._answered(release, start, length)
        profiles = {name: to_bytes(profile_of(values)) for name, values in rows.columns.items()}
        window = Window(
            workspace=release.workspace,
            environment=release.environment,
            model=release.model,
            digest=release.digest,
            version=release.version,
            start=start,
            end=start + length,
            rows=rows.rows,
        )
        with self._world.store.write() as tx:
            tx.evidence.put_window(window, msgspec.msgpack.encode(profiles))

    def _mature(self, model: spec.Model, release: Release, start: datetime, length: timedelta) -> None:
        rows = self._answered(release, start, length)
        labelled = ~np.isnan(rows.labels) & ~np.isnan(rows.scores)
        scores, labels = rows.scores[labelled], rows.labels[labelled]
        metrics = {}
        for name in metrics_of(model):
            one_class = METRICS[name].needs_both_classes and len(set(labels.tolist())) < 2
            if len(labels) and not one_class:
                metrics[name] = float(evaluate(name, scores, labels))
        with self._world.store.write() as tx:
            known = tx.evidence.window(release.workspace, release.environment, release.model, release.digest, start)
            if known is not None:
                tx.evidence.save_window(msgspec.structs.replace(known, labelled=len(labels), metrics=metrics))


def profile_of(values: object) -> Profile:
    """The profile of one column: numeric arrays as numbers, everything else as categories."""
    array = np.asarray(values)
    if array.dtype.kind in "fiub":
        return profile_numeric(array.astype(np.float64))
    return profile_categorical([None if value is None else str(value) for value in array.tolist()])


def window_of(model: spec.Model) -> timedelta:
    """Length of the model's windows: that of its first monitor which has one."""
    lengths = (m.window for m in model.spec.monitors if isinstance(m, spec.DriftMonitor | spec.PerformanceMonitor))
    return next(lengths, WINDOW_DEFAULT)


def metrics_of(model: spec.Model) -> list[str]:
    """Every performance metric the document names, each once, in a fixed order."""
    named = {m.metric for m in model.spec.monitors if not isinstance(m, spec.DriftMonitor)}
    named |= {g.metric for g in model.spec.gates if isinstance(g, spec.MetricGate)}
    return sorted(name for name in named if name in METRICS)


def challenger_monitor(model: spec.Model) -> spec.ChallengerMonitor | None:
    return next((m for m in model.spec.monitors if isinstance(m, spec.ChallengerMonitor)), None)


def recovery_pairing(model: spec.Model, release: Release) -> Pairing | None:
    """A remedy's version compared with the replaced one since its promotion, in the first metric of labels the bake judges."""
    if release.previous is None or release.promoted_at is None:
        return None
    policy = model.spec.environments.get(release.environment, spec.EnvironmentPolicy())
    bake = next((s for s in policy.strategy.steps if isinstance(s, spec.Bake) and s.metrics), None)
    judged = next((metric for metric in bake.metrics if metric in METRICS), "log_loss") if bake else "log_loss"
    return Pairing(
        workspace=release.workspace,
        environment=release.environment,
        model=release.model,
        reference=release.previous.digest,
        compared=release.digest,
        metrics=(judged,),
        block=bake.block if bake else timedelta(days=1),
        since=release.promoted_at,
    )


def challenger_pairing(serving: Release, challenger: str, since: datetime, monitor: spec.ChallengerMonitor) -> Pairing:
    """Production compared against its challenger: harm above 0 means production has fallen behind."""
    return Pairing(
        workspace=serving.workspace,
        environment=serving.environment,
        model=serving.model,
        reference=challenger,
        compared=serving.digest,
        metrics=(monitor.metric,),
        block=monitor.block,
        since=max(since, serving.promoted_at or since),
    )

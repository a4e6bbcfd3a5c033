"""What a document can say and this version does not do: refused with what to use instead, never ignored.

The words belong to the format, so that a document that uses them is answered with a sentence about *them* and not with
"unknown field". A field that is read and then forgotten would be a promise nobody keeps: privacy that is none, a limit
nobody applies. `docs/documents.md` lists the same refusals; a test holds the two together. Whoever carries one out takes
its rule out here.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

from steersman.domain.decoding import shown
from steersman.domain.durations import format_duration
from steersman.domain.errors import Problem
from steersman.domain.spec import (
    Capture,
    ChallengerMonitor,
    Dataset,
    Document,
    DropGate,
    Environment,
    EnvironmentPolicy,
    Mirror,
    Model,
    PairedGate,
    PerformanceMonitor,
    RetrainMode,
)
from steersman.domain.spec.watching import DriftMonitor

DAY = timedelta(days=1)

TARGETS = ("local",)
"""Where versions can run."""


def refusals(document: Document) -> Iterator[Problem]:
    """Everything in a decoded document that is understood and not carried out."""
    if isinstance(document, Environment):
        if document.spec.target not in TARGETS:
            yield _refused("spec", f"target {shown(document.spec.target)}", f"use {' or '.join(TARGETS)}")
    elif not isinstance(document, Dataset):
        yield from _running(document)
        yield from _gates(document)
        for name, policy in document.spec.environments.items():
            yield from _delivery(f"spec.environments.{name}", policy)
        yield from _watching(document)


def _refused(path: str, what: str, instead: str) -> Problem:
    return Problem(path=path, message=f"{what} is not carried out yet; {instead}")


def _running(model: Model) -> Iterator[Problem]:
    spec = model.spec
    if spec.serving.capture is Capture.OFF:
        yield _refused("spec.serving", "capture off", "every answered request is recorded: use async or durable")
    if spec.ground_truth is not None and spec.ground_truth.key not in ("event_id", spec.serving.sticky_by):
        instead = "labels join on the event id, or on the entity: leave key out, or make this column stickyBy too"
        yield _refused("spec.groundTruth", f"key {shown(spec.ground_truth.key)}", instead)
    if spec.train is None:
        return
    if spec.train.source.git is not None:
        yield _refused("spec.train.source", "git", "check the commit out and name its directory")
    if spec.train.data.until != "now":
        instead = "use now: what has matured when the training starts"
        yield _refused("spec.train.data", f"until {shown(spec.train.data.until)}", instead)


def _gates(model: Model) -> Iterator[Problem]:
    for index, gate in enumerate(model.spec.gates):
        path = f"spec.gates[{index}]"
        if isinstance(gate, PairedGate | DropGate) and gate.vs != "production":
            instead = "use production: the version the release would replace where it is released"
            yield _refused(path, f"vs {shown(gate.vs)}", instead)
        if isinstance(gate, PairedGate) and gate.block != DAY:
            yield _refused(path, f"block {format_duration(gate.block)} of a gate", "use 1d")


def _delivery(path: str, policy: EnvironmentPolicy) -> Iterator[Problem]:
    for index, step in enumerate(policy.strategy.steps):
        at = f"{path}.strategy.{policy.strategy.__struct_config__.tag}.steps[{index}]"
        if isinstance(step, Mirror) and step.max_duration is not None:
            instead = "give the analysis after it a maxDuration"
            yield _refused(f"{at}.mirror", "maxDuration of a mirror", instead)


def _watching(model: Model) -> Iterator[Problem]:
    monitors = model.spec.monitors
    windows = [monitor.window for monitor in monitors if isinstance(monitor, DriftMonitor | PerformanceMonitor)]
    challengers = 0
    for index, monitor in enumerate(monitors):
        path = f"spec.monitors[{index}]"
        if isinstance(monitor, ChallengerMonitor):
            challengers += 1
            if challengers > 1:
                yield _refused(path, "a second challenger", "a model has one: take this monitor out")
            continue
        if monitor.segments:
            yield _refused(path, "segments", "all rows are watched together; take it out")
        if monitor.window != windows[0]:
            instead = f"write {format_duration(windows[0])}, as the first monitor has it"
            yield _refused(path, "a window of another length than the other monitors'", instead)
    if model.spec.retrain.mode is RetrainMode.PROPOSE:
        instead = "use register, which trains and leaves the release to a person, or off"
        yield _refused("spec.retrain", "mode propose", instead)

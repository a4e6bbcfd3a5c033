"""The document `Model`: one governed asset, from where its versions come to what happens when it fails."""

from __future__ import annotations

from datetime import timedelta
from enum import StrEnum
from typing import Annotated

import msgspec

from steersman.domain.spec.delivery import BLOCKS_MIN_DEFAULT, EnvironmentPolicy, EvidenceUnit
from steersman.domain.spec.measuring import DeclaredMetric
from steersman.domain.spec.parts import Column, Duration, DurationOrZero, Metadata, Metric, Name, Part, Text
from steersman.domain.spec.watching import Incidents, Monitor, Retrain


class ModelType(StrEnum):
    """What one version is: model files, or prompt, model and tools (not yet carried out)."""

    PREDICTOR = "predictor"
    LLM_APP = "llm_app"


class Capture(StrEnum):
    """How an answered request reaches the inference log."""

    ASYNC = "async"
    """Written before the reply; survives the kill of any process, not a power cut."""
    DURABLE = "durable"
    """On disk before the reply; a full disk answers 503."""
    OFF = "off"
    """Not recorded. Refused in this version."""


class Versions(Part, frozen=True, kw_only=True):
    """Where versions come from: a registry of the installation, and the model's name there."""

    registry: Name
    name: Annotated[str, msgspec.Meta(min_length=1, max_length=250)]


class Batching(Part, frozen=True, kw_only=True):
    """Requests that arrive together are predicted together, where the model is quicker at many rows than at one."""

    max_rows: Annotated[int, msgspec.Meta(ge=2, le=10_000)] = 64
    """Rows of one batch at the most; a request is never split."""
    max_wait: DurationOrZero = timedelta(milliseconds=5)
    """Wall time the first request of a batch may wait for others; nothing waits while nobody else is calling."""


class Serving(Part, frozen=True, kw_only=True):
    """How versions run and answer."""

    replicas: Annotated[int, msgspec.Meta(ge=1, le=64)] = 1
    idempotent: bool = True
    """The same request may be asked twice: a failed replica's request is then repeated on another. A predictor's may."""
    sticky_by: Column | None = None
    """Input column that decides which variant answers; without it the event id does."""
    capture: Capture = Capture.ASYNC
    keep_warm: Annotated[int, msgspec.Meta(ge=0, le=4)] = 1
    """Previous versions kept running, whole, until the next promotion, so that a rollback takes seconds."""
    deadline: Duration = timedelta(seconds=5)
    """Wall time one request may take before the caller gets 504."""
    queue: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 256
    """Requests under way or waiting at one time in each router process; one more is answered 429."""
    threads: Annotated[int, msgspec.Meta(ge=1, le=64)] = 1
    """Numeric threads of each worker."""
    batching: Batching | None = None
    """Without it every request is predicted by itself."""
    memory_mb: Annotated[int, msgspec.Meta(ge=128, le=4_000_000)] | None = None
    """Resident memory of one replica; one that grows beyond it finishes what is under way and is started afresh."""


class InferenceLog(Part, frozen=True, kw_only=True):
    """What of requests and answers is kept, and how long. What is dropped or hashed never reaches a disk."""

    sampling: Annotated[float, msgspec.Meta(gt=0.0, le=1.0)] = 1.0
    """Share of events that are recorded, the same events for every variant."""
    drop: Annotated[tuple[Column, ...], msgspec.Meta(max_length=1000)] = ()
    """Input columns that are not recorded."""
    hash: Annotated[tuple[Column, ...], msgspec.Meta(max_length=1000)] = ()
    """Input columns of which only a keyed hash is recorded: equal values stay equal, nobody reads them back."""
    retention: Duration | None = None
    """Event time after which rows are deleted, files included; without it they are kept."""


class GroundTruth(Part, frozen=True, kw_only=True):
    """What turns out to be true, and when it is known."""

    column: Column
    key: Column = "event_id"
    """What labels join on: the event id, or the column that is `stickyBy` too, then with the time the label is about. Any
    other is refused in this version."""
    horizon: DurationOrZero
    """Event time after which a prediction counts as matured: its label has arrived or never will."""


class Source(Part, frozen=True, kw_only=True):
    """Code that trains: a directory, snapshotted by digest. (A commit of a repository is refused in this version.)"""

    directory: Annotated[str, msgspec.Meta(min_length=1, max_length=1000)] | None = None
    git: Annotated[str, msgspec.Meta(min_length=1, max_length=1000)] | None = None
    commit: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{40}$(?!\n)")] | None = None


class TrainData(Part, frozen=True, kw_only=True):
    """Which rows training may see."""

    dataset: Name
    until: Annotated[str, msgspec.Meta(max_length=40)] = "now"
    """`now`: what has matured when the training starts. A fixed moment is refused in this version."""


class Limits(Part, frozen=True, kw_only=True):
    """What one training run may use."""

    threads: Annotated[int, msgspec.Meta(ge=1, le=256)] = 1
    """Numeric threads: what the variables of the usual libraries are set to."""
    memory_mb: Annotated[int, msgspec.Meta(ge=64, le=4_000_000)] = 4096
    cpu: Duration | None = None
    """Processor time; without it only the time-out bounds the run."""


class Train(Part, frozen=True, kw_only=True):
    """How a new version is made. This is code that runs on our side, so declaring it takes its own permission."""

    source: Source
    command: Annotated[tuple[str, ...], msgspec.Meta(min_length=1, max_length=100)]
    lock: Annotated[str, msgspec.Meta(min_length=1, max_length=1000)] | None = None
    """File of the source that pins what it needs; its digest is kept with the training. Without it, the first there is of
    requirements.lock, uv.lock, poetry.lock and requirements.txt."""
    data: TrainData
    timeout: Duration = timedelta(hours=1)
    limits: Limits = Limits()


class Holdout(Part, frozen=True, kw_only=True):
    """Rows a version is judged on before any traffic: the latest matured ones, not used for its training."""

    dataset: Name
    last: Duration
    excluded_from_training: bool = True


SLICE_ROWS_DEFAULT = 200
"""Fewest rows of a slice that is judged: an accuracy of 200 rows is known to about seven points."""

Slices = Annotated[tuple[Column, ...], msgspec.Meta(max_length=5)]
"""Columns of the holdout whose every value is judged by itself too, and may veto."""

SliceRows = Annotated[int, msgspec.Meta(ge=30, le=1_000_000)]


class GateTest(StrEnum):
    """How the two versions are compared: on the same rows, in pairs."""

    PAIRED = "paired"


class PairedGate(Part, frozen=True, kw_only=True, tag_field="gate", tag="paired"):
    """No worse than production by more than `margin`, on the same rows, block by block, with an interval."""

    metric: Metric
    on: str = "holdout"
    vs: str = "production"
    """`production`: the version the release would replace, where it is released."""
    test: GateTest = GateTest.PAIRED
    block: Duration = timedelta(days=1)
    blocks_min: Annotated[int, msgspec.Meta(ge=2, le=1000)] = BLOCKS_MIN_DEFAULT
    margin: Annotated[float, msgspec.Meta(ge=0.0)]
    alpha: Annotated[float, msgspec.Meta(gt=0.0, le=0.5)] = 0.05
    slices: Slices = ()
    slice_rows_min: SliceRows = SLICE_ROWS_DEFAULT


class DropGate(Part, frozen=True, kw_only=True, tag_field="gate", tag="drop"):
    """The metric over all rows is worse than production's by at most `maxDrop` (for a loss: higher by at most that)."""

    metric: Metric
    on: str = "holdout"
    vs: str = "production"
    max_drop: Annotated[float, msgspec.Meta(ge=0.0)]


class FloorGate(Part, frozen=True, kw_only=True, tag_field="gate", tag="floor"):
    """The metric over all rows surely reaches `floor`: its whole interval does. For metrics where higher is better."""

    metric: Metric
    on: str = "holdout"
    floor: float
    block: Duration = timedelta(days=1)
    blocks_min: Annotated[int, msgspec.Meta(ge=2, le=1000)] = BLOCKS_MIN_DEFAULT
    unit: EvidenceUnit = EvidenceUnit.BLOCK
    alpha: Annotated[float, msgspec.Meta(gt=0.0, le=0.25)] = 0.05
    slices: Slices = ()
    slice_rows_min: SliceRows = SLICE_ROWS_DEFAULT


class CeilingGate(Part, frozen=True, kw_only=True, tag_field="gate", tag="ceiling"):
    """The loss over all rows surely keeps `ceiling`: its whole interval does. For metrics where lower is better."""

    metric: Metric
    on: str = "holdout"
    ceiling: float
    block: Duration = timedelta(days=1)
    blocks_min: Annotated[int, msgspec.Meta(ge=2, le=1000)] = BLOCKS_MIN_DEFAULT
    unit: EvidenceUnit = EvidenceUnit.BLOCK
    alpha: Annotated[float, msgspec.Meta(gt=0.0, le=0.25)] = 0.05
    slices: Slices = ()
    slice_rows_min: SliceRows = SLICE_ROWS_DEFAULT


class PolicyGate(Part, frozen=True, kw_only=True, tag_field="gate", tag="policy"):
    """An expression over `version` and `production` that must be true; an error is never a pass."""

    policy: Annotated[str, msgspec.Meta(min_length=1, max_length=2000)]


class Compatibility(StrEnum):
    """How far inputs and outputs may differ from production's."""

    SAME = "same"
    """Not at all."""
    ADDITIVE = "additive"
    """Callers of production's version are answered as before: optional inputs may be added at the end, inputs may become
    optional."""


class SchemaGate(Part, frozen=True, kw_only=True, tag_field="gate", tag="schema"):
    """Callers of production's version can call this one: the differences of inputs and output are named and judged."""

    schema: Compatibility


class SizeGate(Part, frozen=True, kw_only=True, tag_field="gate", tag="size"):
    """The version's files together are at most this large."""

    max_size_mb: Annotated[float, msgspec.Meta(gt=0.0, le=1_000_000.0)]


class LatencyGate(Part, frozen=True, kw_only=True, tag_field="gate", tag="latency"):
    """Single predictions on the version's own worker surely keep this time, on this machine. In a replay it is recorded and
    decides nothing."""

    max_latency: Duration
    percentile: Annotated[float, msgspec.Meta(ge=1.0, le=99.9)] = 99.0
    requests: Annotated[int, msgspec.Meta(ge=20, le=20_000)] = 500
    """How many are measured; the 99th percentile needs 299 before its interval has an upper end."""
    on: str = "holdout"


class DocumentedGate(Part, frozen=True, kw_only=True, tag_field="gate", tag="documented"):
    """The version's files say what they must: `FILE`, `FILE#Heading` (with text below it), or `FILE:field.of.yaml`."""

    documented: Annotated[
        tuple[Annotated[str, msgspec.Meta(min_length=1, max_length=300)], ...],
        msgspec.Meta(min_length=1, max_length=50),
    ]


MetricGate = PairedGate | DropGate | FloorGate | CeilingGate
"""Gates that compare numbers on the holdout's labels."""

Gate = MetricGate | PolicyGate | SchemaGate | SizeGate | LatencyGate | DocumentedGate


class Tests(Part, frozen=True, kw_only=True):
    """The model's own tests, run by `steersman ci`. This is code that runs on our side, so declaring it takes the permission
    that declaring a training takes."""

    source: Source = msgspec.field(default_factory=lambda: Source(directory="."))
    command: Annotated[tuple[str, ...], msgspec.Meta(min_length=1, max_length=100)]
    """Ends with 0 when all passed, with 1 when something failed. It runs with the libraries that the version answers with; its
    variables say where the version answers and where its files and the holdout lie."""
    timeout: Duration = timedelta(minutes=10)
    limits: Limits = Limits()


class ModelSpec(Part, frozen=True, kw_only=True):
    """How a model is to live."""

    type: ModelType = ModelType.PREDICTOR
    purpose: Text = ""
    tier: Annotated[int, msgspec.Meta(ge=0, le=3)] = 1
    """Risk: 0 experiment, 1 ordinary, 2 important, 3 critical. From 2 on a person must approve a release, except to dev and
    staging."""
    versions: Versions
    serving: Serving = Serving()
    inference_log: InferenceLog = InferenceLog()
    ground_truth: GroundTruth | None = None
    train: Train | None = None
    holdout: Holdout | None = None
    tests: Tests | None = None
    metrics: Annotated[tuple[DeclaredMetric, ...], msgspec.Meta(max_length=20)] = ()
    """Metrics of the team's own, for analyses and bakes."""
    gates: Annotated[tuple[Gate, ...], msgspec.Meta(max_length=50)] = ()
    environments: dict[Name, EnvironmentPolicy] = msgspec.field(default_factory=dict)
    monitors: Annotated[tuple[Monitor, ...], msgspec.Meta(max_length=50)] = ()
    incidents: Incidents = Incidents()
    retrain: Retrain = Retrain()


class Model(Part, frozen=True, kw_only=True):
    """A governed asset: owner, purpose, tier, and its whole life."""

    api_version: str = "steersman/v1"
    kind: str = "Model"
    metadata: Metadata
    spec: ModelSpec

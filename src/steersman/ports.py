"""What Steersman asks of the world around it, one Protocol a kind of plugin.

The loops know these Protocols and nothing else of MLflow, of processes or of Delta Lake; `server/` alone knows which
plugin stands behind which port. Every port has a conformance suite in `steersman.testing`, and every plugin runs it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import date, datetime
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import msgspec

from steersman.domain.version import Column, Format

# --- Registry: where versions come from ------------------------------------------------------------------------------


class RegisteredVersion(msgspec.Struct, frozen=True, kw_only=True):
    """One registered version as its registry lists it: a claim, until its bytes are fetched and hashed."""

    name: str
    number: int
    source: str
    created_at: datetime
    created_by: str = ""
    run_id: str = ""
    tags: Mapping[str, str] = {}

    @property
    def uri(self) -> str:
        """The reference people write: `models:/name/3`."""
        return f"models:/{self.name}/{self.number}"


class Description(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker must know to load a version: the format, the file inside the tree, and the columns it takes.

    `file` is a posix path relative to the tree, `.` where the whole tree is the model. `params` are those of the
    training, as its author logged them; `metadata` is what else the registry knows (flavour, library version).
    """

    format: Format
    file: str
    signature: tuple[Column, ...] = ()
    output: str = "score"
    params: Mapping[str, str] = {}
    metadata: Mapping[str, str] = {}


@runtime_checkable
class Registry(Protocol):
    """Where registered versions come from. Every method is blocking and bounded by the plugin's time-outs.

    Numbers are positive integers in the order of registration. An alias is a projection of a release, written for
    other readers; nothing in Steersman follows one. Errors are those of `steersman.domain.errors`: `NotFound` (the
    message lists what exists), `Unavailable`, `NotAllowed`, `NotSupported` (nothing here can load it), `BadRequest`
    (the files are malformed or unsafe to copy), `LimitReached`.
    """

    def versions(self, name: str) -> list[RegisteredVersion]:
        """All versions of `name`, oldest first. Raises `NotFound` when the name is not registered."""
        ...

    def describe(self, name: str, number: int) -> Description:
        """Read what the version says of itself, without fetching the model."""
        ...

    def fetch(self, name: str, number: int, into: Path) -> Description:
        """Copy the version's tree of files into `into` (created; must be empty) and describe it.

        Only regular files, never a link; a failure leaves `into` incomplete, and the caller removes it.
        """
        ...

    def aliases(self, name: str) -> dict[str, int]:
        """Every alias of `name` and the version it points to."""
        ...

    def set_alias(self, name: str, alias: str, number: int | None) -> None:
        """Point `alias` to version `number`, or take it away with None. Doing it twice changes nothing."""
        ...

    def check(self) -> str:
        """One line saying what answers (product and version). Raises `Unavailable` when nothing does."""
        ...


# --- end of Registry -------------------------------------------------------------------------------------------------

# --- Target: where versions run --------------------------------------------------------------------------------------


class ReplicaSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What a target needs to run one version: where its files are, how they are loaded, and for whom.

    `artifact` is the version's tree in content-addressed storage; the worker verifies `digest` before it loads. With
    `local_port` any program on its machine may ask it, as a version's own tests do; else only who the target lets in.
    """

    workspace: str
    environment: str
    model: str
    version: int
    digest: str
    artifact: Path
    format: Format
    file: str
    signature: tuple[Column, ...] = ()
    output: str = "score"
    threads: int = 1
    extra_columns: Sequence[str] = ()
    code_allowed: bool = False
    batch_rows_max: int = 1
    batch_wait_ms: float = 0.0
    memory_mb: int | None = None
    local_port: bool = False


class RunningReplica(msgspec.Struct, frozen=True, kw_only=True):
    """One copy of a version as its target sees it now. `cpu_s` and `memory_mb_peak` are of the process, wall time.

    `sandbox` names the wall between its model file and the machine's other files, such as `landlock/4`; `none` says that
    the kernel offers none, None that nothing is known (it is not ready yet). `ready_after_s` is what it took from the start of
    the process to being ready, which is what a cold rollback takes.
    """

    id: str
    workspace: str
    environment: str
    model: str
    digest: str
    address: str
    ready: bool
    pid: int
    cpu_s: float = 0.0
    memory_mb_peak: float = 0.0
    sandbox: str | None = None
    ready_after_s: float | None = None


class TargetError(Exception):
    """A target cannot run a version; the text says why (the end of the worker's log) and the next step."""


@runtime_checkable
class Target(Protocol):
    """Starts, finds and stops replicas. Every call may be repeated; what already runs is adopted, never doubled."""

    capabilities: frozenset[str]
    """Of `mirror`, `setWeight`, `keepWarm`: a step that needs another is refused at `plan`."""

    def ensure(self, replica: ReplicaSpec, count: int) -> None:
        """Start what is missing to `count` replicas and return without waiting for readiness."""
        ...

    def observe(self) -> list[RunningReplica]:
        """Every replica of this installation that is alive, ready or not, whoever started it; always in one order. One
        that is being stopped is not ready."""
        ...

    def failure(self, replica: ReplicaSpec) -> str | None:
        """Why the last attempt to start this version died before it was ready; None when none did."""
        ...

    def interpreter(self, replica: ReplicaSpec) -> Path | None:
        """The interpreter of the environment that was built for a version, `<environment>/bin/python`, once a replica of it
        runs; None where it runs with this installation's libraries."""
        ...

    def stop(self, workspace: str, environment: str, model: str, digest: str, *, keep: int = 0) -> None:
        """Drain and end all replicas of a version but the first `keep` that `observe` names; returns when they are gone
        (bounded by the drain time-out)."""
        ...


# --- Trainer: where training runs ------------------------------------------------------------------------------------


class TrainingJob(msgspec.Struct, frozen=True, kw_only=True):
    """One run. `id` is the operation's: asking again with the same one adopts the run. `environment` is all it gets.

    `threads` is what numeric libraries are told to use; `lock` names the file of the source whose digest is recorded;
    `readable` are paths it may read beside its source and its data; `python` is the interpreter of the environment it runs
    in, None for this installation's.
    """

    id: str
    command: Sequence[str]
    source: Path
    data: Path
    environment: Mapping[str, str]
    timeout_s: float
    memory_mb: int
    cpu_s: float | None = None
    threads: int = 1
    lock: str | None = None
    readable: Sequence[Path] = ()
    python: Path | None = None


class JobState(msgspec.Struct, frozen=True, kw_only=True):
    """`record` is what the run said of itself (its version number, metrics) and what we know of it: code digest, lock
    digest, exit code, log digest, cpu seconds, peak memory."""

    state: str  # running | succeeded | failed
    record: Mapping[str, object] = {}
    because: str = ""


@runtime_checkable
class Trainer(Protocol):
    """Runs training commands outside the control server; a run survives the control server and is adopted by id."""

    def ensure(self, job: TrainingJob) -> None: ...

    def poll(self, job_id: str) -> JobState: ...

    def cancel(self, job_id: str) -> None:
        """End the run and everything it started."""
        ...

    def logs(self, job_id: str, limit_bytes: int = 65536) -> str: ...


# --- Data: rows to learn from and to be judged on --------------------------------------------------------------------


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """A pinned selection of a dataset, as one Parquet file: what may be known at `known_until`, and nothing else."""

    path: Path
    digest: str
    rows: int
    first_at: datetime | None
    last_at: datetime | None


class DatasetSource(msgspec.Struct, frozen=True, kw_only=True):
    """A Dataset document, resolved: files of history, the columns' roles, and the log that extends it."""

    uri: Path
    time_column: str
    label_column: str
    key_column: str | None
    available_column: str | None
    horizon_s: float
    extend_workspace: str | None = None
    extend_environment: str | None = None
    extend_model: str | None = None


@runtime_checkable
class Datasets(Protocol):
    """Cuts snapshots. A row is in a snapshot only if its label had arrived by `known_until` (event time)."""

    def snapshot(
        self,
        source: DatasetSource,
        *,
        known_until: datetime,
        time_from: datetime | None,
        time_until: datetime | None,
        into: Path,
    ) -> Snapshot:
        """Rows with `time_from` <= time < `time_until` whose label was known by `known_until`, written to `into`."""
        ...

    def read(self, path: Path, columns: Sequence[str]) -> Mapping[str, Any]:
        """Columns of a snapshot as NumPy arrays, in its order (numbers float64, times datetime64, text object)."""
        ...


# --- Router: who answers ---------------------------------------------------------------------------------------------


@runtime_checkable
class RouterControl(Protocol):
    """The router's side door. Unreachable is an ordinary answer: the router serves its last configuration alone."""

    def generation(self) -> int | None:
        """The generation in effect; None when the router does not answer."""
        ...

    def configurations(self) -> Sequence[bytes] | None:
        """What each router has in effect, in its own words; None when one does not answer."""
        ...

    def apply(self, configuration: bytes) -> None:
        """Hand over a whole configuration. Raises `RouterError` when it is unreachable or refuses."""
        ...


class RouterError(Exception):
    """The router did not take a configuration; the text says why."""


# --- Scorer: a version's answers on given rows -----------------------------------------------------------------------


@runtime_checkable
class Scorer(Protocol):
    """Asks a running replica for its answers, outside of traffic: for gates on a holdout."""

    def score(self, address: str, model: str, rows: Path, columns: Sequence[str]) -> Any:
        """The version's score for each row of a Parquet file, in order, as a float64 array; NaN where it gave none."""
        ...

    def latencies(self, address: str, model: str, rows: Path, columns: Sequence[str], *, requests: int) -> Any:
        """Wall milliseconds of that many single predictions, one after the other, warmed up, as a float64 array."""
        ...


# --- Notifier --------------------------------------------------------------------------------------------------------


@runtime_checkable
class Notifier(Protocol):
    """Tells people. Losing a message loses nothing else: the ledger and the console have it."""

    channels: frozenset[str]
    """The names a document may tell; one that names another is refused when it is applied."""

    def notify(self, channel: str, subject: str, text: str) -> None:
        """Leave a message and return at once; whether it arrives is the plugin's business, and it never raises."""
        ...


# --- Metrics of installed distributions ------------------------------------------------------------------------------


@runtime_checkable
class Measure(Protocol):
    """A metric over one block: of one version's answers, once for each of the two that are compared."""

    def __call__(self, scores: Any, labels: Any, /) -> float:
        """The metric of these rows: two float64 arrays of one length, at least 30, without NaN, not to be written to.

        NaN says that the metric is undefined for them (a single class, say): the block is then no evidence. Whatever it
        raises, and an infinite number, is an *error* verdict. The same rows give the same number in any order.
        """
        ...


@runtime_checkable
class InstalledMetric(Protocol):
    """Where a `Measure` comes from. Nothing is imported before `load` is called."""

    @property
    def distribution(self) -> str:
        """What offers it, with its version: `acme-metrics 1.2`."""
        ...

    def load(self) -> Measure:
        """Import it. Raises `MetricError` where that fails."""
        ...


class MetricError(Exception):
    """An installed metric cannot be imported, or is none; the text says why."""


# --- Inference log: what was asked, answered and turned out true ----------------------------------------------------


class Answers(msgspec.Struct, frozen=True, kw_only=True):
    """What one version made of requests, as arrays in their order.

    `scores` and `latency_ms` are NaN where it gave no answer, `failed` says where it answered 500 or above, `measured` holds
    the declared metrics of each row (name → float64, NaN where one has no value). A metric that could not be evaluated at
    all is missing there.
    """

    scores: Any
    failed: Any
    latency_ms: Any
    measured: Mapping[str, Any] = {}


class PairedRows(msgspec.Struct, frozen=True, kw_only=True):
    """Events that met both versions, in order of time and id. All arrays have one length.

    `labels` is NaN where none had arrived; `slices` maps each column asked for to its values as text. A column that the
    log does not have is missing there.
    """

    events: Sequence[str]
    labels: Any
    reference: Answers
    compared: Answers
    slices: Mapping[str, Any] = {}


class SplitRows(msgspec.Struct, frozen=True, kw_only=True):
    """Events that one of two versions answered, by lot, in order of time and id. All arrays have one length.

    `units` is what was drawn (the entity where the model is sticky, else the event); `candidate` says who was drawn and
    `probability` how likely the candidate was then, strictly within (0, 1). Labels and slices are as in pairs.
    """

    events: Sequence[str]
    units: Sequence[str]
    candidate: Any
    probability: Any
    labels: Any
    answers: Answers
    slices: Mapping[str, Any] = {}


class AnsweredRows(msgspec.Struct, frozen=True, kw_only=True):
    """What one version answered in a span: `columns` name → array (numbers or text), `scores`, and `labels` (NaN where
    none was known yet); all of length `rows`."""

    rows: int
    columns: Mapping[str, Any]
    scores: Any
    labels: Any


class ArmCount(msgspec.Struct, frozen=True, kw_only=True):
    """Requests' rows one version answered in a span as one variant; `errors` counts answers of status 500 and above."""

    digest: str
    release: str
    variant: str
    rows: int
    errors: int


class Removed(msgspec.Struct, frozen=True, kw_only=True):
    """What was really deleted: rows of the two tables, data files (those that compactions had replaced too), and segments
    of the write-ahead log that had been set aside as damaged."""

    predictions: int = 0
    labels: int = 0
    files: int = 0
    segments: int = 0


class Scope(NamedTuple):
    """Whose predictions a question is about: one model's in one environment."""

    workspace: str
    environment: str
    model: str


class Span(NamedTuple):
    """Event time: `since` <= at < `until`."""

    since: datetime
    until: datetime


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """What is compared, by digest. `slices` are input columns; `measures` declared metrics, name → SQL over a row."""

    reference: str
    compared: str
    slices: Sequence[str] = ()
    measures: Mapping[str, str] = {}

    @property
    def needs_inputs(self) -> bool:
        return bool(self.slices or self.measures)


@runtime_checkable
class InferenceLog(Protocol):
    """The two tables of a model as questions."""

    def flush(self) -> None:
        """Return when everything captured before the call can be read. Raises `LogError` when it cannot be done."""
        ...

    def paired(self, scope: Scope, span: Span, asked: Comparison, *, as_of: datetime) -> PairedRows:
        """Events of the span that both digests were asked, with the labels that had arrived by `as_of`.

        One that either gave up before its answer is no pair.
        """
        ...

    def split(
        self, scope: Scope, span: Span, asked: Comparison, *, as_of: datetime, drawn_since: datetime
    ) -> SplitRows:
        """Events of the span that the router gave to one of the digests by lot (variants stable and candidate).

        A unit counts where it was first drawn, at `drawn_since` or later: one drawn before `since` is left out.
        """
        ...

    def refuse_measure(self, expression: str) -> str | None:
        """Why an SQL expression is no number of one row; None where it is one."""
        ...

    def answered(self, scope: Scope, span: Span, *, as_of: datetime, digest: str) -> AnsweredRows:
        """What callers got from a digest (variants stable and candidate; copies are not answers)."""
        ...

    def latencies(self, scope: Scope, span: Span, *, digest: str, variants: Collection[str]) -> Any:
        """Milliseconds of each request a digest answered as one of `variants`, as an array; wall time.

        Those that were given up before their answer are among them: they would have taken longer.
        """
        ...

    def counts(self, scope: Scope, span: Span) -> list[ArmCount]:
        """Events each version answered as each variant. One that was given up before its answer is none of them."""
        ...

    def expire(self, key: str, workspace: str, model: str, *, until: date) -> Removed:
        """Delete all rows of the model, in every environment, whose UTC date (of event time) is before `until`.

        When this returns no file holds them. Asked again with the same `key` it tells what all attempts removed
        together. Raises `LogError`; then some of it may be done.
        """
        ...

    def erase(self, workspace: str, model: str, *, column: str, entity: str) -> Removed:
        """Delete every row whose entity (the `stickyBy` column) is that value, hashed or not, and its labels.

        When this returns no file holds them, and the value stands nowhere. Raises `LogError`.
        """
        ...


class LogError(Exception):
    """The inference log could not be read or committed; the text says why."""

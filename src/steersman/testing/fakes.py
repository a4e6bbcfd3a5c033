"""Fakes of every port, public: stories and plugin authors' tests drive the real loops with them.

They keep the contract of the port (ensure twice acts once, what runs is found again) and nothing else: no process, no
file, no network. Scores come from functions of the day, so that a story can say what a version is like.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from steersman.dataplane.configuration import RouterConfiguration, encode
from steersman.domain.errors import NotFound
from steersman.domain.version import Column, Format
from steersman.ports import (
    AnsweredRows,
    Answers,
    ArmCount,
    Comparison,
    DatasetSource,
    Description,
    JobState,
    Measure,
    PairedRows,
    RegisteredVersion,
    Removed,
    ReplicaSpec,
    RouterError,
    RunningReplica,
    Scope,
    Snapshot,
    Span,
    SplitRows,
    TrainingJob,
)

EPOCH = datetime(2013, 1, 1, tzinfo=UTC)


@dataclass
class FakeRegistry:
    """Versions that exist as a few bytes; `add` registers one, its content makes its digest.

    `format` is what is added from now on: LightGBM or XGBoost, whose first bytes are easily written.
    """

    content: dict[int, bytes] = field(default_factory=dict)
    alias: dict[str, int] = field(default_factory=dict)
    format: Format = Format.LIGHTGBM
    signature: tuple[Column, ...] = (Column(name="x", type="FP64"),)
    papers: dict[str, str] = field(default_factory=dict)
    """Text files every version is fetched with, by name."""

    def add(self, number: int | None = None, content: bytes = b"") -> int:
        number = number or max(self.content, default=0) + 1
        head = b"tree\nversion=v4\n" if self.format is Format.LIGHTGBM else b'{"learner": {}} '
        self.content[number] = head + (content or str(number).encode())
        return number

    def versions(self, name: str) -> list[RegisteredVersion]:
        return [
            RegisteredVersion(name=name, number=n, source=f"fake/{n}", created_at=EPOCH, created_by="trainer")
            for n in sorted(self.content)
        ]

    def describe(self, name: str, number: int) -> Description:
        if number not in self.content:
            raise NotFound(f"no version {number} of {name}")
        found = Format.LIGHTGBM if self.content[number].startswith(b"tree") else Format.XGBOOST
        return Description(format=found, file="model.txt", signature=self.signature)

    def fetch(self, name: str, number: int, into: Path) -> Description:
        described = self.describe(name, number)
        into.mkdir(parents=True)
        (into / "model.txt").write_bytes(self.content[number])
        for name, text in self.papers.items():
            (into / name).write_text(text)
        return described

    def aliases(self, name: str) -> dict[str, int]:
        return dict(self.alias)

    def set_alias(self, name: str, alias: str, number: int | None) -> None:
        if number is None:
            self.alias.pop(alias, None)
        else:
            self.alias[alias] = number

    def check(self) -> str:
        return "fake registry"


def _version_of(replica: RunningReplica | ReplicaSpec) -> tuple[str, str, str, str]:
    return replica.workspace, replica.environment, replica.model, replica.digest


@dataclass
class FakeTarget:
    """Replicas are entries of a list; `broken` holds digests that fail to start, `slow` those that never become ready."""

    capabilities: frozenset[str] = frozenset({"mirror", "setWeight", "keepWarm"})
    replicas: list[RunningReplica] = field(default_factory=list)
    broken: set[str] = field(default_factory=set)
    slow: set[str] = field(default_factory=set)
    started: int = 0
    asked: dict[str, ReplicaSpec] = field(default_factory=dict)
    """How each digest was last asked to run."""
    interpreters: dict[str, Path] = field(default_factory=dict)

    def ensure(self, replica: ReplicaSpec, count: int) -> None:
        self.asked[replica.digest] = replica
        mine = [r for r in self.replicas if _version_of(r) == _version_of(replica)]
        for _ in range(count - len(mine)):
            if replica.digest in self.broken:
                return
            self.started += 1
            self.replicas.append(
                RunningReplica(
                    id=f"replica-{self.started}",
                    workspace=replica.workspace,
                    environment=replica.environment,
                    model=replica.model,
                    digest=replica.digest,
                    address=f"127.0.0.1:{10_000 + self.started}",
                    ready=replica.digest not in self.slow,
                    pid=self.started,
                )
            )

    def observe(self) -> list[RunningReplica]:
        return list(self.replicas)

    def failure(self, replica: ReplicaSpec) -> str | None:
        return "it exits at once" if replica.digest in self.broken else None

    def interpreter(self, replica: ReplicaSpec) -> Path | None:
        return self.interpreters.get(replica.digest)

    def stop(self, workspace: str, environment: str, model: str, digest: str, *, keep: int = 0) -> None:
        there = [r for r in self.replicas if _version_of(r) == (workspace, environment, model, digest)]
        self.replicas = [r for r in self.replicas if r not in there[keep:]]

    def kill(self, digest: str) -> None:
        """One replica of a digest is gone, as after kill -9."""
        victim = next(r for r in self.replicas if r.digest == digest)
        self.replicas.remove(victim)


@dataclass
class FakeRouter:
    """Holds the configuration, and every one that ever was in effect. `misses` is how many of the next calls find nobody
    there, as with a router that was killed and is being started again."""

    configuration: RouterConfiguration | None = None
    misses: int = 0
    applied: list[RouterConfiguration] = field(default_factory=list)

    def generation(self) -> int | None:
        if self._missing():
            return None
        return self.configuration.generation if self.configuration else 0

    def configurations(self) -> list[bytes] | None:
        if self._missing():
            return None
        return [encode(self.configuration or RouterConfiguration(generation=0))]

    def apply(self, configuration: bytes) -> None:
        if self._missing():
            raise RouterError("the router does not answer")
        wanted = msgspec.json.decode(configuration, type=RouterConfiguration)
        if self.configuration is not None and wanted.generation < self.configuration.generation:
            raise RouterError("older than what is in effect")
        self.configuration = wanted
        self.applied.append(wanted)

    def _missing(self) -> bool:
        self.misses = max(self.misses - 1, -1)
        return self.misses >= 0

    @property
    def answered_ever(self) -> set[str]:
        """Every version that was ever meant to answer a request."""
        routes = (route for configuration in self.applied for route in configuration.routes)
        return {variant.version for route in routes for variant in route.variants if variant.weight_pct > 0}

    @property
    def copies_to(self) -> set[str]:
        """Versions that receive copies now."""
        if self.configuration is None or not self.configuration.routes:
            return set()
        return {mirror.version for mirror in self.configuration.routes[0].mirrors}

    def weights(self) -> dict[str, float]:
        """Version → share of requests, of the first route."""
        if self.configuration is None or not self.configuration.routes:
            return {}
        return {variant.version: variant.weight_pct for variant in self.configuration.routes[0].variants}


Quality = Callable[[str, datetime], float]
"""Digest and day → how well the version separates the classes (0 = not at all, 2 = very well)."""


@dataclass
class FakeTraffic:
    """The inference log of a made-up world: `rows` requests a day whose labels come true a day later.

    Each version's score is the true signal plus noise; `quality` says how much signal. Everything is a pure function of
    the day and the digest, so two looks see the same rows. `errors` is the share of its requests a digest fails at, and
    `errors_on_copies` of the copies: what fails once it answers need not fail before. `missing` is the share of nulls in
    the inputs; each of the `corrections` of labels changes one in twenty of them, also of days that were looked at already.
    """

    quality: Quality = lambda _digest, _day: 1.0
    rows: int = 400
    errors: dict[str, float] = field(default_factory=dict)
    errors_on_copies: dict[str, float] = field(default_factory=dict)
    latency_ms: dict[str, float] = field(default_factory=dict)
    inputs: Callable[[datetime], float] = lambda _day: 0.0
    missing: float = 0.0
    corrections: int = 0
    router: FakeRouter | None = None
    expired: dict[str, date] = field(default_factory=dict)
    erased: list[str] = field(default_factory=list)

    def flush(self) -> None:
        return

    def labels(self, day: datetime) -> Any:
        labels = (np.random.default_rng(int(day.timestamp())).random(self.rows) < 0.25).astype(float)
        for correction in range(self.corrections):
            labels[correction % 20 :: 20] = 1 - labels[correction % 20 :: 20]
        return labels

    def scores(self, digest: str, day: datetime) -> Any:
        labels = self.labels(day)
        shared = np.random.default_rng(int(day.timestamp()) + 1).normal(size=self.rows)
        own = np.random.default_rng([int(day.timestamp()), int(digest[7:15], 16)]).normal(size=self.rows) * 0.3
        logit = self.quality(digest, day) * (labels - 0.25) + 0.7 * shared + own
        return 1 / (1 + np.exp(-logit))

    def days(self, since: datetime, until: datetime) -> list[datetime]:
        first = since.replace(hour=0, minute=0, second=0, microsecond=0)
        days = [first + timedelta(days=n) for n in range((until - first).days + 1)]
        return [day for day in days if since <= day < until]

    def paired(self, scope: Scope, span: Span, asked: Comparison, *, as_of: datetime) -> PairedRows:
        """Both versions on every row; `site` is the one column there is to slice by."""
        days = self.days(*span)
        rows = self.rows * len(days)
        theirs = np.concatenate([self.scores(asked.reference, day) for day in days])
        ours = np.concatenate([self.scores(asked.compared, day) for day in days])
        return PairedRows(
            events=[f"e{number}" for number in range(rows)],
            labels=np.concatenate([self.labels(day) for day in days]),
            reference=_answers(theirs, self.errors.get(asked.reference, 0.0)),
            compared=_answers(ours, self.errors.get(asked.compared, 0.0)),
            slices={"site": np.array(["north", "south"] * rows)[:rows]} if "site" in asked.slices else {},
        )

    def split(
        self, scope: Scope, span: Span, asked: Comparison, *, as_of: datetime, drawn_since: datetime
    ) -> SplitRows:
        """Each row by lot, with the weight in effect now; no row where only one of them answers."""
        days = self.days(*span)
        weight = self._weight(asked.compared)
        rows = self.rows * len(days) if 0.0 < weight < 1.0 else 0
        lot = [np.random.default_rng(int(day.timestamp()) + 3).random(self.rows) for day in days]
        candidate = np.concatenate(lot)[:rows] < weight
        ours = np.concatenate([self.scores(asked.compared, day) for day in days])[:rows]
        theirs = np.concatenate([self.scores(asked.reference, day) for day in days])[:rows]
        events = [f"{span.since:%m%d}/{number}" for number in range(rows)]
        return SplitRows(
            events=events,
            units=events,
            candidate=candidate,
            probability=np.full(rows, weight),
            labels=np.concatenate([self.labels(day) for day in days])[:rows],
            answers=_answers(np.where(candidate, ours, theirs), 0.0),
            slices={"site": np.array(["north", "south"] * rows)[:rows]} if "site" in asked.slices else {},
        )

    def refuse_measure(self, expression: str) -> str | None:
        return None

    def _weight(self, digest: str) -> float:
        configuration = self.router.configuration if self.router else None
        variants = configuration.routes[0].variants if configuration and configuration.routes else ()
        return next((v.weight_pct / 100 for v in variants if v.digest == digest), 0.0)

    def answered(self, scope: Scope, span: Span, *, as_of: datetime, digest: str) -> AnsweredRows:
        days = self.days(*span)
        scores = np.concatenate([self.scores(digest, day) for day in days])
        labels = np.concatenate([self.labels(day) for day in days])
        x = np.concatenate(
            [np.random.default_rng(int(day.timestamp()) + 2).normal(self.inputs(day), 1, self.rows) for day in days]
        )
        x[: int(len(x) * self.missing)] = np.nan
        known = as_of - span.until >= timedelta(days=1)
        return AnsweredRows(
            rows=len(scores),
            columns={"x": x},
            scores=scores,
            labels=labels if known else np.full_like(labels, np.nan),
        )

    def latencies(self, scope: Scope, span: Span, *, digest: str, variants: Collection[str]) -> Any:
        return np.full(self.rows, self.latency_ms.get(digest, 2.0))

    def counts(self, scope: Scope, span: Span) -> list[ArmCount]:
        configuration = self.router.configuration if self.router else None
        if configuration is None or not configuration.routes:
            return []
        days = max(len(self.days(*span)), 1)
        counts = []
        for variant in configuration.routes[0].variants:
            rows = int(self.rows * days * variant.weight_pct / 100)
            errors = int(rows * self.errors.get(variant.digest, 0.0))
            counts.append(
                ArmCount(digest=variant.digest, release=variant.release, variant=variant.role, rows=rows, errors=errors)
            )
        for mirror in configuration.routes[0].mirrors:
            rows = int(self.rows * days * mirror.percent / 100)
            errors = int(rows * self.errors_on_copies.get(mirror.digest, 0.0))
            copy = "shadow" if mirror.role == "mirror" else mirror.role
            counts.append(
                ArmCount(digest=mirror.digest, release=mirror.release, variant=copy, rows=rows, errors=errors)
            )
        return counts

    def expire(self, key: str, workspace: str, model: str, *, until: date) -> Removed:
        """Each expiration finds one day's rows; asked again it tells the same."""
        self.expired[key] = until
        return Removed(predictions=self.rows, labels=self.rows, files=2)

    def erase(self, workspace: str, model: str, *, column: str, entity: str) -> Removed:
        self.erased.append(entity)
        return Removed(predictions=1, labels=1, files=2)


def _answers(scores: Any, errors: float) -> Answers:
    """Every request is answered, within 2 ms; the share `errors` of them, spread evenly, failed before that."""
    failed = np.floor(np.arange(1, len(scores) + 1) * errors) > np.floor(np.arange(len(scores)) * errors)
    return Answers(scores=scores, failed=failed, latency_ms=np.full(len(scores), 2.0))


@dataclass
class FakeDatasets:
    """Snapshots are files that hold no more than their span; reading one gives the made-up world's rows of it."""

    traffic: FakeTraffic
    unreadable: bool = False

    def snapshot(
        self,
        source: DatasetSource,
        *,
        known_until: datetime,
        time_from: datetime | None,
        time_until: datetime | None,
        into: Path,
    ) -> Snapshot:
        if self.unreadable:
            raise OSError("the files of the dataset cannot be read")
        start = time_from or known_until - timedelta(days=30)
        end = time_until or known_until - timedelta(seconds=source.horizon_s)
        start = start.replace(hour=0, minute=0, second=0, microsecond=0)
        into.write_text(f"{start.isoformat()} {end.isoformat()}")
        rows = len(self.traffic.days(start, end)) * self.traffic.rows
        return Snapshot(path=into, digest=f"sha256:{start:%Y%m%d}{end:%Y%m%d}", rows=rows, first_at=start, last_at=end)

    def read(self, path: Path, columns: Sequence[str]) -> Mapping[str, Any]:
        start, end = (datetime.fromisoformat(text) for text in path.read_text().split())
        days = self.traffic.days(start, end)
        rows = self.traffic.rows
        found: dict[str, Any] = {}
        for name in columns:
            if name == "at":
                found[name] = np.concatenate(
                    [np.full(rows, np.datetime64(day.replace(tzinfo=None), "us")) for day in days]
                )
            elif name == "late":
                found[name] = np.concatenate([self.traffic.labels(day) for day in days])
            else:
                found[name] = np.concatenate(
                    [
                        np.random.default_rng(int(day.timestamp()) + 2).normal(self.traffic.inputs(day), 1, rows)
                        for day in days
                    ]
                )
        return found


@dataclass
class FakeScorer:
    """Asks the made-up world what the replica at an address would have said, the slowest prediction in `latency_ms`.

    `asked` counts how often a version's scores were wanted.
    """

    traffic: FakeTraffic
    target: FakeTarget
    latency_ms: float = 4.0
    asked: int = 0

    def score(self, address: str, model: str, rows: Path, columns: Sequence[str]) -> Any:
        digest = next(r.digest for r in self.target.replicas if r.address == address)
        start, end = (datetime.fromisoformat(text) for text in rows.read_text().split())
        days = self.traffic.days(start, end)
        self.asked += 1
        return np.concatenate([self.traffic.scores(digest, day) for day in days])

    def latencies(self, address: str, model: str, rows: Path, columns: Sequence[str], *, requests: int) -> Any:
        return np.linspace(self.latency_ms / 2, self.latency_ms, requests)


@dataclass
class FakeTrainer:
    """A run registers a version at once; `fails` makes runs end badly. A run of tests registers none, and ends with
    `tests_exit`."""

    registry: FakeRegistry
    fails: bool = False
    tests_exit: int = 0
    jobs: dict[str, JobState] = field(default_factory=dict)
    seen: list[TrainingJob] = field(default_factory=list)

    def ensure(self, job: TrainingJob) -> None:
        if job.id in self.jobs:
            return
        self.seen.append(job)
        if job.id.startswith("check-"):
            record = {"exit_code": self.tests_exit}
            because = f"exited with code {self.tests_exit} after 0.1 s" if self.tests_exit else ""
            self.jobs[job.id] = JobState(
                state="failed" if self.tests_exit else "succeeded", record=record, because=because
            )
            return
        if self.fails:
            self.jobs[job.id] = JobState(state="failed", because="exit code 1: ValueError: no rows")
            return
        number = self.registry.add()
        self.jobs[job.id] = JobState(state="succeeded", record={"version": number})

    def poll(self, job_id: str) -> JobState:
        return self.jobs[job_id]

    def cancel(self, job_id: str) -> None:
        self.jobs[job_id] = JobState(state="failed", because="cancelled")

    def logs(self, job_id: str, limit_bytes: int = 65536) -> str:
        return ""


@dataclass(frozen=True)
class FakeMetric:
    """A metric as if a distribution had brought it."""

    measure: Measure
    distribution: str = "fake-metrics 1"

    def load(self) -> Measure:
        return self.measure


@dataclass
class FakeNotifier:
    """Keeps what people would have been told."""

    channels: frozenset[str] = frozenset({"ops"})
    told: list[tuple[str, str, str]] = field(default_factory=list)

    def notify(self, channel: str, subject: str, text: str) -> None:
        self.told.append((channel, subject, text))

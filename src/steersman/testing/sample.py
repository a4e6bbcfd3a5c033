"""A store with a year of life in it: what pages, screenshots and documentation are made from when no year has run.

The releases are moved by the real planner and recorded through the real transaction, so the sample can show nothing
the product could not. Invented are only the numbers (`sample_numbers`) and the moments at which somebody or something
asks for a release. The same seed gives the same year; identifiers and `recorded_at` differ.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from steersman.decide import rolling_out, routing
from steersman.decide.guardrails import judge_error_rate
from steersman.decide.judging import judge_paired
from steersman.decide.steps import GATES_STEP
from steersman.domain import spec
from steersman.domain.documents import digest
from steersman.domain.events import Action
from steersman.domain.identifiers import new_id
from steersman.domain.incident import Incident
from steersman.domain.release import Arm, Opened, Phase, Release
from steersman.domain.verdicts import Outcome, Verdict
from steersman.domain.version import Column, Format, Version
from steersman.ledger.checkpoint import VerifierKey, sign_checkpoint
from steersman.loop.clock import MODE, POSITION
from steersman.store.database import Store
from steersman.store.records import PairBlock, StoredDocument, Window
from steersman.store.transaction import Transaction
from steersman.testing import sample_documents, sample_incidents, sample_report
from steersman.testing.sample_hub import Hub
from steersman.testing.sample_moves import carry_out, declare, say, say_release
from steersman.testing.sample_numbers import DAY, SampleVersion, World

BEGINS = datetime(2013, 2, 27, 6, tzinfo=UTC)
ENDS = datetime(2013, 12, 11, 6, tzinfo=UTC)
"""The event time at which the sample stands: its last release is in the middle of its analysis."""

ORIGIN = "steersman.example/sample"

ADA, GRACE, CI = "ada@example.com", "grace@example.com", "service:ci"


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One release of the script: when, of which version, by whom, and what goes wrong with it."""

    at: datetime
    version: int
    by: str = "system"
    opened: Opened = Opened.COMMAND
    incident: str | None = None
    handicap: float = 0.0
    gate_fails: bool = False
    errors: int = 0
    full_after: timedelta | None = None


def _day(month: int, day: int) -> datetime:
    return datetime(2013, month, day, 6, tzinfo=UTC)


SCRIPT: tuple[Asked, ...] = (
    Asked(at=_day(2, 28), version=1, by=ADA),
    Asked(at=_day(4, 17), version=2, opened=Opened.REMEDY, incident="april"),
    Asked(at=_day(5, 13), version=3, by=CI, handicap=0.16, gate_fails=True),
    Asked(at=_day(6, 4), version=4, opened=Opened.REMEDY, incident="june"),
    Asked(at=_day(6, 26), version=5, by=CI, errors=7),
    Asked(at=_day(7, 22), version=6, opened=Opened.REMEDY, incident="july"),
    Asked(at=_day(8, 14), version=7, by=CI, handicap=0.055),
    Asked(at=_day(9, 8), version=8, opened=Opened.REMEDY, incident="september"),
    Asked(at=_day(10, 1), version=6, by=GRACE, opened=Opened.ROLLBACK),
    Asked(at=_day(10, 9), version=9, by=ADA, full_after=timedelta(days=4)),
    Asked(at=_day(10, 31), version=10, opened=Opened.REMEDY, incident="november"),
    Asked(at=_day(12, 4), version=11, opened=Opened.REMEDY, incident="december", handicap=0.052),
)
"""Twelve releases of flight-delay: promoted, aborted by a gate and in the shadow, rolled back, fast, and under way."""

ASIDE: tuple[tuple[datetime, Action, str, str, str, str], ...] = (
    (BEGINS, Action.CONTROL_STARTED, "system", "installation", "control", "replay begins"),
    (
        _day(7, 29),
        Action.CONTROL_STARTED,
        "system",
        "installation",
        "control",
        "took up where it was: 1 release under way, 0 operations open",
    ),
    (
        _day(8, 20),
        Action.MANUAL_CHANGE_REFUSED,
        "grace@example.com",
        "alias",
        "flight-delay@champion",
        "the alias champion follows releases; use: steersman release flight-delay 7",
    ),
    (
        _day(10, 20),
        Action.REPLICA_LOST,
        "system",
        "replica",
        "flight-delay/9/1",
        "gone and started again; no caller saw it",
    ),
)
"""What also happens in a year: moment, action, actor, kind, name, why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    store: Store
    now: datetime
    key: VerifierKey


def build_sample(store: Store, *, seed: int = 7, until: datetime = ENDS) -> Sample:
    """Fill an empty store with the year up to `until`. Takes about two seconds; the report is of a whole year only."""
    key = Ed25519PrivateKey.from_private_bytes(hashlib.sha256(f"sample {seed}".encode()).digest())
    with store.write() as tx:
        tx.put_setting(MODE, "replay")
        tx.put_setting(POSITION, until.isoformat())
        _Year(tx, World(seed)).run(until)
        if until == ENDS:
            tx.put_setting("report", sample_report.report(World(seed), tx))
        size, root = tx.ledger.size(), tx.ledger.root()
        tx.ledger.put_checkpoint(size, sign_checkpoint(ORIGIN, size, root, key))
    return Sample(store=store, now=until, key=VerifierKey.of(ORIGIN, key))


def digest_of(model: str, number: int) -> str:
    return "sha256:" + hashlib.sha256(f"{model} {number}".encode()).hexdigest()


@dataclass(slots=True)
class _Year:
    """Walks day by day, lets the planner move what is active, and writes what the loops would have measured."""

    tx: Transaction
    world: World
    versions: dict[int, SampleVersion] = field(default_factory=dict)
    asked: dict[str, Asked] = field(default_factory=dict)
    incidents: dict[str, Incident] = field(default_factory=dict)
    other: StoredDocument | None = None
    model: spec.Model = field(default_factory=sample_documents.flight_delay)
    hub: Hub = field(init=False)

    def __post_init__(self) -> None:
        """The hub's year ends with this one."""
        self.hub = Hub(self.tx, ends=ENDS)

    @property
    def policy(self) -> spec.EnvironmentPolicy:
        return self.model.spec.environments["production"]

    def run(self, until: datetime) -> None:
        declare(self.tx, self.model, at=BEGINS, actor=ADA)
        day = BEGINS
        while day <= until:
            self._measure(day)
            for asked in SCRIPT:
                if asked.incident and asked.at - timedelta(days=3) == day:
                    self._incident(asked, day)
                if asked.at == day:
                    self._open(asked, day)
            for release in self._releases():
                self._advance(release, day)
            for name, incident in self.incidents.items():
                self.incidents[name] = sample_incidents.follow(self.tx, incident, self._releases(), day)
            self._others(day)
            self.hub.live(day)
            for said in (said for said in ASIDE if said[0] == day):
                say(self.tx, said[1], at=day, actor=said[2], kind=said[3], name=said[4], because=said[5])
            day += DAY

    def _others(self, day: datetime) -> None:
        """What happens to the two other models on this day."""
        if day == _day(9, 2):
            self.other = declare(self.tx, sample_documents.missed_connection(), at=day, actor=ADA)
        if day == _day(9, 3) and self.other:
            sample_incidents.first_release(self.tx, self.other, opened=day)
        if day == _day(11, 20):
            declare(self.tx, sample_documents.baggage_load(), at=day, actor=GRACE)
        if day == _day(12, 9) and self.other:
            sample_incidents.waiting_release(self.tx, self.other, opened=day)

    def _releases(self) -> list[Release]:
        return self.tx.releases("ops", "flight-delay", "production")

    def _live(self) -> Release | None:
        return routing.live(self._releases())

    def _register(self, asked: Asked, day: datetime) -> None:
        until = day - timedelta(days=16)
        self.versions[asked.version] = SampleVersion(number=asked.version, trained_until=until, handicap=asked.handicap)
        incident = self.incidents.get(asked.incident or "")
        version = Version(
            workspace="ops",
            model="flight-delay",
            number=asked.version,
            digest=digest_of("flight-delay", asked.version),
            format=Format.LIGHTGBM,
            file="model.lgb",
            signature=tuple(
                Column(name=name, type=kind)
                for name, kind in (("origin", "BYTES"), ("carrier", "BYTES"), ("dep_hour", "INT64"), ("temp", "FP64"))
            ),
            registered_at=day - timedelta(hours=1),
            registered_by=asked.by,
            source=f"mlflow: models:/flight-delay/{asked.version}",
            training=incident.training if incident else None,
            trained_until=until,
            size_bytes=412_300 + 1_700 * asked.version,
        )
        self.tx.put_version(version)
        data: dict[str, object] = {
            "version": version.number, "digest": version.digest, "format": str(version.format)
        }  # fmt: skip
        because = f"{version.reference} from mlflow, {version.size_bytes // 1000} kB in format {version.format}"
        say(
            self.tx,
            Action.VERSION_REGISTERED,
            at=version.registered_at,
            actor=asked.by,
            kind="version",
            name="flight-delay",
            because=because,
            data=data,
        )

    def _open(self, asked: Asked, day: datetime) -> None:
        if asked.version not in self.versions:
            self._register(asked, day)
        live = self._live()
        incident = self.incidents.get(asked.incident or "")
        release = Release(
            id=new_id("rel"),
            workspace="ops",
            model="flight-delay",
            environment="production",
            number=len(self.asked) + 1,
            version=asked.version,
            digest=digest_of("flight-delay", asked.version),
            previous=live.arm if live else None,
            document=digest(self.model),
            phase=Phase.PENDING,
            step=0 if asked.opened is Opened.ROLLBACK else GATES_STEP,
            step_started_at=day,
            opened=asked.opened,
            opened_at=day,
            opened_by=asked.by,
            incident=incident.id if incident else None,
            because=_why(asked, incident),
        )
        self.asked[release.id] = asked
        self.tx.add_release(release)
        say_release(self.tx, release, Action.RELEASE_OPENED, release.because, at=day, actor=asked.by)
        if asked.opened is Opened.ROLLBACK:
            say_release(self.tx, release, Action.ROLLBACK_REQUESTED, release.because, at=day, actor=asked.by)
        if incident is not None and incident.release is None:
            self.incidents[asked.incident or ""] = self.tx.save_incident(
                incident, msgspec.structs.replace(incident, release=release.id)
            )

    def _incident(self, asked: Asked, day: datetime) -> None:
        live = self._live()
        assert live is not None
        self.incidents[asked.incident or ""] = sample_incidents.detect(self.tx, live, asked.version, day, self.world)

    # --- what was measured

    def _measure(self, day: datetime) -> None:
        live = self._live()
        if live is None or live.promoted_at is None or live.promoted_at > day - DAY:
            return
        start = (day - 2 * DAY).replace(hour=0)
        self._window(live.version, start)
        for release in self._releases():
            compared = release.previous
            mirrored = release.active and release.entered and release.phase is Phase.PROGRESSING
            if compared is None or compared.digest == release.digest:
                continue
            since = release.promoted_at if release.phase is Phase.VERIFYING else release.step_started_at
            if since is not None and start >= since and (mirrored or release.phase is Phase.VERIFYING):
                self._pair(release, compared, start)

    def _window(self, number: int, start: datetime) -> None:
        version, rows = self.versions[number], self.world.rows(start)
        window = Window(
            workspace="ops",
            environment="production",
            model="flight-delay",
            digest=digest_of("flight-delay", number),
            version=number,
            start=start,
            end=start + DAY,
            rows=rows,
            labelled=rows - 9,
            metrics={"roc_auc": self.world.auc(version, start), "log_loss": self.world.log_loss(version, start)},
            drift={"temp": max(self.world.auc(version, start) * -0.4 + 0.41, 0.02), "dep_hour": 0.03},
        )
        self.tx.evidence.put_window(window, b"")

    def _pair(self, release: Release, reference: Arm, start: datetime) -> None:
        compared = self.world.auc(self.versions[release.version], start)
        stable = self.world.auc(self.versions[reference.version], start)
        block = PairBlock(
            workspace="ops",
            environment="production",
            model="flight-delay",
            reference=reference.digest,
            compared=release.digest,
            metric="roc_auc",
            block=start,
            harm=stable - compared,
            value_reference=stable,
            value_compared=compared,
            n=self.world.rows(start) - 9,
        )
        self.tx.evidence.add_pair_block(block)

    def _evidence(self, release: Release) -> dict[str, Verdict]:
        since = release.promoted_at or release.step_started_at
        if release.previous is None:
            return {}
        blocks = self.tx.evidence.pair_blocks(
            "ops",
            "production",
            "flight-delay",
            reference=release.previous.digest,
            compared=release.digest,
            metric="roc_auc",
            since=since,
        )
        return {"roc_auc": judge_paired([b.harm for b in blocks], margin=0.02, metric="roc_auc")} if blocks else {}

    # --- what the planner makes of it

    def _advance(self, release: Release, day: datetime) -> None:
        if release.phase is Phase.HEALTHY:
            return
        asked = self.asked[release.id]
        for minute in range(60):  # more moves than any release makes on one day
            now = day + timedelta(minutes=minute)
            if asked.full_after and release.phase is Phase.PROGRESSING and now >= asked.at + asked.full_after:
                release = self.tx.save_release(release, msgspec.structs.replace(release, full=True))
            move = rolling_out.plan(self._facts(release, asked, now))
            if move is None:
                return
            release = carry_out(self.tx, release, move, now=now)

    def _facts(self, release: Release, asked: Asked, now: datetime) -> rolling_out.Facts:
        standing = routing.promoted(self._releases())
        newer = [r for r in standing if r.number > release.number] if release.promoted_at else []
        undone = bool(newer) and newer[0].opened is Opened.ROLLBACK
        broken = asked.errors and release.weight_pct == 10 and release.phase is Phase.PROGRESSING and release.entered
        guardrail = judge_error_rate(errors=asked.errors, requests=61, limit=0.001, requests_min=30)
        reading = rolling_out.GuardrailReading(name="error-rate", critical=True, verdict=guardrail)
        return rolling_out.Facts(
            now=now,
            release=release,
            policy=self.policy,
            tier=1,
            horizon=sample_documents.HORIZON,
            gates_declared=3,
            gates=_gates(release, asked),
            in_effect=True,
            analysis=self._evidence(release),
            guardrails=(reading,) if broken else (),
            stable=standing[-1].arm if standing else None,
            replaced_by=newer[0].number if newer and not undone else None,
            undone_by=newer[0].number if undone else None,
        )


def _why(asked: Asked, incident: Incident | None) -> str:
    if asked.opened is Opened.ROLLBACK:
        return "dispatch reports wrong estimates at EWR since Sunday; back to the version before while we look"
    if incident is not None:
        return f"remedy of an incident: {incident.because}"
    return "first version" if asked.version == 1 else f"version {asked.version} from the nightly pipeline"


def _gates(release: Release, asked: Asked) -> tuple[rolling_out.GateFact, ...]:
    names = ("log_loss paired, margin 0.03", "roc_auc drop, at most 0.01", "version.signature == production.signature")
    if release.previous is None:
        nothing = Verdict(outcome=Outcome.INCONCLUSIVE, because="no production version to compare with")
        return tuple(rolling_out.GateFact(gate=name, applies=False, verdict=nothing) for name in names)
    gain = -0.118 if asked.gate_fails else 0.012 + 0.002 * (asked.version % 5)
    loss = judge_paired(
        [-0.4 * gain + 0.004 * ((day * 5) % 7 - 3) for day in range(14)], margin=0.03, metric="log_loss"
    )
    drop = Verdict(
        outcome=Outcome.SUCCESSFUL if gain > -0.01 else Outcome.FAILED,
        because=f"roc_auc {0.731 + gain:.4f} against {0.731:.4f}, drop {-gain:+.4f}, at most 0.01, n=13104",
        metric="roc_auc",
        estimate=-gain,
        n=13_104,
        n_unit="rows",
        margin=0.01,
    )
    signature = Verdict(outcome=Outcome.SUCCESSFUL, because="the expression is true", n=1, n_unit="rows")
    verdicts: Sequence[Verdict] = (loss, drop, signature)
    return tuple(
        rolling_out.GateFact(gate=name, applies=True, verdict=verdict)
        for name, verdict in zip(names, verdicts, strict=True)
    )

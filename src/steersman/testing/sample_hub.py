"""The sample's third workspace: a dozen models whose newest release waits, is undecided, or did not make it.

Each shows one way to stand there (`shows`), at the end of the sample's year. The releases are moved by the real planner,
from facts the real loop gathers and verdicts it weighs from the store; invented are the numbers a block says, and what
people and the world do.
"""

import hashlib
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

import msgspec

from steersman.decide import rolling_out
from steersman.decide.explaining import Reason
from steersman.decide.guardrails import judge_budget, judge_error_rate
from steersman.decide.steering import pause
from steersman.decide.steps import GATES_STEP
from steersman.domain import spec
from steersman.domain.events import Action
from steersman.domain.identifiers import new_id
from steersman.domain.release import Cause, Completion, Opened, Phase, Release
from steersman.domain.verdicts import Outcome, Verdict
from steersman.domain.version import Column, Format, Version
from steersman.loop.gathering import Budget, Seen, budget_key, gather, present_pairing
from steersman.loop.observer import Pairing
from steersman.store.records import Cohort, PairBlock, StoredDocument, Window
from steersman.store.transaction import Transaction
from steersman.testing.sample_documents import document
from steersman.testing.sample_moves import carry_out, declare, say_release
from steersman.testing.sample_numbers import DAY

WORKSPACE = "hub"

ROWS_PER_DAY = 640
"""Requests of one model on a day, about: a block then has enough in every arm of a 10 % split."""

MAKER, OPERATOR = "noor@example.com", "grace@example.com"


def _shadow(**analysis: Any) -> list[dict[str, Any]]:
    """Judged on copies first, then a canary, then a bake."""
    judged = {"metrics": ["log_loss"], "margin": 0.02, "critical": True, "maxDuration": "10d", **analysis}
    return [
        {"mirror": {"percent": 100}},
        {"analysis": {"onInconclusive": "pause", **judged}},
        {"setWeight": 10},
        {"pause": {"duration": "1d"}},
        {"setWeight": 100},
        {"promote": {}},
        {"bake": {"duration": "7d", "metrics": ["log_loss"]}},
    ]


def _split(**analysis: Any) -> list[dict[str, Any]]:
    """Judged on a tenth of the requests."""
    judged = {"metrics": ["log_loss"], "mode": "split", "margin": 0.03, "critical": True, "maxDuration": "14d"}
    return [
        {"setWeight": 10},
        {"analysis": {**judged, "onInconclusive": "rollback", **analysis}},
        {"setWeight": 100},
        {"promote": {}},
        {"bake": {"duration": "7d"}},
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One model and what happens to its release. `began` days before the end it is opened.

    `harm` is what a block says on average, `spread` how far blocks lie apart; `slices` the harm of single values of
    `terminal`; `labelled` the share of requests with a label, `drawn` the share of them the candidate got. `held` is the
    step at which a person pauses it, `stuck` the weight at which the world does not follow.
    """

    name: str
    purpose: str
    shows: Reason
    steps: Sequence[Mapping[str, Any]]
    began: int = 9
    tier: int = 1
    harm: float = -0.004
    spread: float = 0.009
    harm_baked: float | None = None
    slices: Mapping[str, float] = field(default_factory=dict)
    labelled: float = 0.98
    drawn: float = 0.1
    gate: Outcome = Outcome.SUCCESSFUL
    errors: int = 0
    held: int | None = None
    stuck: float | None = None
    second: bool = False
    policy: Mapping[str, Any] = field(default_factory=dict)


CASES: tuple[Case, ...] = (
    Case(
        name="gate-hold",
        purpose="Minutes a departing aircraft is held at its gate",
        shows=Reason.HELD,
        steps=_shadow(),
        held=3,
        began=11,
    ),
    Case(
        name="turnaround",
        purpose="Probability that an aircraft is not ready in its planned turnaround",
        shows=Reason.UNDECIDED,
        steps=_shadow(),
        harm=0.013,
        spread=0.022,
        began=14,
    ),
    Case(
        name="boarding-queue",
        purpose="Probability that boarding ends late",
        shows=Reason.GATE_FAILED,
        steps=_shadow(),
        gate=Outcome.FAILED,
    ),
    Case(
        name="crew-rest",
        purpose="Probability that a crew runs into its rest time",
        shows=Reason.GATE_UNDECIDED,
        steps=_shadow(),
        gate=Outcome.INCONCLUSIVE,
    ),
    Case(
        name="stand-change",
        purpose="Probability that an arriving aircraft is sent to another stand",
        shows=Reason.GUARDRAIL_BROKEN,
        steps=_shadow(),
        errors=5,
        policy={"guardrails": [{"name": "error-rate", "limit": "<= 0.5%", "critical": True}]},
    ),
    Case(
        name="de-icing",
        purpose="Probability that a departure needs de-icing",
        shows=Reason.APPROVAL_LACKING,
        steps=[{"mirror": {}}, {"approval": {"role": "validator", "count": 1}}, *_shadow()[2:]],
    ),
    Case(
        name="fuel-uplift",
        purpose="Probability that the planned fuel is not enough",
        shows=Reason.FROZEN,
        steps=_shadow(),
        began=3,
        policy={
            "freeze": [
                {
                    "startsAt": "2013-12-09T00:00:00Z",
                    "endsAt": "2013-12-16T06:00:00Z",
                    "reason": "winter schedule comes into force",
                }
            ]
        },
    ),
    Case(
        name="bag-transfer",
        purpose="Probability that a bag misses its connection",
        shows=Reason.QUEUED,
        steps=_shadow(maxDuration="21d"),
        spread=0.03,
        began=8,
        second=True,
    ),
    Case(
        name="security-wait",
        purpose="Probability that the line at security takes over 20 minutes",
        shows=Reason.SPLIT_DOUBTED,
        steps=_split(),
        drawn=0.16,
    ),
    Case(
        name="runway-queue",
        purpose="Probability that a departure waits over 15 minutes for the runway",
        shows=Reason.COLLECTING,
        steps=_split(),
        spread=0.03,
    ),
    Case(
        name="meal-count",
        purpose="Probability that a meal is left over",
        shows=Reason.LABELS_AWAITED,
        steps=_shadow(),
        labelled=0.11,
        began=7,
    ),
    Case(
        name="lounge-load",
        purpose="Probability that a lounge is full in the next hour",
        shows=Reason.UNLABELLED_ENDED,
        steps=_shadow(onInconclusive="rollback"),
        labelled=0.31,
        began=13,
    ),
    Case(
        name="tow-demand",
        purpose="Probability that a tug is needed within ten minutes",
        shows=Reason.BAKE_FAILED,
        steps=_shadow(),
        harm_baked=0.06,
        began=18,
    ),
    Case(
        name="late-passenger",
        purpose="Probability that a checked-in passenger is not at the gate",
        shows=Reason.ANALYSIS_FAILED,
        steps=_shadow(slices=["terminal"], sliceMargin=0.03),
        slices={"A": -0.006, "B": 0.075, "C": -0.004},
    ),
    Case(
        name="belt-choice",
        purpose="Probability that a bag comes on another belt than announced",
        shows=Reason.SUPERSEDED,
        steps=_shadow(maxDuration="21d"),
        spread=0.03,
        began=8,
        second=True,
        policy={"concurrency": "supersede"},
    ),
    Case(
        name="pier-crowd",
        purpose="Probability that a pier is crowded in half an hour",
        shows=Reason.DEADLINE,
        steps=_shadow(),
        stuck=10.0,
    ),
    Case(
        name="missed-slot",
        purpose="Probability that a departure misses its slot",
        shows=Reason.VERIFYING,
        steps=_shadow(),
        began=14,
    ),
    Case(
        name="ramp-staff",
        purpose="Probability that a stand lacks staff on arrival",
        shows=Reason.BUDGET_USED_UP,
        steps=_shadow(),
        began=6,
        policy={"guardrails": [{"name": "error-budget", "burnRate": {"objective": "99.9%", "holdsReleases": True}}]},
    ),
)
"""Every way to stand that a person is asked about, one model each; `shows` is the newest release's, or where a second one
was opened, that of the release it is about."""

FIRST_DAYS = 24
"""Days before the end at which the hub begins: its first versions answer since then."""


@dataclass(slots=True)
class Hub:
    """Lets every case live day by day."""

    tx: Transaction
    ends: datetime
    documents: dict[str, StoredDocument] = field(default_factory=dict)
    models: dict[str, spec.Model] = field(default_factory=dict)

    def live(self, day: datetime) -> None:
        """One day of the workspace; nothing before it begins."""
        if day == self.ends - FIRST_DAYS * DAY:
            for case in CASES:
                self._begin(case, day)
        if day <= self.ends - FIRST_DAYS * DAY:
            return
        for case in CASES:
            if day == self.ends - case.began * DAY:
                self._open(case, 2, day)
            if case.second and day == self.ends - DAY:
                self._open(case, 3, day)
            for release in self._releases(case):
                if release.completion is None:
                    self._measure(case, release, day)
                    self._advance(case, release, day)
            if day >= self.ends - 10 * DAY:
                self._window(case, day)

    def _releases(self, case: Case) -> list[Release]:
        return self.tx.releases(WORKSPACE, case.name, "production")

    def _begin(self, case: Case, day: datetime) -> None:
        """The document, and the version that answered all the time."""
        model = _declared(case)
        self.models[case.name] = model
        self.documents[case.name] = declare(self.tx, model, at=day, actor=MAKER)
        first = msgspec.structs.replace(
            self._release(case, 1, day),
            phase=Phase.HEALTHY,
            step=len(case.steps) - 1,
            weight_pct=100.0,
            exposed=True,
            promoted_at=day,
            closed_at=day,
            verified_at=day,
            completion=Completion.PROMOTED,
        )
        self.tx.add_release(first)
        for action, actor in ((Action.RELEASE_OPENED, MAKER), (Action.RELEASE_PROMOTED, "system")):
            say_release(self.tx, first, action, "first version", at=day, actor=actor)

    def _open(self, case: Case, number: int, day: datetime) -> None:
        release = self._release(case, number, day)
        for older in self._releases(case):
            if older.active and case.policy.get("concurrency") == "supersede":
                why = "a newer release takes its place"
                move = rolling_out.degrade(older, Completion.SUPERSEDED, now=day, because=why, cause=Cause.SUPERSEDED)
                carry_out(self.tx, older, move, now=day, actor=MAKER)
        self.tx.add_release(release)
        say_release(self.tx, release, Action.RELEASE_OPENED, release.because, at=day, actor=MAKER)

    def _release(self, case: Case, number: int, day: datetime) -> Release:
        self.tx.put_version(_version(case.name, number, day))
        promoted = [r for r in self._releases(case) if r.promoted_at is not None and r.degraded_at is None]
        return Release(
            id=new_id("rel"),
            workspace=WORKSPACE,
            model=case.name,
            environment="production",
            number=number,
            version=number,
            digest=_digest(case.name, number),
            previous=promoted[-1].arm if promoted else None,
            document=self.documents[case.name].digest,
            phase=Phase.PENDING,
            step=GATES_STEP,
            step_started_at=day,
            opened=Opened.COMMAND,
            opened_at=day,
            opened_by=MAKER,
            because="first version" if number == 1 else "retrained with the rows of November",
        )

    # --- what people and the world do

    def _advance(self, case: Case, release: Release, day: datetime) -> None:
        for minute in range(
            40
        ):  # more moves than any release makes on one day, and past the deadline of one that is stuck
            now = day + timedelta(minutes=minute)
            if case.held == release.step and release.phase is Phase.PROGRESSING and release.entered:
                said = f"paused by {OPERATOR}: the label feed of pier C stood still on Sunday"
                carry_out(self.tx, release, pause(release, now=now, because=said), now=now, actor=OPERATOR)
                return
            move = rolling_out.plan(self._facts(case, release, now))
            if move is None and release.weight_pct != case.stuck:
                return
            if move is not None:
                release = carry_out(self.tx, release, move, now=now)

    def _facts(self, case: Case, release: Release, now: datetime) -> rolling_out.Facts:
        stuck = case.stuck is not None and release.weight_pct == case.stuck
        model = self.models[case.name]
        policy = model.spec.environments["production"]
        for guardrail in policy.guardrails:
            if guardrail.burn_rate is not None:
                self._use_up(case, guardrail.burn_rate, now)
        known = gather(
            self.tx,
            release,
            self._releases(case),
            model,
            environment=spec.EnvironmentSpec(),
            now=now,
            seen=Seen(in_effect=not stuck, drained=True, broken=None),
        )
        erring = case.errors and release.weight_pct == 10 and release.entered
        reading = judge_error_rate(errors=case.errors, requests=88, limit=0.005, requests_min=30)
        guardrails = (rolling_out.GuardrailReading(name="error-rate", critical=True, verdict=reading),)
        return replace(
            known,
            gates=_gates(case),
            guardrails=guardrails if erring else (),
            awaited_since=release.step_started_at if stuck else None,
        )

    def _use_up(self, case: Case, rule: spec.BurnRate, now: datetime) -> None:
        used = judge_budget(errors=191, requests=139_200, budget=rule.budget, requests_min=30, period=rule.period)
        self.tx.put_monitor_state(WORKSPACE, case.name, "production", budget_key(rule), Budget(at=now, verdict=used))

    # --- what was measured

    def _measure(self, case: Case, release: Release, day: datetime) -> None:
        """The block that matured this morning, where the release's step compares."""
        model = self.models[case.name]
        pairing = present_pairing(release, model.spec.environments["production"])
        start = (day - 2 * DAY).replace(hour=0)
        if pairing is None or start < pairing.since:
            return
        baked = release.phase is Phase.VERIFYING and case.harm_baked is not None
        harm = case.harm_baked if baked and case.harm_baked is not None else case.harm
        self._block(case, pairing, start, "", harm, ROWS_PER_DAY)
        for value, suffers in case.slices.items() if pairing.slices else ():
            self._block(case, pairing, start, f"terminal={value}", suffers, ROWS_PER_DAY // 3)

    def _block(self, case: Case, pairing: Pairing, start: datetime, name: str, harm: float, rows: int) -> None:
        noise = random.Random(f"{case.name}/{name}/{start:%Y%m%d}")  # noqa: S311 - invented numbers
        split = pairing.mode is spec.AnalysisMode.SPLIT
        theirs = round(rows * (1.0 - case.drawn)) if split else rows
        ours = 10 * rows - 10 * theirs if split else rows
        theirs = 10 * theirs if split else theirs
        pair: dict[str, Any] = {
            "workspace": WORKSPACE,
            "environment": "production",
            "model": case.name,
            "reference": pairing.reference,
            "compared": pairing.compared,
            "block": start,
            "mode": str(pairing.mode),
            "slice": name,
        }
        self.tx.evidence.add_cohort(
            Cohort(
                **pair,
                matured_reference=theirs,
                matured_compared=ours,
                labelled_reference=round(theirs * case.labelled),
                labelled_compared=round(ours * case.labelled),
                drawn_reference=theirs if split else 0,
                drawn_compared=ours if split else 0,
                share=0.1 if split else 0.0,
                digest="sha256:" + hashlib.sha256(f"{case.name} {name} {start}".encode()).hexdigest(),
            )
        )
        value = 0.41 + noise.gauss(0.0, 0.02)
        measured = harm + noise.gauss(0.0, case.spread)
        labelled = round(min(ours, theirs) * case.labelled)
        self.tx.evidence.add_pair_block(
            PairBlock(
                **pair,
                metric="log_loss",
                harm=measured,
                value_reference=value,
                value_compared=value + measured,
                n=labelled,
                n_reference=round(theirs * case.labelled),
                n_compared=round(ours * case.labelled),
            )
        )

    def _window(self, case: Case, day: datetime) -> None:
        noise = random.Random(f"{case.name}/{day:%Y%m%d}")  # noqa: S311 - invented numbers
        serving = [r for r in self._releases(case) if r.promoted_at is not None and r.degraded_at is None][-1]
        start = (day - 2 * DAY).replace(hour=0)
        self.tx.evidence.put_window(
            Window(
                workspace=WORKSPACE,
                environment="production",
                model=case.name,
                digest=serving.digest,
                version=serving.version,
                start=start,
                end=start + DAY,
                rows=ROWS_PER_DAY,
                labelled=round(ROWS_PER_DAY * case.labelled),
                metrics={"log_loss": 0.41 + noise.gauss(0.0, 0.02)},
            ),
            b"",
        )


def _declared(case: Case) -> spec.Model:
    production = {"strategy": {"canary": {"steps": list(case.steps)}}, **case.policy}
    return document(
        case.name,
        "team-hub@example.com",
        case.purpose,
        case.tier,
        WORKSPACE,
        serving={"replicas": 2, "idempotent": True, "stickyBy": "stand", "keepWarm": 1},
        holdout={"dataset": "turnarounds", "last": "14d"},
        gates=[{"metric": "log_loss", "vs": "production", "test": "paired", "block": "1d", "margin": 0.03}],
        environments={"production": production},
    )


def _gates(case: Case) -> tuple[rolling_out.GateFact, ...]:
    estimate, lower, upper = {
        Outcome.SUCCESSFUL: (-0.006, -0.019, 0.007),
        Outcome.FAILED: (0.071, 0.044, 0.098),
    }.get(case.gate, (0.021, -0.008, 0.05))
    where = {Outcome.SUCCESSFUL: "below", Outcome.FAILED: "above"}.get(case.gate, "straddling")
    verdict = Verdict(
        outcome=case.gate,
        because=f"log_loss: harm {estimate:+.4f} [{lower:+.4f}, {upper:+.4f}], {where} the margin 0.03, 14 days",
        metric="log_loss",
        estimate=estimate,
        lower=lower,
        upper=upper,
        n=14,
        n_unit="days",
        margin=0.03,
        method="Student interval over days, 95 %",
    )
    return (rolling_out.GateFact(gate="log_loss paired, margin 0.03", applies=True, verdict=verdict),)


def _digest(name: str, number: int) -> str:
    return "sha256:" + hashlib.sha256(f"{WORKSPACE} {name} {number}".encode()).hexdigest()


def _version(name: str, number: int, at: datetime) -> Version:
    return Version(
        workspace=WORKSPACE,
        model=name,
        number=number,
        digest=_digest(name, number),
        format=Format.LIGHTGBM,
        file="model.lgb",
        signature=(Column(name="terminal", type="BYTES"), Column(name="minutes_left", type="FP64")),
        registered_at=at,
        registered_by=MAKER,
        source=f"mlflow: models:/{name}/{number}",
        size_bytes=208_000 + 900 * number,
    )

"""Every model one may see, at a glance, and how the whole is doing by six measures."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from steersman.console import wording
from steersman.console.views.entries import EntryView, entry_view, visible
from steersman.console.views.report import ReplayReport, replay_report
from steersman.console.views.timeline import Series, Span, environments_of, is_open, series, spans
from steersman.decide import kpis, routing
from steersman.decide.steps import step_name, steps_of
from steersman.domain import spec
from steersman.domain.access import Access, Permission
from steersman.domain.events import Action
from steersman.domain.incident import Incident
from steersman.domain.release import NOT_MADE, Phase, Release
from steersman.loop.standing import standing
from steersman.loop.world import Documents
from steersman.store.transaction import Transaction

RECENT_ENTRIES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """One figure about the whole, with what it rests on."""

    name: str
    value: str
    unit: str
    rests_on: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvironmentView:
    """`reason` is why the active release stands where it stands, or why the newest one, `fallen`, did not make it; `queued`
    releases wait behind the active one."""

    name: str
    live: Release | None
    active: Release | None
    fallen: Release | None
    reason: str
    queued: int
    step: str
    steps_done: int
    steps: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCard:
    workspace: str
    name: str
    owner: str
    purpose: str
    type: str
    tier: int
    environments: tuple[EnvironmentView, ...]
    incidents: tuple[Incident, ...]
    series: Series | None
    spans: tuple[Span, ...]
    begin: datetime
    end: datetime
    versions: int
    releases: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    workspaces: tuple[tuple[str, tuple[ModelCard, ...]], ...]
    measures: tuple[Measure, ...]
    recent: tuple[EntryView, ...]
    report: ReplayReport | None

    @property
    def models(self) -> int:
        return sum(len(cards) for _, cards in self.workspaces)

    @property
    def waiting(self) -> tuple[Release, ...]:
        """Releases that wait for a person."""
        cards = [card for _, cards in self.workspaces for card in cards]
        active = [env.active for card in cards for env in card.environments]
        return tuple(r for r in active if r is not None and r.phase is Phase.PAUSED)

    @property
    def fallen(self) -> tuple[Release, ...]:
        """Newest releases of their place that did not make it."""
        cards = [card for _, cards in self.workspaces for card in cards]
        return tuple(env.fallen for card in cards for env in card.environments if env.fallen is not None)

    @property
    def incidents(self) -> tuple[Incident, ...]:
        return tuple(i for _, cards in self.workspaces for card in cards for i in card.incidents)


def fleet(tx: Transaction, access: Access, documents: Documents, *, now: datetime) -> Fleet:
    models = [m for m in documents.models(tx) if access.allows(Permission.MODEL_READ, m.metadata.workspace)]
    cards = [_card(tx, model, documents, now) for model in models]
    names = sorted({card.workspace for card in cards})
    grouped = tuple((name, tuple(_by_liveliness(c for c in cards if c.workspace == name))) for name in names)
    grouped = tuple(sorted(grouped, key=lambda pair: (-max(card.releases for card in pair[1]), pair[0])))
    size = tx.ledger.size()
    recent = [entry_view(row) for row in tx.ledger.rows(max(size - 3 * RECENT_ENTRIES, 0))]
    return Fleet(
        workspaces=grouped,
        measures=measures(tx, models, now=now),
        recent=visible(reversed(recent), access)[:RECENT_ENTRIES],
        report=replay_report(tx),
    )


def _by_liveliness(cards: Iterable[ModelCard]) -> list[ModelCard]:
    """Models with most releases first; equal ones by name."""
    return sorted(cards, key=lambda card: (-card.releases, card.name))


def _card(tx: Transaction, document: spec.Model, documents: Documents, now: datetime) -> ModelCard:
    workspace, name = document.metadata.workspace, document.metadata.name
    releases = tx.releases(workspace, name)
    names = environments_of(tx, document, releases)
    shown = "production" if "production" in names else names[-1] if names else "production"
    in_shown = [r for r in releases if r.environment == shown]
    windows = tx.evidence.windows(workspace, shown, name)
    begins = [*(r.opened_at for r in in_shown), *(window.start for window in windows)]
    return ModelCard(
        workspace=workspace,
        name=name,
        owner=document.metadata.owner,
        purpose=document.spec.purpose,
        type=str(document.spec.type),
        tier=document.spec.tier,
        environments=tuple(
            _environment(tx, environment, [r for r in releases if r.environment == environment], documents, now)
            for environment in reversed(names)
        ),
        incidents=tuple(incident for incident in tx.incidents(workspace, name) if is_open(incident)),
        series=series(document, in_shown, windows),
        spans=spans(in_shown),
        begin=min(begins, default=now),
        end=now,
        versions=len(tx.versions(workspace, name)),
        releases=len(releases),
    )


def _environment(
    tx: Transaction, name: str, releases: Sequence[Release], documents: Documents, now: datetime
) -> EnvironmentView:
    active = routing.in_progress(releases)
    fallen = releases[-1] if active is None and releases and releases[-1].completion in NOT_MADE else None
    told = active or fallen
    step, done, total = "", 0, 0
    if active is not None:
        model = documents.revision(tx, active.document)
        steps = steps_of(model.spec.environments.get(name, spec.EnvironmentPolicy()), active)
        total, done = len(steps), max(active.step, 0)
        step = step_name(steps[active.step]) if 0 <= active.step < total else "gates"
        if active.phase is Phase.PENDING or active.resumes is Phase.PENDING:
            step = "before the first step"
    return EnvironmentView(
        name=name,
        live=routing.live(releases),
        active=active,
        fallen=fallen,
        reason="" if told is None else standing(tx, documents, told, now=now).reason,
        queued=sum(r.active for r in releases) - (active is not None),
        step=step,
        steps_done=done,
        steps=total,
    )


def measures(tx: Transaction, models: Sequence[spec.Model], *, now: datetime) -> tuple[Measure, ...]:
    """The figures a team is measured by, over the models given and all of their history, in event time."""
    places = [(m.metadata.workspace, m.metadata.name) for m in models]
    releases = [r for place in places for r in tx.releases(*place)]
    found = kpis.measure(
        releases=releases,
        manual_changes=tx.ledger.count(Action.MANUAL_CHANGE_OBSERVED),
        incidents=[i for place in places for i in tx.incidents(*place)],
        trainings=[t for place in places for t in tx.trainings(*place)],
        since=min((r.opened_at for r in releases), default=now),
        until=now,
    )
    automated, retrained = found.automated, found.retrainings
    by_hand = automated.whole - automated.part
    often = retrained.per_month
    return (
        _share("Automated deployments", automated, f"{automated.part} by release, {by_hand} by hand"),
        _duration("Time to detect", found.detect, "incident", "incidents"),
        _duration("Time to resolve", found.resolve, "resolved", "resolved"),
        Measure(
            name="Retrained",
            value=wording.NOTHING if often is None else f"{often:.1f}",
            unit="" if often is None else "a month",
            rests_on=f"n = {retrained.started} in {wording.span(retrained.span)}",
        ),
        _share(
            "Retrainings promoted",
            retrained.promoted,
            f"{retrained.promoted.part} of {retrained.promoted.whole} finished",
        ),
        _stopped(releases),
    )


def _share(name: str, share: kpis.Share, rests_on: str) -> Measure:
    value = share.value
    shown = wording.NOTHING if value is None else f"{100 * value:.0f}"
    return Measure(name=name, value=shown, unit="" if value is None else "%", rests_on=rests_on)


def _duration(name: str, found: kpis.Durations, one: str, many: str) -> Measure:
    rests_on = f"median, n = {wording.counted(found.n, one, many)}" + (f", {found.open} open" if found.open else "")
    if found.median is None:
        return Measure(name=name, value=wording.NOTHING, unit="", rests_on=rests_on)
    days = found.median / timedelta(days=1)
    value, unit = (f"{days:.1f}".removesuffix(".0"), "days") if days >= 1 else (f"{days * 24:.1f}", "hours")
    return Measure(name=name, value=value, unit=unit, rests_on=rests_on)


def _stopped(releases: Sequence[Release]) -> Measure:
    """Candidates that were turned down, and how many of them had not answered anyone."""
    refused = [r for r in releases if r.degraded_at is not None]
    unseen = sum(1 for r in refused if not r.exposed)
    return Measure(
        name="Bad candidates stopped",
        value=str(len(refused)),
        unit=f"of {len(releases)}",
        rests_on=f"{unseen} before answering anyone",
    )

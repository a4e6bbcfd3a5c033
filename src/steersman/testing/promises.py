"""What must never happen, told without the code that is to keep it: from routes, releases and ledger entries alone.

`Witness` writes down what every configuration was and how long the ledger was when the router got it. `broken` reads that
and names each promise that was not kept. Nothing of `decide` or `loop` is imported here, on purpose.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, cast

import msgspec

from steersman.dataplane.configuration import RouterConfiguration
from steersman.domain.release import Release
from steersman.ledger.entry import Entry, parse_entry
from steersman.testing.story import Story

APPROVERS_OF_TIER = {0: 0, 1: 0, 2: 1, 3: 2}
"""People who must agree, from the table in docs/releases.md; a hotfix needs one more."""


@dataclass
class Witness:
    """Stands beside the router. `frozen` are the periods in which nothing may be promoted but rollbacks and hotfixes."""

    tier: int
    approvals_at_steps: dict[int, int] = field(default_factory=dict)
    applied: list[tuple[int, RouterConfiguration]] = field(default_factory=list)
    frozen: list[tuple[datetime, datetime, int]] = field(default_factory=list)

    def watch(self, story: Story) -> None:
        apply = story.router.apply

        def seen(configuration: bytes) -> None:
            apply(configuration)
            wanted = msgspec.json.decode(configuration, type=RouterConfiguration)
            self.applied.append((self.story_now.chapter, wanted))

        self.story_now = story
        story.router.apply = seen  # type: ignore[method-assign]

    def broken(self, story: Story) -> list[str]:
        """Every promise that was not kept so far; empty when all is well."""
        self.story_now = story
        with story.store.read() as tx:
            entries = [parse_entry(row.body) for row in tx.ledger.rows()]
            releases = tx.releases()
        told = Told(entries, {r.id: r for r in releases})
        return [
            *self._unearned(told),
            *self._odd_routes(),
            *self._undecided(told),
            *self._in_a_freeze(told),
            *_twice(told, releases),
            *_after_the_end(told, self.applied, releases),
        ]

    # --- traffic and promotions, and what must have come before

    def _unearned(self, told: "Told") -> Iterator[str]:
        for position, configuration in self.applied:
            for route in configuration.routes:
                for variant in route.variants:
                    release = told.releases.get(variant.release)
                    if release is None or variant.weight_pct <= 0:
                        continue
                    yield from self._lacks(told, release, position, f"traffic to release {release.number}")
        for index, entry in enumerate(told.entries):
            if entry.action == "release.promoted":
                release = told.named(entry.object.name)
                yield from self._lacks(told, release, index, f"promotion of release {release.number}")

    def _lacks(self, told: "Told", release: Release, position: int, what: str) -> Iterator[str]:
        mine = [e for e in told.entries[:position] if e.object.name == told.name(release)]
        if release.opened == "rollback":
            lived = [told.named(e.object.name) for e in told.entries[:position] if e.action == "release.promoted"]
            if release.digest not in {other.digest for other in lived}:
                yield f"{what}: brought back, and never was promoted"
            return
        gated = [e for e in mine if e.action == "release.gated"]
        if not gated:
            yield f"{what} without its gates"
        elif any(v["outcome"] != "successful" for v in _verdicts(gated[-1])) and not _was_first(mine):
            yield f"{what} though a gate did not pass: {_verdicts(gated[-1])}"
        needed = APPROVERS_OF_TIER[self.tier] + (1 if release.hotfix else 0)
        if len(self._agreed(mine, -1, release)) < needed:
            yield f"{what} with {sorted(self._agreed(mine, -1, release))}, needs {needed} people"

    def _agreed(self, mine: Sequence[Entry], step: int, release: Release) -> set[str]:
        """People who agreed at a step and did not take it back before the release began that step; never its opener."""
        people: set[str] = set()
        for entry in mine:
            if entry.action == "release.approved" and entry.data.get("step") == step:
                people.add(str(entry.actor.subject))
            if entry.action == "release.approval_withdrawn" and entry.data.get("step") == step:
                people.discard(str(entry.data["approver"]))
        return people - {release.opened_by}

    def _undecided(self, told: "Told") -> Iterator[str]:
        """A step after an approval was begun without the people it asks for."""
        for index, entry in enumerate(told.entries):
            if entry.action not in ("release.step_started", "release.promoted"):
                continue
            release = told.named(entry.object.name)
            if release.opened == "rollback":
                continue
            mine = [e for e in told.entries[:index] if e.object.name == entry.object.name]
            reached = int(str(entry.data.get("step", 1_000)))
            for step, needed in self.approvals_at_steps.items():
                if step < reached and len(self._agreed(mine, step, release)) < needed:
                    yield f"release {release.number} passed the approval of step {step}"

    def _in_a_freeze(self, told: "Told") -> Iterator[str]:
        for starts, ends, since in self.frozen:
            for index, entry in enumerate(told.entries):
                if index >= since and entry.action == "release.promoted" and starts <= entry.at < ends:
                    release = told.named(entry.object.name)
                    if release.opened != "rollback" and not release.hotfix:
                        yield f"release {release.number} was promoted in a freeze"

    # --- routes in themselves

    def _odd_routes(self) -> Iterator[str]:
        for _position, configuration in self.applied:
            for route in configuration.routes:
                if abs(sum(variant.weight_pct for variant in route.variants) - 100) > 1e-6:
                    yield f"weights of generation {configuration.generation} do not sum to 100"
                if any(not variant.addresses for variant in route.variants):
                    yield f"generation {configuration.generation} routes to nobody"
                if len(route.variants) > 2:
                    yield f"generation {configuration.generation} has two candidates"


class Told:
    """The ledger's entries with the releases they are about."""

    def __init__(self, entries: Sequence[Entry], releases: dict[str, Release]) -> None:
        self.entries = entries
        self.releases = releases
        self._by_name = {self.name(release): release for release in releases.values()}

    @staticmethod
    def name(release: Release) -> str:
        return f"{release.model}/{release.environment}/{release.number}"

    def named(self, name: str) -> Release:
        return self._by_name[name]


def _verdicts(entry: Entry) -> list[dict[str, Any]]:
    return list(cast("list[dict[str, Any]]", entry.data.get("verdicts", [])))


def _was_first(mine: Sequence[Entry]) -> bool:
    """Whether there was no version a gate could compare the release's with when it was opened."""
    return any(e.action == "release.opened" and e.data.get("previous") is None for e in mine)


def _twice(told: Told, releases: Sequence[Release]) -> Iterator[str]:
    moving = [
        r.number
        for r in releases
        if r.completion is None
        and r.opened != "rollback"
        and (r.phase == "Progressing" or (r.phase == "Paused" and r.resumes == "Progressing"))
    ]
    if len(moving) > 1:
        yield f"two active releases: {moving}"
    ended = Counter(e.object.name for e in told.entries if e.action == "release.completed")
    if any(count > 1 for count in ended.values()):
        yield f"a release ended twice: {ended}"
    if len(ended) != sum(r.completion is not None for r in releases):
        yield "a release ended without an entry, or has an entry and did not end"


def _after_the_end(
    told: Told, applied: Sequence[tuple[int, RouterConfiguration]], releases: Sequence[Release]
) -> Iterator[str]:
    """Nothing of a release goes on after its end; one that was taken back answers no more once all has settled."""
    over: set[str] = set()
    for entry in told.entries:
        name = entry.object.name
        if entry.action in ("release.step_started", "release.promoted") and name in over:
            yield f"{entry.action} of {name} after its end"
        if entry.action == "release.completed":
            over.add(name)
    failed = {r.id for r in releases if r.completion in ("Aborted", "RolledBack", "Superseded")}
    for route in applied[-1][1].routes if applied else ():
        for variant in route.variants:
            if variant.release in failed:
                yield f"release {told.releases[variant.release].number} was taken back and answers"

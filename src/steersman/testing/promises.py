"""What must never happen, told without the code that is to keep it: from routes, releases, documents and ledger entries alone.

`Witness` stands beside the router and reads the ledger on from where it stopped. It follows each release along the steps its
document declares and notes every promise that was not kept. Nothing of `decide` or `loop` is imported here, on purpose.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import msgspec

from steersman.dataplane.configuration import Route, RouterConfiguration
from steersman.domain.durations import parse_duration
from steersman.domain.release import Release
from steersman.testing.story import Story

APPROVERS_OF_TIER = {0: 0, 1: 0, 2: 1, 3: 2}
"""People who must agree, from docs/releases.md ("Who must agree"); a hotfix needs one more."""

UNAPPROVED = ("dev", "staging")
"""From the same place: here only the document demands people."""

ONLY_WHAT_THE_DOCUMENT_ASKS = ("dev", "staging")
"""Environments, from the same page, where the tier demands nobody."""

EXPIRES_DEFAULT, WARM_DEFAULT = timedelta(days=7), timedelta(hours=1)
"""From docs/documents.md: how long an approval counts, and how long the other side stays after a blue-green switch."""

START = -1
"""The step number of what must come before the first step."""

TAKEN_BACK = ("Aborted", "RolledBack", "Superseded")


class Who(msgspec.Struct, frozen=True, kw_only=True):
    subject: str
    kind: str


class What(msgspec.Struct, frozen=True, kw_only=True):
    kind: str
    name: str


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """As much of a ledger entry as a promise rests on."""

    action: str
    at: datetime
    actor: Who
    object: What
    data: dict[str, Any]


_line = msgspec.json.Decoder(Line)
_configuration = msgspec.json.Decoder(RouterConfiguration)


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What one revision of a model's document says about one environment."""

    tier: int
    strategy: str
    steps: Sequence[tuple[str, Any]]
    approvals: int
    expires: timedelta
    after: str | None
    horizon: timedelta
    bake: timedelta

    @classmethod
    def of(cls, document: Mapping[str, Any], environment: str) -> "Rules":
        policy = document["spec"]["environments"][environment]
        ((strategy, body),) = policy.get("strategy", {"allAtOnce": {}}).items()
        steps = [next(iter(step.items())) for step in body.get("steps", [{"setWeight": 100}, {"promote": {}}])]
        approvals = policy.get("approvals")
        asked = approvals or {}
        tier = document["spec"].get("tier", 1)
        of_tier = 0 if environment in ONLY_WHAT_THE_DOCUMENT_ASKS else APPROVERS_OF_TIER[tier]
        warm = _time(body.get("warmFor"), WARM_DEFAULT) if strategy == "blueGreen" else timedelta()
        horizon = _time(document["spec"].get("groundTruth", {}).get("horizon"), timedelta())
        bakes = [_time(said["duration"], timedelta()) + horizon for kind, said in steps if kind == "bake"]
        return cls(
            tier=tier,
            strategy=strategy,
            steps=steps,
            approvals=max(of_tier, 0 if approvals is None else asked.get("required", 1)),
            expires=_time(asked.get("expires"), EXPIRES_DEFAULT),
            after=policy.get("after"),
            horizon=horizon,
            bake=max([warm, *bakes]),
        )

    def gives(self, weight_pct: float) -> int:
        """The first step that lets a candidate answer this share of the requests."""
        for index, (kind, said) in enumerate(self.steps):
            if kind == "promote" or (kind == "setWeight" and float(_weight(said)) >= weight_pct):
                return index
        return len(self.steps)


@dataclass(kw_only=True)
class Course:
    """One release as the ledger tells it; what is kept by step is of the last time the step began."""

    name: str
    environment: str
    opened: Line
    rules: Rules
    gated: bool = False
    begun: bool = False
    full: bool = False
    step: int = START
    passed: int = 0
    agreed: dict[int, dict[str, Line]] = field(default_factory=lambda: defaultdict(dict))
    started: dict[int, Line] = field(default_factory=dict)
    skipped: dict[int, Line] = field(default_factory=dict)
    analysed: dict[int, Line] = field(default_factory=dict)
    resumed: dict[int, Line] = field(default_factory=dict)
    promoted: Line | None = None
    degraded: Line | None = None
    completed: Line | None = None

    @property
    def rollback(self) -> bool:
        return bool(self.opened.data["opened"] == "rollback")

    @property
    def hotfix(self) -> bool:
        return bool(self.opened.data.get("hotfix", False))

    @property
    def digest(self) -> str:
        return str(self.opened.data["digest"])


@dataclass
class Witness:
    """Stands beside the router. `frozen` are the periods of production in which nothing may go on but rollbacks and
    hotfixes: from, to, and the entry from which on that was declared. `seen` counts what there was to see."""

    frozen: list[tuple[datetime, datetime, int]] = field(default_factory=list)
    seen: Counter[str] = field(default_factory=Counter)
    _applied: list[tuple[int, datetime, RouterConfiguration]] = field(default_factory=list)
    _found: dict[str, None] = field(default_factory=dict)
    _read: int = 0
    _courses: dict[str, Course] = field(default_factory=dict)
    _rows: dict[str, Release] = field(default_factory=dict)
    _declared: str = ""
    _authors: dict[str, set[str]] = field(default_factory=lambda: defaultdict(lambda: {"trainer"}))
    _waivers: dict[str, Line] = field(default_factory=dict)
    _waived: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    _retired: set[str] = field(default_factory=set)

    def watch(self, story: Story) -> None:
        apply = story.router.apply

        def seen(configuration: bytes) -> None:
            apply(configuration)
            now = self.story_now.clock.now()
            self._applied.append((self.story_now.chapter, now, _configuration.decode(configuration)))

        self.story_now = story
        story.router.apply = seen  # type: ignore[method-assign]

    def broken(self, story: Story) -> list[str]:
        """Every promise that was not kept so far; empty when all is well. To be asked when all has settled."""
        self.story_now = story
        with story.store.read() as tx:
            lines = [_line.decode(row.body) for row in tx.ledger.rows(self._read)]
            rows = tx.releases()
            documents = {
                digest: msgspec.json.decode(found.body)
                for digest in {str(line.data["document"]) for line in lines if line.action == "release.opened"}
                if (found := tx.document_by_digest(digest)) is not None
            }
        self._rows = {row.id: row for row in rows}
        applied, self._applied = self._applied, []
        for position, at, configuration in applied:
            self._tell(lines, documents, until=position)
            self._note(self._routes(configuration, at))
        self._tell(lines, documents, until=self._read + len(lines))
        self._note(self._settled(rows, story))
        return list(self._found)

    def _note(self, broken: Iterator[str]) -> None:
        self._found.update(dict.fromkeys(broken))

    def _tell(self, lines: list[Line], documents: Mapping[str, Any], *, until: int) -> None:
        while lines and self._read < until:
            line = lines.pop(0)
            self._note(self._entry(line, documents))
            self._read += 1

    # --- entry by entry

    def _entry(self, line: Line, documents: Mapping[str, Any]) -> Iterator[str]:
        self.seen[line.action] += 1
        match line.action:
            case "document.applied" if line.object.name.startswith("Model/"):
                self._declared = str(line.data["digest"])
            case "version.registered":
                self._authors[str(line.data["digest"])].add(line.actor.subject)
            case "version.retired":
                self._retired.add(str(line.data["digest"]))
            case "waiver.granted":
                self._waivers[str(line.data["waiver"])] = line
                if line.actor.subject in self._authors[str(line.data["digest"])]:
                    yield f"a waiver for {line.object.name} by its author"
            case "release.opened":
                yield from self._opened(line, documents)
            case action if action.startswith("release."):
                yield from self._goes_on(self._courses[line.object.name], line)

    def _opened(self, line: Line, documents: Mapping[str, Any]) -> Iterator[str]:
        environment = line.object.name.split("/")[1]
        rules = Rules.of(documents[str(line.data["document"])], environment)
        course = Course(name=line.object.name, environment=environment, opened=line, rules=rules)
        self._courses[line.object.name] = course
        self.seen[f"opened: {line.data['opened']}{' hotfix' if course.hotfix else ''} in {environment}"] += 1
        self.seen[f"strategy {rules.strategy}, tier {rules.tier}"] += 1
        if course.rollback:
            if course.digest not in {c.digest for c in self._promotions(environment)}:
                yield f"{course.name} brings back what never was promoted"
            return
        passes = [w for w in self._brought(course) if w.data["skips"] == rules.after]
        for waiver in self._brought(course):
            yield from self._uses(course, str(waiver.data["waiver"]), line.at)
        if rules.after is not None and not passes and not self._stood(course.digest, rules.after, line.at):
            yield f"{course.name} was opened though it did not stand in {rules.after}"

    def _brought(self, course: Course) -> list[Line]:
        return [self._waivers[str(w["waiver"])] for w in course.opened.data.get("waivers", [])]

    def _uses(self, course: Course, waiver: str, at: datetime) -> Iterator[str]:
        granted = self._waivers[waiver]
        self._waived[waiver].add(course.name)
        self.seen["waiver used"] += 1
        if len(self._waived[waiver]) > 1:
            yield f"a waiver was used more than once: {sorted(self._waived[waiver])}"
        if granted.actor.subject == course.opened.actor.subject:
            yield f"{course.name} uses a waiver of its opener"
        if (granted.data["digest"], granted.data["environment"]) != (course.digest, course.environment):
            yield f"{course.name} uses a waiver for something else"
        if at >= datetime.fromisoformat(granted.data["expires_at"]):
            yield f"{course.name} uses a waiver that expired"

    def _stood(self, digest: str, environment: str, at: datetime) -> bool:
        return any(
            row.digest == digest and row.environment == environment and row.verified_at and row.verified_at <= at
            for row in self._rows.values()
        ) and digest in {c.digest for c in self._standing(environment)}

    def _goes_on(self, course: Course, line: Line) -> Iterator[str]:
        if line.action in ("release.gated", "release.step_started", "release.promoted"):
            yield from self._may_go_on(course, line)
        match line.action:
            case "release.gated":
                course.gated = True
                compared = self._answering_beside(course)
                bad = [v for v in line.data.get("verdicts", []) if v["outcome"] != "successful"]
                if bad and compared is not None:
                    yield f"{course.name} went on though a gate did not pass: {bad}"
            case "release.approved":
                course.agreed[int(line.data["step"])][line.actor.subject] = line
            case "release.approval_withdrawn":
                course.agreed[int(line.data["step"])].pop(str(line.data["approver"]), None)
            case "release.step_started":
                step = int(line.data["step"])
                yield from self._lacks(course, step, line.at, f"step {step}")
                course.step = step
                course.started[step] = line
                for kept in (course.analysed, course.resumed):
                    kept.pop(step, None)
            case "release.step_skipped":
                yield from self._skips(course, line)
            case "release.analysed":
                course.analysed[course.step] = line
            case "release.resumed":
                course.full = course.full or bool(line.data.get("full"))
                course.resumed[course.step] = line
            case "release.promoted":
                promotes = next(i for i, (kind, _said) in enumerate(_steps(course)) if kind == "promote")
                yield from self._lacks(course, promotes, line.at, "promotion")
                course.promoted = line
            case "release.degraded":
                course.degraded = line
            case "release.completed":
                self.seen[f"completed: {line.data['completion']} in {course.environment}"] += 1
                if course.completed is not None:
                    yield f"{course.name} ended twice"
                course.completed = line

    def _may_go_on(self, course: Course, line: Line) -> Iterator[str]:
        if course.completed is not None or course.degraded is not None:
            yield f"{line.action} of {course.name} after its end"
        if course.environment != "production" or course.rollback or course.hotfix:
            return
        if any(s <= line.at < e and self._read >= since for s, e, since in self.frozen):
            yield f"{line.action} of {course.name} in a freeze"

    def _skips(self, course: Course, line: Line) -> Iterator[str]:
        step = int(line.data["step"])
        kind, _said = course.rules.steps[step]
        course.skipped[step] = line
        waiver = line.data.get("waiver")
        self.seen[f"skipped {kind} by {'a waiver' if waiver else 'promote'}"] += 1
        if kind not in ("analysis", "pause"):
            yield f"{course.name} skipped step {step}, {kind}"
        elif waiver is not None:
            granted = self._waivers[str(waiver)]
            if granted not in self._brought(course):
                yield from self._uses(course, str(waiver), line.at)
            elif line.at >= datetime.fromisoformat(granted.data["expires_at"]):
                yield f"{course.name} uses a waiver that expired"
        elif kind == "analysis" and course.rules.tier >= 2:
            yield f"{course.name} skipped step {step}, {kind}, of tier {course.rules.tier} without a waiver"
        elif line.actor.kind != "human" and not course.full:
            yield f"{course.name} skipped step {step}, {kind}, though nobody promoted it"

    # --- what must have come before

    def _lacks(self, course: Course, step: int, at: datetime, what: str) -> Iterator[str]:
        """What is missing for the release to be at `step` at this moment; each step before it is looked at once."""
        if course.rollback:
            return
        if not course.begun:
            course.begun = True
            if not course.gated:
                yield f"{what} of {course.name} without its gates"
            needed = course.rules.approvals + (1 if course.hotfix else 0)
            people = self._people(course, START, at)
            if len(people) < needed:
                yield f"{what} of {course.name} with {sorted(people)}, needs {needed} people"
        for passed in range(course.passed, step):
            because = self._not_passed(course, passed, at)
            if because is not None:
                yield f"{what} of {course.name} though step {passed}, {course.rules.steps[passed][0]}, {because}"
        course.passed = max(course.passed, step)

    def _not_passed(self, course: Course, step: int, at: datetime) -> str | None:
        kind, said = course.rules.steps[step]
        nobody = self._answering_beside(course) is None
        if step in course.skipped or (nobody and kind in ("mirror", "analysis", "pause")):
            return None
        started = course.started.get(step)
        if started is None:
            return "was never begun"
        if kind == "approval":
            people, needed = self._people(course, step, at), said.get("count", 1)
            return None if len(people) >= needed else f"has {sorted(people)}, needs {needed} people"
        if kind == "pause" and "duration" in said:
            return None if at >= started.at + _time(said["duration"], timedelta()) else "was not over"
        if kind == "pause":
            return None if step in course.resumed else "was resumed by nobody"
        if kind == "analysis":
            return None if _settled(course, step, said) else "was not judged"
        return None

    def _people(self, course: Course, step: int, at: datetime) -> set[str]:
        """Who agreed at a step to what is still so, and may: neither who opened the release nor who made the version."""
        other = self._answering_beside(course)
        beside = other.digest if other is not None else None
        return {
            person
            for person, approval in course.agreed[step].items()
            if approval.at <= at <= approval.at + course.rules.expires
            and approval.data["declared"] == self._declared
            and approval.data["previous"] == beside
            and approval.data["digest"] == course.digest
        } - {course.opened.actor.subject, *self._authors[course.digest]}

    # --- who answers

    def _promotions(self, environment: str) -> list[Course]:
        found = [c for c in self._courses.values() if c.environment == environment and c.promoted is not None]
        return sorted(found, key=lambda c: c.promoted.at if c.promoted else c.opened.at)

    def _standing(self, environment: str) -> list[Course]:
        """Promoted and not taken back, oldest first: a rollback takes back what came after the version it brings back."""
        standing: list[Course] = []
        for course in self._promotions(environment):
            if course.degraded is not None:
                continue
            if course.rollback:
                same = [index for index, other in enumerate(standing) if other.digest == course.digest]
                standing = standing[: same[-1]] if same else standing
            standing.append(course)
        return standing

    def _answering_beside(self, course: Course) -> Course | None:
        """What the release would replace."""
        others = [other for other in self._standing(course.environment) if other is not course]
        return others[-1] if others else None

    def _course(self, release_id: str) -> Course | None:
        row = self._rows.get(release_id)
        return None if row is None else self._courses.get(f"{row.model}/{row.environment}/{row.number}")

    # --- routes

    def _routes(self, configuration: RouterConfiguration, at: datetime) -> Iterator[str]:
        for route in configuration.routes:
            where = f"generation {configuration.generation} in {route.environment}"
            if abs(sum(variant.weight_pct for variant in route.variants) - 100) > 1e-6:
                yield f"weights of {where} do not sum to 100"
            if any(not variant.addresses for variant in route.variants):
                yield f"{where} routes to nobody"
            yield from self._answers(route, where, at)
            yield from self._copies(route, where)

    def _answers(self, route: Route, where: str, at: datetime) -> Iterator[str]:
        coming = 0
        for variant in route.variants:
            course = self._course(variant.release)
            if course is None:
                yield f"{where} routes to no release"
                continue
            if variant.digest in self._retired:
                yield f"{where} routes to a version that was retired"
            if variant.digest != course.digest:
                yield f"{where} routes to other bytes than {course.name} is about"
            if variant.weight_pct <= 0 or course.promoted is not None or course.rollback:
                continue
            coming += 1
            self.seen["traffic before promotion"] += variant.weight_pct < 100
            alone = len(route.variants) == 1
            gives = course.rules.gives(1 if alone else variant.weight_pct)
            yield from self._lacks(course, gives, at, f"traffic in {where} to the version")
        if coming > 1:
            yield f"{where} lets two active releases answer"

    def _copies(self, route: Route, where: str) -> Iterator[str]:
        for mirror in route.mirrors:
            course = self._course(mirror.release)
            if mirror.role == "mirror" and course is not None and not course.gated and not course.rollback:
                yield f"{where} copies requests to {course.name}, which passed no gates"

    # --- once all has settled

    def _settled(self, rows: Sequence[Release], story: Story) -> Iterator[str]:
        moving = Counter(
            row.environment
            for row in rows
            if row.completion is None
            and row.opened != "rollback"
            and (row.phase == "Progressing" or (row.phase == "Paused" and row.resumes == "Progressing"))
        )
        if any(count > 1 for count in moving.values()):
            yield f"two active releases: {dict(moving)}"
        for row in rows:
            course = self._courses[f"{row.model}/{row.environment}/{row.number}"]
            if (row.completion is None) is not (course.completed is None):
                yield f"{course.name} ended without an entry, or has an entry and did not end"
            lasted = row.verified_at - row.promoted_at if row.verified_at and row.promoted_at else None
            if lasted is not None and lasted < course.rules.bake:
                yield f"{course.name} was verified before its bake and label horizon had passed"
            if row.completion == "Promoted" and any(not s.data.get("waiver") for s in course.skipped.values()):
                yield f"{course.name} is Promoted though a person promoted past a step of it"
        configuration = story.router.configuration
        for route in configuration.routes if configuration is not None else ():
            for variant in route.variants:
                row_of = self._rows.get(variant.release)
                if row_of is not None and row_of.completion in TAKEN_BACK:
                    yield f"release {row_of.number} was taken back and answers"
        standing = self._standing("production")
        if standing and story.registry.alias.get("champion") != int(standing[-1].opened.data["version"]):
            yield f"champion is {story.registry.alias.get('champion')}, {standing[-1].name} answers"


def _settled(course: Course, step: int, said: Mapping[str, Any]) -> bool:
    """Whether an analysis was concluded in favour: by its verdicts, by what the document says, or by a person after it."""
    concluded = course.analysed.get(step)
    if concluded is None:
        return False
    outcomes = {verdict["outcome"] for verdict in concluded.data.get("verdicts", [])}
    within = said.get("onInconclusive") == "promoteWithinMargin" and course.rules.tier <= 1
    if outcomes == {"successful"} or (within and "failed" not in outcomes):
        return True
    return step in course.resumed and course.resumed[step].actor.kind == "human"


def _steps(course: Course) -> Sequence[tuple[str, Any]]:
    return [("setWeight", 100), ("promote", {})] if course.rollback else course.rules.steps


def _weight(said: Any) -> float:
    return float(said["weightPct"] if isinstance(said, dict) else said)


def _time(text: str | None, default: timedelta) -> timedelta:
    return default if text is None else parse_duration(text)

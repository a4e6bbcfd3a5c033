"""Made-up lives of one model: a document, people, a world that breaks, and a control server that dies and comes again.

Which lives are lived is the tests' to say (`tests/unit/loop`); here is what can happen in one. A `Witness` stands beside it.
"""

import contextlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from steersman.domain.errors import SteersmanError
from steersman.store.transaction import Transaction
from steersman.testing.promises import Witness
from steersman.testing.story import DATASET, LOOP, Story, model_document

VERSIONS = range(1, 6)
BETTER, BAD, FAILING, WORSE = 2, 3, 4, 5
"""Version 2 answers better than version 1; 3 so badly that a gate sees it, 5 so that only the shadow does; 4 fails every
second request."""


FRESHNESS = {"name": "freshness", "kind": "challenger", "metric": "roc_auc", "margin": 0.02}


@dataclass(frozen=True, kw_only=True)
class Declared:
    """What a life's document says; each field is drawn by itself."""

    strategy: str = "canary"
    tier: int = 2
    concurrency: str = "queue"
    staged: bool = False
    inconclusive: str = "rollback"
    watched: bool = False

    def document(self, revision: int = 0) -> dict[str, Any]:
        approvals = {"required": 1, "expires": "3d"}
        production = {
            "strategy": {self.strategy: self._strategy()},
            "guardrails": [{"name": "error-rate", "limit": "<= 0.1%", "critical": True}],
            "concurrency": self.concurrency,
            **({"approvals": approvals} if self.tier >= 2 else {}),
            **({"after": "staging"} if self.staged else {}),
        }
        staging = {
            "strategy": {"allAtOnce": {"steps": [{"setWeight": 100}, {"promote": {}}, {"bake": {"duration": "1d"}}]}}
        }
        freshness = {**FRESHNESS, "refresh": "60d", "blocksMin": 2}
        watched = {
            "monitors": [freshness],
            "incidents": {"rollbackWhen": "freshness"},
            "train": LOOP["train"],
            "retrain": {"mode": "register" if self.staged else "auto", "on": ["freshness"], "cooldown": "4d"},
        }
        bakes = any("bake" in step for step in self._strategy()["steps"])
        return model_document(
            tier=self.tier,
            purpose=f"Late or not, as of revision {revision}",
            environments={"production": production, **({"staging": staging} if self.staged else {})},
            gates=[{"metric": "roc_auc", "on": "holdout", "vs": "production", "maxDrop": 0.25}],
            holdout={"dataset": "flights", "last": "7d"},
            **(watched if self.watched and bakes else {}),
        )

    def _strategy(self) -> dict[str, Any]:
        judged = {"metrics": ["roc_auc"], "margin": 0.05, "critical": True, "maxDuration": "6d", "blocksMin": 3}
        shadow = [{"mirror": {}}, {"analysis": {**judged, "onInconclusive": self._when_inconclusive()}}]
        bake = {"bake": {"duration": "4d", "metrics": ["roc_auc"], "blocksMin": 2, "margin": 0.15}}
        match self.strategy:
            case "canary":
                ramp = [{"setWeight": 10}, {"pause": {"duration": "1d"}}, {"setWeight": 100}]
                return {"steps": [*shadow, {"approval": {}}, *ramp, {"promote": {}}, bake]}
            case "blueGreen":
                return {"steps": [*shadow, {"promote": {}}], "warmFor": "2d"}
            case "shadow":
                return {"steps": [*shadow, {"pause": {}}, {"promote": {}}, bake]}
            case _:
                return {"steps": [{"setWeight": 100}, {"promote": {}}, bake]}

    def _when_inconclusive(self) -> str:
        return "pause" if self.tier >= 2 and self.inconclusive == "promoteWithinMargin" else self.inconclusive


class Died(BaseException):
    """The control server is gone: no handler of the program sees this."""


class Life:
    """One made-up life of one model."""

    def __init__(self, folder: Path, declared: Declared) -> None:
        self.dies_at_effect: int | None = None
        self.dies_at_write: int | None = None
        self.story = self._mortal(Story.begin(folder, reached=self.reached))
        self.declared = declared
        self.revision = 0
        self.lived: Counter[str] = Counter()
        self.witness = Witness()
        self.witness.watch(self.story)
        for number in VERSIONS:
            self.story.registry.add(number)
        self.story.apply(DATASET, declared.document())
        for number in VERSIONS:
            self.story.commands.register("default", "delay", number, actor="ann")
        quality = {self.story.digest(number): how for number, how in ((BETTER, 2.0), (BAD, -0.5), (WORSE, 0.5))}
        self.story.traffic.quality = lambda digest, _day: quality.get(digest, 1.2)
        self.story.traffic.errors = {self.story.digest(FAILING): 0.5}
        self.story.traffic.rows = 120

    def reached(self, _point: str) -> None:
        """Before and after each effect, and after its record."""
        if self.dies_at_effect is not None:
            self.dies_at_effect -= 1
            if self.dies_at_effect < 0:
                self.dies_at_effect = None
                raise Died

    def _mortal(self, story: Story) -> Story:
        """The same, where the control server can die before or right after any commit."""
        original = story.store.write

        @contextlib.contextmanager
        def write() -> Iterator[Transaction]:
            dies, committed = self._dies_now()
            with original() as tx:
                yield tx
                if dies and not committed:
                    raise Died
            if dies:
                raise Died

        story.store.write = write  # type: ignore[method-assign]
        return story

    def _dies_now(self) -> tuple[bool, bool]:
        """Whether it dies at this transaction, and whether only after its commit."""
        if self.dies_at_write is None:
            return False, False
        self.dies_at_write -= 2
        if self.dies_at_write >= 0:
            return False, False
        committed, self.dies_at_write = self.dies_at_write == -1, None
        return True, committed

    def act(self, name: str, argument: int) -> None:
        story, commands = self.story, self.story.commands
        place = ("default", "delay")
        match name:
            case "release" | "hotfix" | "stage":
                environment = "staging" if name == "stage" else "production"
                hotfix = name == "hotfix"
                commands.release(*place, argument, environment, actor="ann", because="try it", hotfix=hotfix)
            case "carry":
                self.carry(argument)
            case "days":
                story.days(argument)
            case "agree":
                self.agree()
            case "rollback" | "rollback_staging":
                environment = "staging" if name == "rollback_staging" else "production"
                commands.rollback(*place, environment, actor="bob", because="back")
            case "retire":
                commands.retire(*place, argument, actor="bob", because="old")
            case "skip_staging":
                commands.waive(*place, argument, "production", skip="staging", actor="eve", because="in a hurry")
            case "waive":
                coming = [r.version for r in story.releases if r.active]
                version = coming[0] if coming else 1
                commands.waive(
                    *place, version, "production", skip=str(argument), actor="eve", because="known to be good"
                )
            case "lose_replica":
                story.target.replicas = story.target.replicas[1:]
            case "lose_router":
                story.router.configuration, story.router.misses = None, 1
            case "does_not_start":
                story.target.broken.add(story.digest(argument))
            case "starts_again":
                story.target.broken.discard(story.digest(argument))
            case "labels_corrected":
                story.traffic.corrections += 1
            case "challenge":
                story.set_challenger(argument)
            case "redeclare":
                self.revision += 1
                story.apply(self.declared.document(self.revision))
            case "accept_incident":
                for incident in story.incidents:
                    commands.accept_incident(incident.id, actor="bob", because="known")
            case "restart":
                self.restart()
            case "dies_at_effect":
                self.dies_at_effect = argument
            case "dies_at_write":
                self.dies_at_write = argument
            case "freeze":
                self.freeze(argument)
            case _:
                self.decide(name, argument)

    def carry(self, number: int) -> None:
        """What a team does when all goes well: release, agree, wait, agree again, wait; in staging before."""
        for environment in ("staging", "production") if self.declared.staged else ("production",):
            self.story.commands.release("default", "delay", number, environment, actor="ann", because="a good day")
            self.story.control.settle()
            for days in (3, 1, 2):
                self.agree()
                self.story.days(days)

    def agree(self) -> None:
        for release in self.story.releases:
            for person in range(3):
                with contextlib.suppress(SteersmanError):
                    self.story.commands.approve(release.id, actor=f"person-{person}", because="it looks well")
        self.story.control.settle()

    def restart(self) -> None:
        self.story = self._mortal(self.story.restart(reached=self.reached))
        self.witness.story_now = self.story

    def freeze(self, days: int) -> None:
        """The whole environment: also for releases that are on their way. The new document takes the old one's place."""
        now = self.story.clock.now()
        ends = now + timedelta(days=days)
        freeze = {"startsAt": now.isoformat(), "endsAt": ends.isoformat(), "reason": "holidays"}
        document = {"apiVersion": "steersman/v1", "kind": "Environment", "metadata": {"name": "production"}}
        self.story.apply({**document, "spec": {"order": 30, "freeze": [freeze]}})
        kept = [(starts, min(now, until), since) for starts, until, since in self.witness.frozen]
        self.witness.frozen = [*kept, (now, ends, self.story.chapter)]

    def decide(self, name: str, argument: int) -> None:
        """About the newest release there is something to decide about, or one before it."""
        coming = [r for r in self.story.releases if (r.completion is None) is (name != "retry")]
        if not coming:
            return
        release = coming[-1 - argument % len(coming)]
        if name == "promote_full":
            self.story.commands.promote(release.id, actor="bob", because="it is good", full=True)
            return
        command = getattr(self.story.commands, name.removesuffix("_author"))
        command(release.id, actor="ann" if name == "approve_author" else f"person-{argument}", because="a reason")

    def live(self, name: str, argument: int) -> None:
        """Do it, whatever becomes of it: refused, or the control server dies and another one comes."""
        self.lived[name] += 1
        asked = False
        while True:
            try:
                with contextlib.suppress(SteersmanError):
                    if not asked:  # whoever got no answer does not ask again
                        asked = True
                        self.act(name, argument)
                        self.lived[f"{name} done"] += 1
                self.story.control.settle()
                return
            except Died:
                self.lived["died"] += 1
                self.restart()

    def check(self) -> None:
        broken = self.witness.broken(self.story)
        assert not broken, "; ".join(broken)

    def end(self) -> None:
        """Whatever is still on its way can be stopped, and then it ends."""
        self.dies_at_effect = self.dies_at_write = None
        self.story.target.broken.clear()
        self.story.days(1)
        stopped = [release for release in self.story.releases if release.active]
        for release in stopped:
            self.story.commands.abort(release.id, actor="bob", because="enough")
        self.story.days(2)
        self.check()
        left = [release.number for release in stopped if self.story.reread(release).active]
        assert not left, f"releases {left} were stopped and go on"

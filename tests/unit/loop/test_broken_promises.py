"""That every promise can be broken, and is then seen: one rule of the product after the other is taken out."""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from steersman.decide import rolling_out, routing, steering
from steersman.decide.approving import counting, demanded_at_start
from steersman.domain import spec
from steersman.domain.approval import Binding
from steersman.domain.release import Completion, Release
from steersman.domain.traffic import Traffic
from steersman.loop import agreeing, commands, executor, gathering, opening, reconciler
from steersman.loop.commands import Commands
from steersman.loop.proving import Brought
from steersman.loop.reconciler import Reconciler
from steersman.store.agreements import AgreementTables
from steersman.testing.lives import BAD, FAILING, WORSE, Declared, Life

Patch = pytest.MonkeyPatch


def without_gates(patch: Patch) -> None:
    patch.setattr(rolling_out, "_pending", lambda facts: rolling_out._start(facts, "gates are for others"))


def failed_gates_do_not_matter(patch: Patch) -> None:
    gates = gathering._gates

    def pass_all(*args: Any) -> Any:
        found, broken = gates(*args)
        return None if found is None else tuple(replace(one, applies=False) for one in found), broken

    patch.setattr(gathering, "_gates", pass_all)


def copies_before_gates(patch: Patch) -> None:
    patch.setattr(routing, "mirrored_pct", lambda *_args: 100.0)


def without_approvals(patch: Patch) -> None:
    patch.setattr(rolling_out, "lacking", lambda *_args, **_kwargs: None)


def authors_agree_to_their_own(patch: Patch) -> None:
    patch.setattr(agreeing, "_refuse_author", lambda *_args: None)
    patch.setattr(gathering, "counting", lambda given, **known: counting(given, **{**known, "authors": ()}))


def withdrawn_approvals_count(patch: Patch) -> None:
    def all_of_them(given: Any, **known: Any) -> Any:
        return counting([replace(one, withdrawn=False) for one in given], **known)

    patch.setattr(gathering, "counting", all_of_them)


def approvals_never_expire(patch: Patch) -> None:
    for_ever = {"expires": timedelta(days=999)}
    patch.setattr(gathering, "counting", lambda given, **known: counting(given, **{**known, **for_ever}))


def approvals_for_anything(patch: Patch) -> None:
    patch.setattr(Binding, "changed", lambda *_args: None)


def hotfixes_are_nothing_special(patch: Patch) -> None:
    def alike(*args: Any, **known: Any) -> Any:
        return demanded_at_start(*args, **{**known, "hotfix": False})

    patch.setattr(rolling_out, "demanded_at_start", alike)


def deaf_to_freezes(patch: Patch) -> None:
    patch.setattr(gathering, "frozen", lambda *_args: None)


def two_at_once(patch: Patch) -> None:
    patch.setattr(gathering, "in_progress", lambda _releases: None)


def failures_that_stay(patch: Patch) -> None:
    """What failed keeps its share of the requests."""
    desired = reconciler.desired_traffic

    def traffic(releases: Sequence[Release], *args: Any, **kwargs: Any) -> Traffic | None:
        wanted, newest = desired(releases, *args, **kwargs), releases[-1]
        if wanted is None or newest.completion != "RolledBack":
            return wanted
        return msgspec.structs.replace(wanted, candidate=newest.arm, weight_pct=10.0)

    patch.setattr(reconciler, "desired_traffic", traffic)


def waivers_are_never_used_up(patch: Patch) -> None:
    patch.setattr(AgreementTables, "use_waiver", lambda *_args, **_kwargs: None)


def environments_in_any_order(patch: Patch) -> None:
    patch.setattr(opening, "bring_along", lambda *_args, **_kwargs: Brought())


def anybody_promotes_past_analyses(patch: Patch) -> None:
    for module in (rolling_out, steering):
        patch.setattr(module, "promotes_past", lambda *_args: True)


def shadows_are_not_awaited(patch: Patch) -> None:
    patch.setattr(rolling_out, "_analysis", lambda facts, _step: rolling_out._next(facts, "it looks well"))


def pauses_are_not_awaited(patch: Patch) -> None:
    passed_over = rolling_out._passed_over

    def hasty(facts: rolling_out.Facts, step: spec.Step) -> rolling_out.Move | None:
        if isinstance(step, spec.Pause) and facts.release.entered:
            return rolling_out._next(facts, "time is money")
        return passed_over(facts, step)

    patch.setattr(rolling_out, "_passed_over", hasty)


def bakes_are_not_awaited(patch: Patch) -> None:
    patch.setattr(rolling_out, "_verifying", lambda facts: rolling_out._stood(facts, Completion.PROMOTED, "it is done"))


def shadows_answer(patch: Patch) -> None:
    def some(release: Release, _policy: spec.EnvironmentPolicy) -> Release:
        return msgspec.structs.replace(release, weight_pct=5.0, exposed=True)

    patch.setattr(rolling_out, "with_weight", some)


def what_answers_may_retire(patch: Patch) -> None:
    patch.setattr(Commands, "_refuse_in_use", lambda *_args: None)


def rollbacks_go_anywhere(patch: Patch) -> None:
    def anywhere(releases: Sequence[Release], *_args: Any) -> Any:
        return releases[-1], msgspec.structs.replace(releases[-1], version=WORSE), releases[-1].opened_at

    patch.setattr(commands, "_to_go_back_to", anywhere)


def aliases_stay_where_they_are(patch: Patch) -> None:
    patch.setattr(Reconciler, "_project_alias", lambda *_args: None)


def haste_leaves_no_trace(patch: Patch) -> None:
    complete = rolling_out._complete
    patch.setattr(
        rolling_out, "_complete", lambda facts, _how, why, **more: complete(facts, Completion.PROMOTED, why, **more)
    )


PROMOTED = [("release", 1), ("approve", 1), ("days", 1), ("agree", 0), ("days", 1)]
"""The first release, which has nobody to be compared with: approvals before its start and at its step."""
JUDGED = [("agree", 0), ("waive", 1), ("days", 1), ("agree", 0), ("days", 2)]
"""What another one needs to get through shadow (waived), approval and canary."""
AGREED_IN_A_FREEZE = [("freeze", 1), ("release", 1), ("approve", 1)]
AGREED_TOO_EARLY = [("freeze", 5), *AGREED_IN_A_FREEZE[1:]]
CANARY, STAGED = Declared(), Declared(staged=True)


@pytest.mark.parametrize(
    ("broken_rule", "declared", "sequence", "named"),
    [
        (without_gates, CANARY, PROMOTED, "without its gates"),
        (failed_gates_do_not_matter, CANARY, [*PROMOTED, ("release", BAD), ("agree", 0)], "a gate did not pass"),
        (copies_before_gates, CANARY, [*PROMOTED, ("release", 2)], "which passed no gates"),
        (without_approvals, CANARY, [("release", 1), ("days", 1)], "needs 1 people"),
        (authors_agree_to_their_own, CANARY, [("release", 1), ("approve_author", 0)], "needs 1 people"),
        (withdrawn_approvals_count, CANARY, [*AGREED_IN_A_FREEZE, ("withdraw", 1), ("days", 2)], "needs 1 people"),
        (approvals_never_expire, CANARY, [*AGREED_TOO_EARLY, ("days", 6)], "needs 1 people"),
        (
            approvals_for_anything,
            CANARY,
            [*AGREED_IN_A_FREEZE, ("redeclare", 0), ("days", 2)],
            "needs 1",
        ),
        (hotfixes_are_nothing_special, CANARY, [("hotfix", 1), ("approve", 1)], "needs 2 people"),
        (deaf_to_freezes, CANARY, [*PROMOTED, ("freeze", 60), ("release", 2), *JUDGED], "in a freeze"),
        (two_at_once, CANARY, [*PROMOTED, ("release", 2), ("agree", 0), ("release", 2), ("agree", 0)], "two active"),
        (failures_that_stay, CANARY, [*PROMOTED, ("release", FAILING), *JUDGED], "was taken back and answers"),
        (
            waivers_are_never_used_up,
            STAGED,
            [("skip_staging", 1), ("release", 1), ("abort", 0), ("release", 1)],
            "used more than once",
        ),
        (environments_in_any_order, STAGED, [("release", 1)], "did not stand in staging"),
        (
            anybody_promotes_past_analyses,
            CANARY,
            [*PROMOTED, ("release", 2), ("agree", 0), ("promote", 0)],
            "without a waiver",
        ),
        (shadows_are_not_awaited, CANARY, [*PROMOTED, ("release", 2), ("agree", 0)], "was not judged"),
        (pauses_are_not_awaited, CANARY, [*PROMOTED, ("release", 2), *JUDGED[:-1]], "was not over"),
        (bakes_are_not_awaited, CANARY, PROMOTED, "before its bake and label horizon"),
        (shadows_answer, CANARY, [*PROMOTED, ("release", 2), ("agree", 0)], "traffic in generation"),
        (what_answers_may_retire, CANARY, [*PROMOTED, ("retire", 1), ("lose_router", 0)], "was retired"),
        (rollbacks_go_anywhere, CANARY, [*PROMOTED, ("rollback", 0)], "never was promoted"),
        (aliases_stay_where_they_are, CANARY, PROMOTED, "champion is None"),
        (
            haste_leaves_no_trace,
            Declared(tier=1, strategy="shadow"),
            [("release", 1), ("days", 1), ("release", 2), ("promote", 0), ("resume", 0), ("days", 9)],
            "a person promoted past",
        ),
    ],
)
def test_a_broken_rule_is_caught(
    broken_rule: Callable[[Patch], None],
    declared: Declared,
    sequence: list[tuple[str, int]],
    named: str,
    tmp_path: Path,
    monkeypatch: Patch,
) -> None:
    monkeypatch.setattr(executor, "BACKOFF_S", (0.0,))
    broken_rule(monkeypatch)
    life = Life(tmp_path, declared)
    with contextlib.suppress(AssertionError):  # a broken rule may trip one of the product's own checks as well
        for name, argument in sequence:
            life.live(name, argument)
    assert named in " ".join(life.witness.broken(life.story))
    life.story.store.close()


@pytest.mark.parametrize("declared", [CANARY, STAGED, Declared(tier=1, strategy="shadow")])
def test_where_the_rules_stand_the_same_lives_break_nothing(
    declared: Declared, tmp_path: Path, monkeypatch: Patch
) -> None:
    monkeypatch.setattr(executor, "BACKOFF_S", (0.0,))
    life = Life(tmp_path, declared)
    for name, argument in [*PROMOTED, ("skip_staging", 1), *PROMOTED, ("release", 2), *JUDGED, ("rollback", 0)]:
        life.live(name, argument)
    assert life.witness.broken(life.story) == []
    life.story.store.close()

"""Who should answer, and what should run: a function of the releases and of nothing else."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from steersman.decide.routing import desired_traffic, in_progress, live, live_at, promoted
from steersman.domain import spec
from steersman.domain.release import Completion, Opened, Phase, Release
from steersman.domain.traffic import Challenger, Traffic

START = datetime(2013, 3, 1, tzinfo=UTC)
POLICY = spec.EnvironmentPolicy(
    strategy=spec.Canary(
        steps=(
            spec.Mirror(percent=50),
            spec.SetWeight(weight_pct=10),
            spec.SetWeight(weight_pct=100),
            spec.Promote(),
            spec.Bake(duration=timedelta(days=14), metrics=("roc_auc",)),
        )
    )
)


def release(number: int, version: int | None = None, *, day: int | None = None, **changes: Any) -> Release:
    """Release `number` of a version (its own by default); with `day` it was promoted then and is finished."""
    version = number if version is None else version
    done = day is not None
    fields: dict[str, Any] = {
        "id": f"rel-{number}",
        "workspace": "default",
        "model": "delay",
        "environment": "production",
        "number": number,
        "version": version,
        "digest": f"sha256:{version}",
        "previous": None,
        "document": "sha256:d",
        "phase": Phase.HEALTHY if done else Phase.PENDING,
        "step": 5 if done else 0,
        "step_started_at": START,
        "opened": Opened.COMMAND,
        "opened_at": START,
        "opened_by": "ann",
        "promoted_at": START + timedelta(days=day) if day is not None else None,
        "completion": Completion.PROMOTED if done else None,
    }
    return Release(**{**fields, **changes})


def traffic(*releases: Release, keep_warm: int = 1, **changes: Any) -> Traffic:
    found = desired_traffic(
        releases, lambda _release: POLICY, **{"challenger": None, "keep_warm": keep_warm, **changes}
    )
    assert found is not None
    return found


def versions(releases: list[Release]) -> list[int]:
    return [r.version for r in releases]


def test_without_a_release_there_is_nothing_to_route() -> None:
    assert desired_traffic([], lambda _release: POLICY, challenger=None, keep_warm=1) is None


def test_the_newest_promoted_release_answers_and_the_one_before_stays_warm() -> None:
    found = traffic(release(1, day=0), release(2, day=10))
    assert found.stable == release(2).arm
    assert found.warm == (release(1).arm,)
    assert (found.candidate, found.weight_pct, found.mirrors) == (None, 0.0, ())


@pytest.mark.parametrize(("keep", "warm"), [(0, []), (1, [2]), (2, [2, 1]), (4, [2, 1])])
def test_as_many_stay_warm_as_the_document_says(keep: int, warm: list[int]) -> None:
    found = traffic(release(1, day=0), release(2, day=5), release(3, day=9), keep_warm=keep)
    assert [arm.version for arm in found.warm] == warm


def test_a_retired_version_stays_warm_no_longer() -> None:
    assert traffic(release(1, day=0), release(2, day=10), retired=frozenset({1})).warm == ()


def test_a_rollback_takes_back_what_was_promoted_after_the_version_it_brings_back() -> None:
    history = [release(1, day=0), release(2, day=5), release(3, day=9)]
    back = release(4, 2, day=12, opened=Opened.ROLLBACK)
    assert versions(promoted([*history, back])) == [1, 2]
    further = release(5, 1, day=13, opened=Opened.ROLLBACK)
    assert versions(promoted([*history, back, further])) == [1]


def test_what_was_taken_back_does_not_stand() -> None:
    fallen = release(2, day=5, degraded_at=START + timedelta(days=7))
    assert versions(promoted([release(1, day=0), fallen])) == [1]


def test_live_at_any_moment_is_what_stood_then() -> None:
    history = [
        release(1, day=0),
        release(2, day=5, degraded_at=START + timedelta(days=7)),
        release(3, day=9),
        release(4, 1, day=12, opened=Opened.ROLLBACK),
    ]
    stood = [live_at(history, START + timedelta(days=day)) for day in (-1, 0, 4, 5, 6, 7, 9, 12)]
    assert [None if r is None else r.version for r in stood] == [None, 1, 1, 2, 2, 1, 3, 1]
    assert live(history) == history[-1]


def test_the_oldest_on_its_way_goes_first_but_a_rollback_waits_for_nobody() -> None:
    queue = [release(1, day=0), release(2), release(3)]
    assert in_progress(queue) == queue[1]
    back = release(4, 1, opened=Opened.ROLLBACK)
    assert in_progress([*queue, back]) == back
    given_up = release(4, 1, opened=Opened.ROLLBACK, phase=Phase.DEGRADED)
    assert in_progress([*queue, given_up]) == queue[1]


def test_a_candidate_runs_from_the_start_gets_copies_from_its_mirror_step_and_requests_from_its_weight() -> None:
    stable = release(1, day=0)
    waiting = traffic(stable, release(2, previous=stable.arm, step=-1))
    assert (waiting.candidate, waiting.mirrors) == (None, ())
    assert release(2).arm in waiting.serving()

    mirrored = traffic(stable, release(2, previous=stable.arm, phase=Phase.PROGRESSING, step=0))
    assert [(m.arm.version, m.role, m.percent) for m in mirrored.mirrors] == [(2, "mirror", 50.0)]

    weighted = release(2, previous=stable.arm, phase=Phase.PROGRESSING, step=1, weight_pct=10.0, exposed=True)
    answering = traffic(stable, weighted)
    assert (answering.candidate, answering.weight_pct, answering.mirrors) == (weighted.arm, 10.0, ())


def test_a_degraded_candidate_gets_nothing_at_once() -> None:
    stable = release(1, day=0)
    falling = release(2, previous=stable.arm, phase=Phase.DEGRADED, step=1)
    found = traffic(stable, falling)
    assert (found.candidate, found.weight_pct, found.mirrors) == (None, 0.0, ())
    assert falling.arm not in found.serving()


def test_the_only_healthy_version_answers_everything() -> None:
    fallen = release(1, day=0, degraded_at=START + timedelta(days=3))
    left = release(2, phase=Phase.PAUSED, resumes=Phase.PROGRESSING, step=1, weight_pct=10.0, exposed=True)
    found = traffic(fallen, left)
    assert (found.stable, found.candidate, found.weight_pct) == (None, left.arm, 100.0)


def test_through_the_bake_and_while_recovery_is_verified_the_replaced_version_gets_copies() -> None:
    old = release(1, day=0)
    baking = release(2, day=5, previous=old.arm, phase=Phase.VERIFYING, step=4, completion=None)
    assert [m.arm for m in traffic(old, baking).mirrors] == [old.arm]
    done = release(2, day=5, previous=old.arm)
    assert traffic(old, done).mirrors == ()
    assert [m.arm for m in traffic(old, done, recovering=True).mirrors] == [old.arm]


def test_the_replaced_version_stays_whole_through_the_bake_while_it_is_kept_warm() -> None:
    old = release(1, day=0)
    baking = release(2, day=5, previous=old.arm, phase=Phase.VERIFYING, step=4, completion=None)
    assert traffic(old, baking).at_full == (old.digest,)
    assert traffic(old, baking, keep_warm=0).at_full == ()


def test_a_challenger_gets_all_copies_unless_it_is_what_answers() -> None:
    def beside(version: int) -> Traffic:
        challenger = Challenger(
            workspace="default",
            model="delay",
            environment="production",
            version=version,
            digest=f"sha256:{version}",
            since=START,
        )
        return traffic(release(1, day=0), challenger=challenger) if version else traffic(release(1, day=0))

    assert [(m.arm.version, m.role) for m in beside(7).mirrors] == [(7, "challenger")]
    assert beside(1).mirrors == ()


def test_each_release_shuffles_callers_anew_and_keeps_them_while_it_ramps() -> None:
    stable = release(1, day=0)
    ramping = [
        release(2, previous=stable.arm, phase=Phase.PROGRESSING, step=s, weight_pct=w)
        for s, w in ((1, 10.0), (2, 100.0))
    ]
    assert len({traffic(stable, r).salt for r in ramping}) == 1
    assert traffic(stable, ramping[0]).salt != traffic(stable, release(3, previous=stable.arm)).salt

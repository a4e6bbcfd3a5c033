"""What the core's speed is said to be."""

from __future__ import annotations

import time

import pytest

from measuring.speed import Speed


def test_the_speed_is_a_share_of_the_best_that_was_often_seen() -> None:
    speed = Speed(probes=[(0.1 * number, 0.001 if number < 10 else 0.002) for number in range(20)])
    speed.stop()
    assert speed.between(0.0, 0.95) == pytest.approx(1.0)
    assert speed.between(0.95, 2.0) == pytest.approx(0.5)
    assert speed.between(0.75, 1.15) == pytest.approx(0.75)
    assert speed.between(5.0, 6.0) == 0.0, "unmeasured is not full"


def test_it_probes_while_others_wait() -> None:
    speed = Speed()
    speed.start()
    time.sleep(1.0)
    speed.stop()
    assert len(speed.probes) > 3
    assert all(took > 0 for _, took in speed.probes)
    assert 0 < speed.between(0.0, time.monotonic()) <= 1.0


def test_a_moment_is_steady_after_a_while_without_a_slow_probe() -> None:
    took = [0.001] * 10 + [0.002] + [0.001] * 10
    speed = Speed(probes=[(0.05 * number, one) for number, one in enumerate(took)])
    speed.stop()
    moments = [0.2, 0.45, 0.51, 0.75, 0.85, 1.2, 1.5]
    assert speed.steady(moments) == [False, True, False, False, True, True, False], (
        "a beginning, and where nothing is known"
    )

"""A rollback takes seconds, from wherever a release stands, while callers call and gates are being evaluated."""

import os
from pathlib import Path

import pytest

from steersman.testing.installed import Installed
from steersman.testing.rollbacks import PHASES, Rehearsal

ROLLBACK_S_MAX = 3.0
"""What is promised on a machine that has a core to spare; one that many share is given its share of time more."""


def allowed_s() -> float:
    return ROLLBACK_S_MAX * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


@pytest.mark.timeout(580)
def test_a_rollback_from_any_phase_takes_seconds_and_no_request_fails(tmp_path: Path) -> None:
    with Installed(tmp_path) as installed:
        rehearsal = Rehearsal(installed)
        rehearsal.prepare()
        with rehearsal.load():
            took = [rehearsal.roll_back_from(phase) for phase in PHASES]
        for one in took:
            print(f"{one.phase}: routed after {one.routed_s:.2f} s, last other answer after {one.answered_s:.2f} s")
        assert [one.phase for one in took if not one.gate_running] == [], "a gate was under way in every one of them"
        assert rehearsal.failures == []
        assert rehearsal.requests > 50
        assert max(one.routed_s for one in took) < allowed_s()
        assert max(one.answered_s for one in took) < allowed_s()

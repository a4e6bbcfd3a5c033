"""Upkeep in a process of its own: it does the work, says what failed, and never outlives who started it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from steersman.dataplane import apart as apart_module
from steersman.dataplane import priority, upkeep
from steersman.dataplane.apart import Apart, ApartError
from steersman.dataplane.storage import LocalStorage
from steersman.dataplane.upkeep import Upkeep
from steersman.ports import Scope, Span
from steersman.testing.log import Written

TABLE = "ops/production/m/predictions"

STARTER = """
import sys
from pathlib import Path
from steersman.dataplane.apart import Apart
Apart(Path(sys.argv[1]))(sys.argv[2], False)
"""


def eventually(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def started() -> list[psutil.Process]:
    """Processes of upkeep that this one started; other tests may have left it children of other kinds."""
    found = []
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.NoSuchProcess):
            if apart_module.__name__ in child.cmdline():
                found.append(child)
    return found


def endless(state: Path) -> None:
    """A table whose upkeep never ends: what should name its checkpoint is a pipe that nobody writes to."""
    written = Written(state)
    written.predict(["e"], written.day(0), [0.5])
    written.commit()
    os.mkfifo(state / "tables" / TABLE / "_delta_log" / "_last_checkpoint")


def test_another_process_merges_and_this_one_counts(tmp_path: Path) -> None:
    written = Written(tmp_path)
    kept = Upkeep(LocalStorage(tmp_path / "tables"), Apart(tmp_path))
    for number in range(upkeep.SMALL_FILES_MAX):
        written.predict([f"e{number}"], written.day(0), [0.5])
        written.commit()
    kept.find()
    while kept.turn():
        pass
    assert (kept.counts.compactions, kept.counts.files_merged) == (1, upkeep.SMALL_FILES_MAX)
    written.predict(["late"], written.day(0), [0.5])
    assert written.commit() == 1
    rows = written.log._predictions(
        Scope("ops", "production", "m"),
        Span(written.day(0), written.day(1)),
        columns=("event_id",),
        with_inputs=False,
        keep=None,
    )
    assert sorted(rows["event_id"]) == sorted(["late", *(f"e{number}" for number in range(upkeep.SMALL_FILES_MAX))])


def test_what_fails_there_is_told_here(tmp_path: Path) -> None:
    log = tmp_path / "tables" / TABLE / "_delta_log"
    log.mkdir(parents=True)
    (log / f"{0:020d}.json").write_text("no entry")
    with pytest.raises(ApartError, match=TABLE):
        Apart(tmp_path)(TABLE, False)


def test_it_dies_with_who_started_it_whatever_that_dies_of(tmp_path: Path) -> None:
    endless(tmp_path)
    starter = subprocess.Popen([sys.executable, "-P", "-c", STARTER, str(tmp_path), TABLE])
    try:
        eventually(lambda: bool(psutil.Process(starter.pid).children()))
        [other] = psutil.Process(starter.pid).children()
        time.sleep(3)
        assert other.is_running()  # its work takes a tenth of that where it ends
    finally:
        starter.send_signal(signal.SIGKILL)
        starter.wait()
    eventually(lambda: not other.is_running() or other.status() == psutil.STATUS_ZOMBIE)


def test_to_stop_is_to_kill_it_and_to_start_no_more(tmp_path: Path) -> None:
    endless(tmp_path)
    apart = Apart(tmp_path)
    failed: list[ApartError] = []

    def work() -> None:
        try:
            apart(TABLE, False)
        except ApartError as error:
            failed.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    eventually(lambda: len(started()) == 1)
    apart.stop()
    thread.join(20)
    assert "ended with -9" in str(failed[0])
    with pytest.raises(ApartError, match="about to end"):
        apart(TABLE, False)


@pytest.mark.skipif(not Path("/proc/self/autogroup").exists(), reason="this kernel groups no sessions")
def test_it_stays_in_the_background_until_its_patience_is_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a session of its own: a commit beside it that steps forward takes nobody along."""
    endless(tmp_path)
    monkeypatch.setattr(apart_module, "PATIENCE_S", 2.0)
    apart = Apart(tmp_path)

    def work() -> None:
        with contextlib.suppress(ApartError):
            apart(TABLE, False)

    def group_of(pid: int) -> list[str]:
        """Empty for a process of the machine's first session, which has none."""
        return Path(f"/proc/{pid}/autogroup").read_text().split()

    own, thread = group_of(os.getpid()), threading.Thread(target=work)
    thread.start()
    try:
        eventually(lambda: len(started()) == 1)
        [other] = started()
        eventually(lambda: group_of(other.pid)[-1:] == [str(priority.NICE)])
        assert os.getsid(other.pid) == other.pid
        eventually(lambda: group_of(other.pid)[-1:] == [str(priority.HURRIED)])
        assert group_of(os.getpid()) == own
    finally:
        apart.stop()
        thread.join(20)


def test_it_loads_no_polars_which_would_double_its_start() -> None:
    program = "import sys, steersman.dataplane.apart; sys.exit('polars' in sys.modules)"
    assert subprocess.run([sys.executable, "-P", "-c", program], check=False).returncode == 0

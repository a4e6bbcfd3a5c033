"""The whole of it, small: real processes, a real MLflow, real flights, faults.

One life a run; that one seed tells the same story twice is a soak test, which lives twice.
"""

import contextlib
import json
import re
import socket
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "01-flight-delay"

DAYS = "40"
"""Long enough for every fault to strike and to be handled: the failing candidate needs ten days in the shadow first."""

IDENTIFIER = re.compile(r"(?:rel|inc|run|op|fnd|evt)-[0-9a-f]{8}-[0-9a-f-]{27}|sha256:[0-9a-f]{64}")


def free_pair() -> int:
    """A port that is free, and the next one too."""
    while True:
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            port = first.getsockname()[1]
            try:
                second.bind(("127.0.0.1", port + 1))
            except (OSError, OverflowError):
                continue
            return int(port)


def drive(folder: Path, *arguments: str) -> dict[str, Any]:
    """Run the demo as `make demo` does and return its report."""
    folder.mkdir()
    command = [sys.executable, str(EXAMPLE / "drive.py"), "--exit", "--sample", "0.03", "--days", DAYS, *arguments]
    command += ["--port", str(free_pair()), "--state", str(folder / "state")]
    command += ["--report", str(folder / "r.json"), "--export", str(folder / "export")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400, check=False)
    assert (folder / "r.json").exists(), done.stdout[-3000:] + done.stderr[-3000:]
    return json.loads((folder / "r.json").read_text())  # type: ignore[no-any-return]


def told(folder: Path) -> list[Any]:
    """The ledger's bodies with identifiers and digests by order of appearance, and without what the wall clock says."""
    with tarfile.open(folder / "export" / "ledger.tar") as archive:
        member = archive.extractfile("ledger/entries.jsonl")
        assert member is not None
        lines = member.read().decode().splitlines()
    seen: dict[str, str] = {}

    def name(found: re.Match[str]) -> str:
        return seen.setdefault(found[0], f"#{len(seen)}")

    bodies = []
    for line in lines:
        entry = json.loads(line)
        for wall in ("id", "recorded_at"):
            del entry[wall]
        entry["data"].pop("token", None)  # an identifier, too
        bodies.append(json.loads(IDENTIFIER.sub(name, json.dumps(entry))))
    return bodies


@pytest.mark.timeout(400)
@pytest.mark.xdist_group("mlflow")
def test_a_year_goes_by_without_a_failed_request_and_the_checker_believes_its_report(tmp_path: Path) -> None:
    report = drive(tmp_path / "life", "--seed", "3")

    assert report["ledger"]["verified"]
    assert report["request_failures"] == 0
    assert next(release["completion"] for release in report["releases"]) == "Promoted"
    checker = [sys.executable, str(EXAMPLE / "check.py"), "--sample", "0.03"]
    checker += [str(tmp_path / "life" / "export"), str(tmp_path / "life" / "r.json")]
    checked = subprocess.run(checker, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout[-3000:] + checked.stderr[-2000:]


@pytest.mark.timeout(200)
@pytest.mark.xdist_group("mlflow")
def test_a_year_that_is_terminated_leaves_nothing_running(tmp_path: Path) -> None:
    state = tmp_path / "state"
    command = [sys.executable, str(EXAMPLE / "drive.py"), "--sample", "0.03", "--port", str(free_pair())]
    demo = subprocess.Popen([*command, "--state", str(state)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    started: list[psutil.Process] = []
    try:
        deadline = time.monotonic() + 120
        while not list((state / "run" / "replicas").glob("*.json")):
            assert demo.poll() is None
            assert time.monotonic() < deadline, "no worker was ever placed"
            time.sleep(0.1)
        started = psutil.Process(demo.pid).children(recursive=True)
        assert len(started) >= 6, "supervisor, MLflow, control server, router, committer, worker"
        demo.terminate()
        assert demo.wait(60) == 0
        _, left = psutil.wait_procs(started, timeout=5)
        assert left == []
    finally:
        for process in [demo, *started]:
            with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
                process.kill()
        demo.wait()


@pytest.mark.soak
@pytest.mark.timeout(800)
@pytest.mark.xdist_group("mlflow")
def test_the_same_seed_tells_the_same_story(tmp_path: Path) -> None:
    for life in ("first", "second"):
        drive(tmp_path / life, "--seed", "3")

    assert told(tmp_path / "first") == told(tmp_path / "second")

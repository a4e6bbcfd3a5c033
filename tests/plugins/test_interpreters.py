"""A command runs with the libraries it is said to run with, or not at all; what is not there is found without running it."""

import sys
from pathlib import Path

import pytest

from steersman.plugins.trainers import interpreters
from steersman.plugins.trainers.interpreters import lacking, read_by, resolved, version_of


def program(path: Path, first_line: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{first_line}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An environment with `ruler` in it, on a system that has programs of its own, one of them written in Python."""
    system = tmp_path / "system"
    program(system / "make", "#!/bin/sh")
    program(system / "pytest", "#!/usr/bin/python3")
    monkeypatch.setattr(interpreters, "SYSTEM_PROGRAMS", (str(system),))
    own = tmp_path / "own"
    (own / "lib" / "python3.12" / "site-packages" / "ruler").mkdir(parents=True)
    program(own / "bin" / "ruler", "#!/bin/sh")
    (own / "pyvenv.cfg").parent.mkdir(exist_ok=True)
    (own / "pyvenv.cfg").write_text("home = /opt/python3.12/bin\nversion_info = 3.12.4\n")
    return program(own / "bin" / "python", "")


def test_python_and_what_is_written_in_it_are_the_environments_and_the_rest_is_the_systems(python: Path) -> None:
    beside = str(python.parent)
    assert resolved(["python", "t.py"], python) == [str(python), "t.py"]
    assert resolved(["ruler", "-q"], python) == [f"{beside}/ruler", "-q"]
    assert resolved(["make", "test"], python)[0].endswith("/system/make")
    assert resolved(["pytest"], python) == [f"{beside}/pytest"], "the system's would bring other libraries"
    assert resolved(["python3", "t.py"], None) == [sys.executable, "t.py"]


@pytest.mark.parametrize(
    ("command", "missing"),
    [
        (["python", "-m", "pytest"], "pytest is not in the version's own environment"),
        (["pytest", "-q"], "pytest is not in the version's own environment"),
        (["./missing.sh"], "missing.sh is not in the version's own environment"),
        (["python", "-m", "ruler"], None),
        (["python", "-m", "unittest"], None),
        (["python", "-m", "checks.all"], None),
        (["ruler"], None),
        (["make"], None),
    ],
)
def test_what_is_missing_is_found_before_anything_starts(
    python: Path, tmp_path: Path, command: list[str], missing: str | None
) -> None:
    (tmp_path / "source" / "checks").mkdir(parents=True)
    assert lacking(resolved(command, python), python, tmp_path / "source") == missing


def test_with_this_installations_libraries_the_same_holds(tmp_path: Path) -> None:
    assert lacking(resolved(["python", "-m", "msgspec"], None), None, tmp_path) is None
    assert lacking(resolved(["python", "-m", "no_such"], None), None, tmp_path) == "no_such is not installed here"


def test_an_environment_reads_itself_and_the_python_it_rests_on(python: Path) -> None:
    assert read_by(python) == [python.parents[1], Path("/opt/python3.12")]
    assert version_of(python) == "3.12.4"

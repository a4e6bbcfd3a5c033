"""Whose libraries a command runs with: this installation's, or those of an environment that was built for a version.

A command must never run with other libraries than it is said to, and one whose program is not there was not run: that is
no failure of what it would have tested. So its program is looked for before it starts, among files only; the interpreter
of an environment runs code of its packages at once, and that belongs behind the walls of the run.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from steersman.domain.errors import BadRequest

SYSTEM_PROGRAMS = ("/usr/local/bin", "/usr/bin", "/bin")

PYTHON_NAMES = ("python", "python3")


def resolved(command: Sequence[str], python: Path | None) -> list[str]:
    """The command with the program that it means: `python` is the interpreter, whatever PATH says, and what else is
    written in Python is looked for beside it only. `python` None: this installation's.
    """
    if not command:
        raise BadRequest("the training command is empty")
    name, beside = command[0], (python or Path(sys.executable)).parent
    if name in PYTHON_NAMES:
        return [str(python or sys.executable), *command[1:]]
    if python is None or "/" in name:
        return list(command)
    elsewhere = shutil.which(name, path=os.pathsep.join(SYSTEM_PROGRAMS))
    if (beside / name).exists() or elsewhere is None or _is_python(Path(elsewhere)):
        return [str(beside / name), *command[1:]]
    return [elsewhere, *command[1:]]


def lacking(command: Sequence[str], python: Path | None, source: Path) -> str | None:
    """What a resolved command would not find, in words; None where it can begin. Nothing is run or imported."""
    if "/" in command[0] and not (source / command[0]).exists():
        return f"{Path(command[0]).name} is not {_where(python)}"
    named = command[2].partition(".")[0] if len(command) > 2 and command[1] == "-m" else None
    if named is None or named in sys.stdlib_module_names or _holds(source, named):
        return None
    if python is None:
        return None if importlib.util.find_spec(named) is not None else f"{named} is not {_where(None)}"
    there = any(_holds(folder, named) for folder in python.parents[1].glob("lib/python3.*/site-packages"))
    return None if there else f"{named} is not {_where(python)}"


def search_path(python: Path) -> str:
    """PATH for a command of another environment: its programs, then the system's."""
    return os.pathsep.join((str(python.parent), *SYSTEM_PROGRAMS))


def read_by(python: Path) -> list[Path]:
    """What the interpreter of an environment reads: the environment, and the Python it rests on."""
    home = _configured(python).get("home")
    return [python.parents[1], *([Path(home).parent] if home else [])]


def version_of(python: Path | None) -> str:
    return platform.python_version() if python is None else _configured(python).get("version_info", "unknown")


def _configured(python: Path) -> dict[str, str]:
    lines = (python.parents[1] / "pyvenv.cfg").read_text().splitlines()
    return {name.strip(): value.strip() for name, _, value in (line.partition("=") for line in lines)}


def _holds(folder: Path, module: str) -> bool:
    return (folder / module).is_dir() or (folder / f"{module}.py").is_file()


def _is_python(program: Path) -> bool:
    with program.open("rb") as file:
        return file.read(2) == b"#!" and b"python" in file.readline(200)


def _where(python: Path | None) -> str:
    return "installed here" if python is None else "in the version's own environment"

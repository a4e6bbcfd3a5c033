"""What `pip install .` gives: one wheel with everything in it, and a client that runs without the server's libraries.

No network: the wheel is built by the locked hatchling, unpacked, and run by an interpreter that sees nothing else but the
two libraries the client names.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CLIENT_LIBRARIES = ("msgspec", "yaml")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    [built] = folder.glob("*.whl")
    return built


def alone(wheel: Path, code: str) -> str:
    """Run `code` where only the standard library, the wheel and the client's libraries can be imported."""
    unpacked = wheel.parent / "unpacked"
    if not unpacked.exists():
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(unpacked)
        for name in CLIENT_LIBRARIES:
            spec = importlib.util.find_spec(name)
            assert spec is not None
            assert spec.origin is not None
            (unpacked / name).symlink_to(Path(spec.origin).parent)
    run = [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.insert(0, {str(unpacked)!r})\n{code}"]
    done = subprocess.run(run, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_client_names_two_libraries() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = [requirement.partition(">")[0].lower() for requirement in project["dependencies"]]
    assert names == ["msgspec", "pyyaml"]


def test_the_client_imports_without_the_server(wheel: Path) -> None:
    assert alone(wheel, "import steersman.client; print(steersman.client.__name__)") == "steersman.client\n"


def test_the_command_line_says_what_it_can_without_the_server(wheel: Path) -> None:
    said = alone(wheel, "from steersman.cli import main; sys.exit(main(['--help']))")
    assert said.startswith("usage: steersman")


def test_the_wheel_has_every_file_of_the_packages(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
    source = ROOT / "src"
    listed = {
        path.relative_to(source).as_posix()
        for package in ("steersman", "steersman_mlflow_guard")
        for path in (source / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert packed == listed


def test_lock_files_name_versions_and_hashes_and_no_address() -> None:
    for path in (ROOT / "requirements").glob("*.lock"):
        for line in path.read_text().splitlines():
            assert "://" not in line, path.name
            assert line.startswith("    --hash=sha256:") or "==" in line, f"{path.name}: {line}"


def test_what_is_asked_for_is_locked() -> None:
    document = tomllib.loads((ROOT / "pyproject.toml").read_text())
    project = document["project"]
    asked = [*project["dependencies"], *document["dependency-groups"]["dev"]]
    for extra in project["optional-dependencies"].values():
        asked.extend(extra)
    locked = {
        line.partition("==")[0].lower().replace("_", "-")
        for path in (ROOT / "requirements").glob("*.lock")
        for line in path.read_text().splitlines()
        if "==" in line
    }
    wanted = {requirement_name(requirement) for requirement in asked}
    assert wanted - locked == set()


def requirement_name(requirement: str) -> str:
    for sign in ">=<;[! ":
        requirement = requirement.partition(sign)[0]
    return requirement.strip().lower().replace("_", "-")

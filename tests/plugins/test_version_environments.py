"""Versions that need other libraries than this installation has: built by uv, walled in, shared, collected."""

from __future__ import annotations

import pickle
import shutil
import textwrap
import time
import zipfile
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import psutil
import pytest

from steersman.dataplane import sockets
from steersman.dataplane.artifacts import ArtifactStore
from steersman.domain.errors import BadRequest
from steersman.domain.version import Column
from steersman.plugins.registries.directory import DirectoryRegistry
from steersman.plugins.targets import building
from steersman.plugins.targets.local import LocalTarget
from steersman.plugins.targets.requirements import needs_of, unsatisfied
from steersman.plugins.trainers.command import CommandTrainer
from steersman.ports import JobState, ReplicaSpec, RunningReplica, TargetError, TrainingJob
from steersman.testing.plane import stump

BUILT_WITHIN_S = 150.0
T = TypeVar("T")


class Answers:
    """A pickled model whose `predict` answers each row with what `body` returns: code, as a pickle always may be."""

    def __init__(self, body: str) -> None:
        source = f"def value():\n{textwrap.indent(body, '    ')}\ndef predict(table):\n    return [float(value())] * len(table)"
        self.code = (
            f"(lambda s: (exec({source!r}, s), __import__('types').SimpleNamespace(predict=s['predict']))[1])({{}})"
        )

    def __reduce__(self) -> Any:
        return eval, (self.code,)


PACKAGING = "import packaging; return '.'.join(packaging.__version__.split('.')[:2])"
"""The version of a small library that is installed here too, a later one."""

CAN_READ = """
def can(what):
    try:
        return bool(open(what).read())
    except OSError:
        return False
"""


@pytest.fixture(scope="module")
def downloads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """uv's cache for all tests here: an index is asked once."""
    return tmp_path_factory.mktemp("uv")


@pytest.fixture(autouse=True)
def shared_downloads(downloads: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UV_CACHE_DIR", str(downloads))


@pytest.fixture
def state(tmp_path: Path) -> Iterator[Path]:
    state = tmp_path / "state"
    state.mkdir()
    yield state
    target = LocalTarget(state)
    for running in target.observe():
        target.stop(running.workspace, running.environment, running.model, running.digest)
    for process in builders(state):
        process.kill()


def builders(state: Path) -> list[psutil.Process]:
    """The processes of builds below `state`."""
    below = str(state / "environments")
    return [process for process in psutil.process_iter() if any(below in part for part in _argv(process))]


def _argv(process: psutil.Process) -> list[str]:
    try:
        return list(process.cmdline())
    except psutil.Error:
        return []


def version(state: Path, *requirements: str, answers: str = PACKAGING, python: str = "", **changes: Any) -> ReplicaSpec:
    tree = state.parent / "tree"
    shutil.rmtree(tree, ignore_errors=True)
    tree.mkdir()
    (tree / "model.pkl").write_bytes(pickle.dumps(Answers(answers)))
    (tree / "requirements.txt").write_text("".join(f"{line}\n" for line in requirements))
    if python:
        (tree / "python_env.yaml").write_text(f"python: {python}\nbuild_dependencies: [pip]\n")
    store = ArtifactStore(state / "artifacts")
    digest = store.put(tree)
    known: dict[str, Any] = {
        "workspace": "ops",
        "environment": "production",
        "model": "m",
        "version": 3,
        "digest": digest,
        "artifact": store.path(digest),
        "format": "pickle",
        "file": "model.pkl",
        "signature": (Column(name="x", type="FP64"),),
        "code_allowed": True,
    }
    return ReplicaSpec(**known | changes)


def until(look: Callable[[], T | None], within_s: float = BUILT_WITHIN_S) -> T:
    deadline = time.monotonic() + within_s
    while not (found := look()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)
    return found


def start(target: LocalTarget, replica: ReplicaSpec) -> RunningReplica:
    def ready() -> RunningReplica | None:
        target.ensure(replica, 1)
        return next((running for running in target.observe() if running.ready), None)

    return until(ready)


def ask(running: RunningReplica) -> float:
    """The answer for one row."""
    body = {"inputs": [{"name": "x", "datatype": "FP64", "shape": [1], "data": [1.0]}]}
    connection = sockets.connection_to(running.address, timeout_s=20)
    try:
        connection.request("POST", "/v2/models/m/infer", msgspec.json.encode(body))
        answer = msgspec.json.decode(connection.getresponse().read())
    finally:
        connection.close()
    return float(answer["outputs"][0]["data"][0])


def environments(state: Path) -> list[Path]:
    return sorted(path.parent for path in (state / "environments").glob("*/steersman.json"))


# --- in an environment of its own ------------------------------------------------------------------------------------


def test_a_version_answers_with_the_library_it_names_and_nothing_waits_for_the_build(state: Path) -> None:
    (state / "keys").mkdir()
    secret = state / "keys" / "ledger.pem"
    secret.write_text("secret")
    replica = version(state, "packaging==24.0", answers=f"{CAN_READ}\nif can({str(secret)!r}): return -1\n{PACKAGING}")
    target = LocalTarget(state)
    began = time.monotonic()
    target.ensure(replica, 1)
    assert time.monotonic() - began < 2.0
    assert target.observe() == []
    after = LocalTarget(state)
    running = start(after, replica)
    assert after.failure(replica) is None
    [log] = (state / "logs" / "environments").iterdir()
    assert log.read_text().count("Resolved") == 1, "the control server that comes after a crash adopts the build"
    assert ask(running) == (24.0 if running.sandbox != "none" else -1.0)

    [environment] = environments(state)
    assert after.interpreter(replica) == environment / "bin" / "python"
    commands_run_there(state, environment / "bin" / "python")
    built_as = environment.stat().st_ino
    end(target, replica)
    assert ask(start(LocalTarget(state), replica)) == 24.0 or running.sandbox == "none"
    assert environments(state) == [environment]
    assert environment.stat().st_ino == built_as, "the second start builds nothing"

    shutil.rmtree(replica.artifact)
    end(target, replica)
    assert environments(state) == [], "no stored version needs it any more"


def commands_run_there(state: Path, python: Path) -> None:
    """A command of the version's environment finds its libraries and no other, and what is missing there was not run."""
    source = state.parent / "tests-of-it"
    source.mkdir()
    (source / "look.py").write_text(
        "import importlib.util, packaging\n"
        "assert packaging.__version__ == '24.0', packaging.__version__\n"
        "assert importlib.util.find_spec('pytest') is None\n"
    )
    trainer = CommandTrainer(state)

    def run(name: str, *words: str) -> JobState:
        job = TrainingJob(
            id=name,
            command=words,
            source=source,
            data=source / "look.py",
            environment={},
            timeout_s=30.0,
            memory_mb=512,
            python=python,
        )
        trainer.ensure(job)
        return until(lambda: found if (found := trainer.poll(name)).state != "running" else None)

    looked = run("look", "python", "look.py")
    assert looked.state == "succeeded", looked.because
    assert looked.record["libraries_digest"] == f"sha256:{python.parents[1].name}"
    for name, words in {"program": ["pytest", "-q"], "module": ["python", "-m", "pytest"]}.items():
        missing = run(name, *words)
        assert (missing.state, missing.record["exit_code"]) == ("failed", None)
        assert "pytest is not in the version's own environment" in missing.because


def test_a_build_killed_in_the_middle_leaves_nothing_and_is_begun_again(state: Path, hostile: Path) -> None:
    """The package is hostile as well: its code must not run while it is installed, nor outside of the worker's walls."""
    marker = state / "marker"
    replica = version(state, "hostile==1.0", answers="import hostile; return hostile.STARTED")
    target = LocalTarget(state)
    target.ensure(replica, 1)
    for process in until(lambda: builders(state)):
        process.kill()
    until(lambda: not builders(state))
    assert environments(state) == []

    after = LocalTarget(state)
    assert "an environment for it cannot be built: it was ended" in str(after.failure(replica))
    running = start(after, replica)
    assert after.failure(replica) is None
    assert ask(running) == 1.0, "the package's code ran in the worker"
    assert marker.exists() == (running.sandbox == "none")


def test_a_package_that_replaces_the_interpreter_is_no_environment(state: Path, hostile: Path) -> None:
    because = failure_of(state, version(state, "interpreter==1.0"))
    assert "replaces the interpreter" in because
    assert environments(state) == []


def test_a_version_that_does_not_exist_fails_with_what_uv_says(state: Path) -> None:
    because = failure_of(state, version(state, "packaging==9999"))
    assert "the version needs packaging==9999, here is" in because
    assert "unsatisfiable" in because
    assert str(state) not in because


def failure_of(state: Path, replica: ReplicaSpec) -> str:
    target = LocalTarget(state)
    target.ensure(replica, 1)
    return until(lambda: target.failure(replica))


def end(target: LocalTarget, replica: ReplicaSpec) -> None:
    target.stop(replica.workspace, replica.environment, replica.model, replica.digest)


@pytest.fixture
def hostile(state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two wheels of an index of our own: one runs code at every start of an interpreter, one replaces it."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    marks = f"import sys; sys.started = 1\ntry: open({str(state / 'marker')!r}, 'w')\nexcept OSError: pass\n"
    wheel(
        folder,
        "hostile",
        {
            "hostile.pth": f"import sys; exec({marks!r})\n",
            "hostile.py": "import sys\nSTARTED = getattr(sys, 'started', 0)\n",
        },
    )
    wheel(folder, "interpreter", {"interpreter-1.0.data/data/pyvenv.cfg": "home = /tmp\n"})
    monkeypatch.setenv("UV_FIND_LINKS", str(folder))
    return folder


def wheel(folder: Path, name: str, files: dict[str, str]) -> None:
    about = f"{name}-1.0.dist-info"
    files = files | {
        f"{about}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
        f"{about}/WHEEL": "Wheel-Version: 1.0\nGenerator: a test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{path},,\n" for path in [*files, f"{about}/RECORD"])
    with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as archive:
        for path, content in {**files, f"{about}/RECORD": record}.items():
            archive.writestr(path, content)


def test_a_nearly_full_disk_ends_a_build_and_says_so(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(building, "FREE_BYTES_MIN", 2**60)
    because = failure_of(state, version(state, "packaging==24.0"))
    assert "the disk is nearly full" in because
    assert environments(state) == []


# --- in this installation's ------------------------------------------------------------------------------------------


def test_a_version_whose_requirements_are_satisfied_here_runs_here(state: Path) -> None:
    replica = version(state, "packaging>=20", "tomli>=1; python_version < '3.11'", "mlflow==0.1", answers=PACKAGING)
    here = ".".join(metadata.version("packaging").split(".")[:2])
    assert ask(start(LocalTarget(state), replica)) == float(here)
    assert not (state / "environments").exists()


@pytest.mark.parametrize(
    "line",
    [
        "--index-url https://example.com/simple",
        "--extra-index-url=https://example.com/simple",
        "-r other.txt",
        "-e .",
        "git+https://example.com/repo.git",
        "packaging @ https://example.com/packaging.whl",
        "./packaging.whl",
        "${HOME}/packaging",
    ],
)
def test_a_line_that_would_choose_where_packages_come_from_is_refused_by_name(state: Path, line: str) -> None:
    with pytest.raises(TargetError, match="is refused") as refused:
        LocalTarget(state).ensure(version(state, "packaging==24.0", line), 1)
    assert repr(line) in str(refused.value)


def test_comments_continuations_and_hashes_are_read(state: Path) -> None:
    hashed = "--hash=sha256:" + 64 * "a"
    needs = needs_of(version(state, "# ours", "Packaging==24.0 \\", f"    {hashed}", "six>=1  # why"))
    assert needs is not None
    assert needs.requirements == ("joblib", f"packaging==24.0 {hashed}", "six>=1")


def test_the_same_needs_in_another_order_are_one_environment(state: Path) -> None:
    first, second = (
        needs_of(version(state, "six==1.0", "packaging==24.0")),
        needs_of(version(state, "packaging==24.0", "six==1.0")),
    )
    assert first is not None
    assert first == second
    assert first.digest == needs_of(version(state, "six == 1.0", "packaging==24.0")).digest  # type: ignore[union-attr]


def test_a_format_that_is_only_data_brings_nothing(state: Path) -> None:
    for form in ("lightgbm", "xgboost", "onnx"):
        assert needs_of(version(state, "packaging==24.0", format=form)) is None


def test_of_a_skops_file_only_the_libraries_that_load_it_count(state: Path) -> None:
    needs = needs_of(version(state, "scikit-learn==1.4.0", "evil==6.6.6", format="skops", code_allowed=False))
    assert needs is not None
    assert needs.requirements == ("scikit-learn==1.4.0", "skops")


def test_a_version_that_may_not_run_code_gets_no_environment(state: Path) -> None:
    assert needs_of(version(state, "packaging==24.0", code_allowed=False)) is None


def test_mlflow_itself_counts_where_the_format_needs_it(state: Path) -> None:
    pinned = "mlflow==2.0.0"
    of_pickle, of_pyfunc = (
        needs_of(version(state, pinned, "six==1.0")),
        needs_of(version(state, pinned, format="pyfunc")),
    )
    assert of_pickle is not None
    assert of_pyfunc is not None
    assert of_pickle.requirements == ("joblib", "six==1.0")
    assert of_pyfunc.requirements == ("mlflow==2.0.0", "pandas")
    assert str(unsatisfied(of_pyfunc)).startswith("mlflow==2.0.0, here is")


def test_the_python_a_version_was_written_for_counts(state: Path) -> None:
    other = needs_of(version(state, "packaging>=20", python="3.99.1"))
    assert other is not None
    assert str(unsatisfied(other)).startswith("Python 3.99, here is 3.")
    with pytest.raises(TargetError, match=r"names Python 3.8.20; a worker needs 3.11 or later"):
        needs_of(version(state, "packaging>=20", python="3.8.20"))


def test_a_directory_registry_says_requirements_in_its_version_file(tmp_path: Path) -> None:
    folder = tmp_path / "models" / "m" / "1"
    stump(folder)
    (folder / "version.yaml").write_text("format: lightgbm\nfile: model.lgb\nrequirements: [packaging==24.0, six>=1]\n")
    registry = DirectoryRegistry(tmp_path / "models")
    registry.fetch("m", 1, tmp_path / "fetched")
    assert (tmp_path / "fetched" / "requirements.txt").read_text() == "packaging==24.0\nsix>=1\n"

    (folder / "requirements.txt").write_text("six\n")
    with pytest.raises(BadRequest, match=r"has requirements.txt and `requirements`"):
        registry.fetch("m", 1, tmp_path / "again")

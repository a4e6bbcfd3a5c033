"""A directory as registry: no server, same contract."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from steersman.domain.errors import BadRequest, LimitReached, NotFound, Unavailable
from steersman.plugins.registries import trees
from steersman.plugins.registries.directory import DirectoryRegistry
from steersman.testing.registry_contract import Registered, RegistryContract

DESCRIBED = """
format: lightgbm
file: model.txt
signature: [{name: x, type: double}, {name: n, type: INT64}]
created_by: ada@example.com
"""


def _put(root: Path, name: str, number: int, description: str = DESCRIBED) -> Path:
    directory = root / name / str(number)
    (directory / "extra").mkdir(parents=True)
    (directory / "version.yaml").write_text(description)
    (directory / "model.txt").write_text(f"tree\nversion=v4\n# {number}\n")
    (directory / "extra" / "notes.md").write_text("beside the model")
    return directory


class TestTheDirectoryRegistry(RegistryContract):
    @pytest.fixture
    def registered(self, tmp_path_factory: pytest.TempPathFactory) -> Registered:
        root = tmp_path_factory.mktemp("registry")
        _put(root, "flight-delay", 2)
        _put(root, "flight-delay", 10)
        (root / "flight-delay" / "03").mkdir()
        (root / "flight-delay" / "draft").mkdir()
        return Registered(registry=DirectoryRegistry(root), name="flight-delay", numbers=(2, 10))


def test_says_who_registered_and_falls_back_to_the_time_of_the_file(tmp_path: Path) -> None:
    directory = _put(tmp_path, "m", 1)
    os.utime(directory / "version.yaml", (1_370_000_000, 1_370_000_000))
    (version,) = DirectoryRegistry(tmp_path).versions("m")
    assert version.created_by == "ada@example.com"
    assert version.created_at.isoformat() == "2013-05-31T11:33:20+00:00"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("format: lightgbm", "file"),
        ("format: spreadsheet\nfile: a", "spreadsheet"),
        ("format: lightgbm\nfile: model.txt\nsignatur: []", "signatur"),
        ("- a list", "must be a mapping"),
        ("a: [", "not YAML"),
        ("format: lightgbm\nfile: ../../etc/passwd", "unsafe"),
        ("format: lightgbm\nfile: /etc/passwd", "unsafe"),
        ("format: lightgbm\nfile: other.txt", "does not have"),
    ],
)
def test_a_version_file_that_says_nonsense_is_named_with_what_is_wrong(tmp_path: Path, text: str, says: str) -> None:
    _put(tmp_path, "m", 1, text)
    with pytest.raises(BadRequest, match=says):
        DirectoryRegistry(tmp_path).fetch("m", 1, tmp_path / "tree")


@pytest.mark.parametrize("kind", ["link to a file", "link to a directory", "pipe"])
def test_what_is_no_plain_file_is_refused_and_not_followed(tmp_path: Path, kind: str) -> None:
    directory = _put(tmp_path, "m", 1)
    if kind == "pipe":
        os.mkfifo(directory / "extra" / "odd")
    else:
        (directory / "extra" / "odd").symlink_to("/etc/passwd" if "file" in kind else "/etc")
    with pytest.raises(BadRequest, match="no plain file"):
        DirectoryRegistry(tmp_path).fetch("m", 1, tmp_path / "tree")
    assert not (tmp_path / "tree" / "extra" / "odd").exists()


def test_a_tree_has_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _put(tmp_path, "m", 1)
    monkeypatch.setattr(trees, "FILES_MAX", 2)
    with pytest.raises(LimitReached, match="2 files"):
        DirectoryRegistry(tmp_path).fetch("m", 1, tmp_path / "one")
    monkeypatch.setattr(trees, "FILES_MAX", 100)
    monkeypatch.setattr(trees, "BYTES_MAX", 10)
    with pytest.raises(LimitReached):
        DirectoryRegistry(tmp_path).fetch("m", 1, tmp_path / "two")


def test_a_missing_directory_is_unavailable_and_an_empty_one_has_nothing_yet(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="is not there"):
        DirectoryRegistry(tmp_path / "missing").check()
    with pytest.raises(NotFound, match="none yet"):
        DirectoryRegistry(tmp_path).versions("m")


def test_an_example_that_is_named_must_be_there_and_comes_along(tmp_path: Path) -> None:
    directory = _put(tmp_path, "m", 1, DESCRIBED + "example: rows.json\n")
    with pytest.raises(BadRequest, match=r"rows\.json"):
        DirectoryRegistry(tmp_path).fetch("m", 1, tmp_path / "first")
    (directory / "rows.json").write_text('{"x": [1.0], "n": [2]}')
    DirectoryRegistry(tmp_path).fetch("m", 1, tmp_path / "second")
    assert (tmp_path / "second" / "rows.json").read_text().startswith("{")

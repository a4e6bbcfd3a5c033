"""A version is bytes with a digest: what is stored is what was hashed, and nothing else gets in."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from steersman.dataplane import artifacts
from steersman.dataplane.artifacts import ArtifactError, ArtifactStore, DigestMismatchError, tree_digest, verify


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    (root / "sub").mkdir(parents=True)
    (root / "a.txt").write_text("a")
    (root / "sub" / "b.txt").write_text("b")
    return root


def test_the_digest_can_be_recomputed_with_sha256sum(tree: Path) -> None:
    lines = sorted(
        f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in (("a.txt", b"a"), ("sub/b.txt", b"b"))
    )
    assert tree_digest(tree) == "sha256:" + hashlib.sha256("".join(lines).encode()).hexdigest()


def test_a_stored_tree_is_read_only_and_the_same_again(tree: Path, tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path / "artifacts")
    digest = store.put(tree)
    assert store.put(tree) == digest
    store.verify(digest)
    assert (store.path(digest) / "a.txt").stat().st_mode & 0o222 == 0
    assert [one.name for one in (tmp_path / "artifacts" / "sha256").iterdir()] == [digest.removeprefix("sha256:")]


@pytest.mark.parametrize("change", ["changed", "added", "removed"])
def test_a_tree_that_was_touched_is_found_out(tree: Path, change: str) -> None:
    digest = tree_digest(tree)
    if change == "changed":
        (tree / "a.txt").write_text("b")
    elif change == "added":
        (tree / "c.txt").write_text("")
    else:
        (tree / "a.txt").unlink()
    with pytest.raises(DigestMismatchError, match="changed, added or removed"):
        verify(tree, digest)


def test_links_and_special_files_are_no_part_of_a_version(tree: Path, tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path / "artifacts")
    (tree / "link").symlink_to("/etc/passwd")
    with pytest.raises(ArtifactError, match="link: a symbolic link"):
        store.put(tree)
    (tree / "link").unlink()
    os.mkfifo(tree / "pipe")
    with pytest.raises(ArtifactError, match="pipe: not a regular file"):
        store.put(tree)
    (tree / "pipe").unlink()
    (tree / "folder").symlink_to(tmp_path, target_is_directory=True)
    with pytest.raises(ArtifactError, match="folder: a symbolic link"):
        tree_digest(tree)


def test_a_tree_has_bounds(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(artifacts, "FILES_MAX", 1)
    with pytest.raises(ArtifactError, match="more than 1 files"):
        ArtifactStore(tmp_path / "artifacts").put(tree)
    monkeypatch.undo()
    monkeypatch.setattr(artifacts, "BYTES_MAX", 1)
    with pytest.raises(ArtifactError, match="GiB in one version"):
        ArtifactStore(tmp_path / "artifacts").put(tree)


def test_a_digest_is_no_path(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="is not a digest"):
        ArtifactStore(tmp_path).path("sha256:../../keys")


def test_an_empty_tree_is_no_version(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ArtifactError, match="no files"):
        ArtifactStore(tmp_path / "artifacts").put(tmp_path / "empty")

"""What every registry plugin must do, as tests: subclass `RegistryContract` and give it something registered.

class TestMyRegistry(RegistryContract):
    @pytest.fixture
    def registered(self) -> Registered: ...
"""

from __future__ import annotations

import stat
from dataclasses import dataclass
from datetime import UTC
from pathlib import Path

import pytest

from steersman.domain.errors import Conflict, NotFound
from steersman.domain.version import Column, Format
from steersman.ports import Registry

HOSTILE_NAMES = (
    "../../etc/passwd",
    "..",
    "/etc/passwd",
    "a/../../b",
    "a\\..\\b",
    "%2e%2e%2f",
    "%252e%252e",
    "name'; DROP TABLE x",
    "$(touch x)",
    "a;b",
    "new\nline",
    "nul\x00byte",
    "",
    "x" * 300,
)
"""Names that ended in somebody's advisory; none of them may reach a path, a filter or a shell."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Registered:
    """A registry in which `name` has exactly two versions of a LightGBM model, with the signature `x` FP64, `n` INT64."""

    registry: Registry
    name: str
    numbers: tuple[int, int]


class RegistryContract:
    def test_says_in_one_line_what_answers(self, registered: Registered) -> None:
        assert registered.registry.check()
        assert "\n" not in registered.registry.check()

    def test_is_a_registry(self, registered: Registered) -> None:
        assert isinstance(registered.registry, Registry)

    def test_lists_versions_oldest_first(self, registered: Registered) -> None:
        versions = registered.registry.versions(registered.name)
        assert tuple(version.number for version in versions) == registered.numbers
        assert [version.uri for version in versions] == [f"models:/{registered.name}/{n}" for n in registered.numbers]
        assert all(version.created_at.tzinfo == UTC and version.source for version in versions)

    def test_an_unknown_name_is_answered_with_the_names_there_are(self, registered: Registered) -> None:
        with pytest.raises(NotFound, match=registered.name) as caught:
            registered.registry.versions("no-such-model")
        assert caught.value.next_step

    def test_an_unknown_number_is_answered_with_the_numbers_there_are(
        self, registered: Registered, tmp_path: Path
    ) -> None:
        for ask in (
            lambda: registered.registry.describe(registered.name, 999),
            lambda: registered.registry.fetch(registered.name, 999, tmp_path / "tree"),
            lambda: registered.registry.set_alias(registered.name, "candidate", 999),
        ):
            with pytest.raises(NotFound, match=str(registered.numbers[1])):
                ask()

    def test_describes_format_file_and_columns(self, registered: Registered) -> None:
        description = registered.registry.describe(registered.name, registered.numbers[0])
        assert description.format is Format.LIGHTGBM
        assert description.signature == (Column(name="x", type="FP64"), Column(name="n", type="INT64"))
        assert description.output

    def test_fetches_the_whole_tree_as_plain_files(self, registered: Registered, tmp_path: Path) -> None:
        number = registered.numbers[0]
        description = registered.registry.fetch(registered.name, number, tmp_path / "tree")
        assert description == registered.registry.describe(registered.name, number)
        assert (tmp_path / "tree" / description.file).read_bytes().startswith(b"tree\n")
        for path in (tmp_path / "tree").rglob("*"):
            assert stat.S_ISREG(path.lstat().st_mode) or stat.S_ISDIR(path.lstat().st_mode)

    def test_fetching_twice_gives_the_same_bytes(self, registered: Registered, tmp_path: Path) -> None:
        trees = []
        for copy in ("one", "two"):
            registered.registry.fetch(registered.name, registered.numbers[1], tmp_path / copy)
            files = sorted(path for path in (tmp_path / copy).rglob("*") if path.is_file())
            trees.append({str(path.relative_to(tmp_path / copy)): path.read_bytes() for path in files})
        assert trees[0] == trees[1]

    def test_refuses_to_fetch_over_files_that_are_there(self, registered: Registered, tmp_path: Path) -> None:
        (tmp_path / "mine").write_text("kept")
        with pytest.raises(Conflict):
            registered.registry.fetch(registered.name, registered.numbers[0], tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == ["mine"]

    def test_an_alias_is_set_moved_and_taken_away_and_twice_is_once(self, registered: Registered) -> None:
        registry, name, (first, second) = registered.registry, registered.name, registered.numbers
        for number in (first, first, second):
            registry.set_alias(name, "champion", number)
            assert registry.aliases(name)["champion"] == number
        for _ in range(2):
            registry.set_alias(name, "champion", None)
            assert "champion" not in registry.aliases(name)

    @pytest.mark.parametrize("name", HOSTILE_NAMES)
    def test_a_hostile_name_is_no_name(self, registered: Registered, name: str, tmp_path: Path) -> None:
        for ask in (
            lambda: registered.registry.versions(name),
            lambda: registered.registry.describe(name, 1),
            lambda: registered.registry.fetch(name, 1, tmp_path / "tree"),
            lambda: registered.registry.aliases(name),
            lambda: registered.registry.set_alias(name, "champion", 1),
        ):
            with pytest.raises(NotFound):
                ask()
        assert list(tmp_path.iterdir()) == []

"""`docs/errors.md` has a heading for each class of error, with its code and status, and for nothing else."""

from __future__ import annotations

import re
from pathlib import Path

from steersman.domain import errors

TEXT = (Path(__file__).parents[2] / "docs" / "errors.md").read_text()


def test_each_error_has_a_heading_and_each_heading_an_error() -> None:
    assert set(re.findall(r"^## (\w+)$", TEXT, re.MULTILINE)) == {cls.__name__ for cls in errors.tree()}


def test_code_and_status_are_the_real_ones() -> None:
    for cls in errors.tree():
        section = TEXT.split(f"## {cls.__name__}\n")[1].split("\n## ")[0]
        assert section.startswith(f"Code `{cls.code}`, HTTP {cls.status}"), cls.__name__

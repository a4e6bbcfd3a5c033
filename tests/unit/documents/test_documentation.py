"""What a version must say of itself, and that a stranger's file is only read."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steersman.domain.documentation import Requirement, lacking, parse_requirement


@pytest.mark.parametrize(
    "text", ["", "/etc/passwd", "../secret", "a/../b", "a#", "a:b#c", "a:", "a:b..c", "a//b", "./a"]
)
def test_what_is_no_file_of_the_version_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must be FILE"):
        parse_requirement(text)


def test_the_three_forms() -> None:
    assert parse_requirement("docs/CARD.md") == Requirement(file="docs/CARD.md")
    assert parse_requirement("CARD.md#Intended use") == Requirement(file="CARD.md", heading="Intended use")
    assert parse_requirement("MLmodel:metadata.owner") == Requirement(file="MLmodel", fields=("metadata", "owner"))


def test_text_below_a_smaller_heading_counts_and_headings_alone_do_not() -> None:
    wanted = parse_requirement("CARD.md#Use")
    assert lacking(wanted, "# Use\n## Who\nThe desk.\n# Limits\n") is None
    assert lacking(wanted, "# Use\n## Who\n# Limits\nmany\n") == "CARD.md says nothing below the heading 'Use'"


def test_yaml_that_would_make_an_object_is_no_yaml_here() -> None:
    wanted = parse_requirement("f:a")
    assert lacking(wanted, "a: !!python/object/apply:os.getcwd []") == "f is not YAML"
    assert lacking(wanted, "[1, 2]") == "f says nothing at a"


@given(st.text(max_size=300), st.sampled_from(["f", "f#H", "f:a.b"]))
def test_any_text_is_answered(text: str, wanted: str) -> None:
    found = lacking(parse_requirement(wanted), text)
    assert found is None or found.startswith("f ")

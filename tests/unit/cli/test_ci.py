"""What `steersman ci` says to people, to CI systems, and by its exit code."""

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from steersman.cli import main
from steersman.cli.commands import ci as command
from steersman.cli.commands.ci import exit_code, junit, told


def check(outcome: str, *gates: tuple[str, str, str], aside: tuple[str, ...] = ()) -> dict[str, Any]:
    shown = [{"gate": name, "outcome": o, "because": b, "applies": name not in aside} for name, o, b in gates]
    return {
        "workspace": "ops",
        "model": "delay",
        "version": 4,
        "environment": "production",
        "production": 3,
        "outcome": outcome,
        "because": "said so",
        "gates": shown,
    }


@pytest.mark.parametrize(("outcome", "code"), [("successful", 0), ("failed", 1), ("inconclusive", 2), ("error", 2)])
def test_the_exit_code_tells_a_failure_from_what_could_not_be_judged(outcome: str, code: int) -> None:
    assert exit_code(check(outcome)) == code


def test_whatever_goes_wrong_is_not_read_as_a_failure_of_the_version(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    asked = ["ci", "delay", "--version", "4", "--state", str(tmp_path)]
    assert main(asked[:2]) == 2, "a wrong command line"
    assert main([*asked, "--junit"]) == 2

    def broken(_arguments: object) -> None:
        raise RuntimeError("nobody foresaw this")

    monkeypatch.setattr(command, "_asked", broken)
    assert main(asked) == 2
    assert "the version was not judged: RuntimeError: nobody foresaw this" in capsys.readouterr().err
    monkeypatch.setattr(command, "_asked", lambda _arguments: check("successful"))
    assert main([*asked, "--junit", str(tmp_path / "no-folder" / "gates.xml")]) == 2


def test_people_read_each_gate_and_the_whole_of_what_did_not_pass() -> None:
    text = told(
        check("failed", ("tests", "failed", "exit code 1\nE  assert 1 == 2"), ("roc_auc", "successful", "fine"))
    )
    assert text.splitlines()[0] == "ops/delay version 4 against production (version 3): failed"
    assert "E  assert 1 == 2" in text
    assert "next: correct what failed" in text


def test_junit_has_a_case_for_each_gate() -> None:
    gates = (
        ("a<b", "failed", "x & y\x1b[31m"),
        ("b", "successful", "ok"),
        ("c", "inconclusive", "few"),
        ("d", "x", "n"),
    )
    suite = ElementTree.fromstring(junit(check("failed", *gates, aside=("d",))).split("\n", 1)[1])
    counts = {name: suite.get(name) for name in ("tests", "failures", "errors", "skipped")}
    assert counts == {"tests": "4", "failures": "1", "errors": "1", "skipped": "1"}
    assert [[child.tag for child in case] for case in suite] == [["failure"], [], ["error"], ["skipped"]]


def test_a_check_without_gates_is_an_error_for_junit_too() -> None:
    suite = ElementTree.fromstring(junit(check("inconclusive")).split("\n", 1)[1])
    assert (suite.get("tests"), suite.get("errors")) == ("1", "1")

"""`docs/cli.md` is what the command line says of itself."""

from __future__ import annotations

from pathlib import Path

from steersman.cli.manual import COMMANDS, manual

DOCS = Path(__file__).parents[2] / "docs"


def test_the_manual_is_up_to_date() -> None:
    remedy = "run `python -m steersman.cli.manual > docs/cli.md`"
    assert (DOCS / "cli.md").read_text() == manual(), remedy


def test_every_command_of_the_design_is_there() -> None:
    wanted = (
        "up demo init validate plan apply status history rollback release approve reject pause resume abort retire "
        "incidents monitors ledger user token doctor schema retry promote export"
    )
    assert set(wanted.split()) <= set(COMMANDS)

"""Every story begins with an installation in memory; its clock stands at 1 March 2013."""

from pathlib import Path

import pytest

from steersman.loop import executor
from steersman.testing.story import Story


@pytest.fixture
def story(tmp_path: Path) -> Story:
    return Story.begin(tmp_path)


@pytest.fixture(autouse=True)
def no_pause_between_attempts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a minute of trying is of no use where the world is a fake."""
    monkeypatch.setattr(executor, "BACKOFF_S", (0.0,))

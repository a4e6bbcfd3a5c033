"""Metrics that other distributions bring: found by their entry point, real ones on the import path."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from steersman.domain.metrics import Direction
from steersman.plugins.metrics.entry_points import installed_metrics
from steersman.ports import Measure, MetricError
from steersman.server.installation import Installation
from steersman.server.wiring import assemble
from steersman.testing.metric_contract import MetricContract

SEPARATION = """
import numpy as np

def separation(scores, labels):
    "Kolmogorov-Smirnov distance between the scores of the two classes."
    positive, negative = np.sort(scores[labels == 1]), np.sort(scores[labels == 0])
    if not positive.size or not negative.size:
        return float("nan")
    at = np.unique(scores)
    below = [np.searchsorted(part, at, side="right") / part.size for part in (positive, negative)]
    return float(np.max(np.abs(below[1] - below[0])))

number = 3
"""


def install(folder: Path, name: str, entry_points: dict[str, str], code: str = "") -> None:
    """A distribution as an installer leaves it."""
    info = folder / f"{name.replace('-', '_')}-1.2.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n")
    listed = "\n".join(f"{key} = {value}" for key, value in entry_points.items())
    (info / "entry_points.txt").write_text(f"[steersman.metrics]\n{listed}\n")
    (folder / f"{name.replace('-', '_')}.py").write_text(code)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


class TestSeparation(MetricContract):
    direction = Direction.HIGHER

    @pytest.fixture(autouse=True)
    def installed(self, folder: Path) -> None:
        install(folder, "acme-metrics", {"separation": "acme_metrics:separation"}, SEPARATION)

    def make_metric(self) -> Measure:
        return installed_metrics()["separation"].load()


def test_a_metric_says_which_distribution_it_is_from_and_is_imported_when_it_is_loaded(folder: Path) -> None:
    install(folder, "acme-metrics", {"separation": "acme_metrics:separation"}, SEPARATION)
    found = installed_metrics()
    assert (list(found), found["separation"].distribution) == (["separation"], "acme-metrics 1.2")
    assert "acme_metrics" not in sys.modules
    found["separation"].load()
    assert "acme_metrics" in sys.modules


@pytest.mark.parametrize(
    ("value", "code", "said"),
    [
        ("acme_metrics:separation", "import missing_library", "cannot be imported: No module named 'missing_library'"),
        ("acme_metrics:absent", SEPARATION, "cannot be imported: module 'acme_metrics' has no attribute 'absent'"),
        ("acme_metrics:number", SEPARATION, "is no function of scores and labels: acme_metrics:number"),
    ],
)
def test_what_cannot_be_loaded_says_why(folder: Path, value: str, code: str, said: str) -> None:
    install(folder, "acme-metrics", {"separation": value}, code)
    with pytest.raises(MetricError, match=r"separation of acme-metrics 1\.2") as error:
        installed_metrics()["separation"].load()
    assert said in str(error.value)


def test_two_distributions_that_offer_one_name_are_refused(folder: Path) -> None:
    for name in ("acme-metrics", "other-metrics"):
        install(folder, name, {"separation": f"{name.replace('-', '_')}:separation"}, SEPARATION)
    with pytest.raises(MetricError, match=r"offered by .*acme-metrics 1.2.*; leave one of them installed"):
        installed_metrics()["separation"].load()


def test_a_control_server_has_what_was_installed_when_it_started(folder: Path) -> None:
    install(folder, "acme-metrics", {"separation": "acme_metrics:separation"}, SEPARATION)
    installation = Installation(registries={})
    parts = assemble(folder / "state", installation, None)
    assert parts.world.metrics["separation"].distribution == "acme-metrics 1.2"
    parts.store.close()

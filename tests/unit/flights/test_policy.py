"""The example's documents are accepted, and the offline replay trains on nothing that was not known."""

from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from flights import load_flights, sample_flights
from simulate import Loop, blocks, read_policy
from year import FIRST, Year

from steersman.client.documents import load_yaml
from steersman.domain import spec
from steersman.domain.documents import parse_document

FOLDER = Path(__file__).parents[3] / "examples" / "01-flight-delay"


@pytest.fixture(scope="module")
def year() -> Year:
    return Year.of(sample_flights(load_flights(), 0.05))


def test_the_documents_are_valid() -> None:
    model = read_policy(FOLDER / "model.yaml")
    assert model.spec.retrain.mode is spec.RetrainMode.AUTO
    dataset = parse_document(load_yaml((FOLDER / "dataset.yaml").read_text())[0])
    assert isinstance(dataset, spec.Dataset)
    assert dataset.spec.extend == spec.Extend(model="flight-delay")


def test_a_change_to_the_policy_is_checked_like_the_document() -> None:
    changed = read_policy(FOLDER / "model.yaml", ["spec.holdout.last=14d"])
    assert changed.spec.holdout is not None
    assert changed.spec.holdout.last == timedelta(days=14)


def test_no_training_sees_a_label_before_it_arrived_or_a_row_of_the_holdout(
    year: Year, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []

    class Booster:
        def predict(self, features: np.ndarray, **_: object) -> np.ndarray:
            return np.zeros(len(features))

    def count(features: np.ndarray, labels: np.ndarray, *, seed: int) -> Booster:
        seen.append(len(labels))
        return Booster()

    monkeypatch.setattr("year.fit", count)
    year.train(100.5, holdout=7.0)
    allowed = (year.label_at <= 100.5) & (year.predicted_at < 93.5)
    assert seen == [int(allowed.sum())]
    assert seen[0] < int((year.predicted_at < 100.5).sum())


def test_a_scrambled_candidate_does_not_pass_the_gates(year: Year) -> None:
    loop = Loop(year, read_policy(FOLDER / "model.yaml"))
    broken = year.train(FIRST + 30, holdout=8.5, broken=True)
    assert any(blocks(result) for result in loop.gates(broken, FIRST + 30))

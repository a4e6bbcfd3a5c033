"""Scores of a split: unbiased whatever the weights do, and honest about what the smaller arm has not met yet."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from steersman.stats.splitting import aipw_scores, design_spread, mean_before, split_block

losses = st.floats(-5, 5)


@given(of_candidate=losses, of_stable=losses, weight=st.floats(0.01, 0.99), baseline=losses)
def test_the_expected_score_is_the_harm_whatever_the_weight_and_the_baseline(
    of_candidate: float, of_stable: float, weight: float, baseline: float
) -> None:
    scores = aipw_scores([of_candidate, of_stable], [1, 0], [weight, weight], baseline=[baseline, baseline])
    expected = weight * scores[0] + (1 - weight) * scores[1]
    assert expected == pytest.approx(of_candidate - of_stable, abs=1e-9)


def test_a_ramp_on_a_day_of_rising_errors_is_no_harm() -> None:
    """Shares of 5, 25, 50 %, base errors of 4, 6, 9 %, identical versions: pooled they differ by 1.9 points."""
    rng = np.random.default_rng(3)
    weight, base = np.repeat([0.05, 0.25, 0.5], 200_000), np.repeat([0.04, 0.06, 0.09], 200_000)
    candidate, wrong = rng.random(weight.size) < weight, rng.random(weight.size) < base
    pooled = wrong[candidate].mean() - wrong[~candidate].mean()
    assert pooled == pytest.approx(0.019, abs=0.002)
    scores = aipw_scores(wrong, candidate, weight)
    assert abs(scores.mean()) < 3 * scores.std() / np.sqrt(scores.size)


def test_labels_that_come_later_for_errors_do_not_bias_matured_concurrent_requests() -> None:
    """Delays of 5 days for errors and 1 else: all labels so far against history would flatter a new candidate."""
    rng = np.random.default_rng(4)
    arrived = np.arange(80_000) / 4_000  # days
    candidate, wrong = rng.random(80_000) < 0.5, rng.random(80_000) < 0.045
    delay = rng.exponential(np.where(wrong, 5.0, 1.0))
    so_far = candidate & (arrived < 5) & (arrived + delay <= 5)
    assert wrong[so_far].mean() < 0.033
    matured = (arrived <= arrived[-1] - 14) & (delay <= 14)
    scores = aipw_scores(wrong[matured], candidate[matured], np.full(matured.sum(), 0.5))
    assert abs(scores.mean()) < 3 * scores.std() / np.sqrt(scores.size)


@given(st.lists(losses, min_size=2, max_size=30), st.integers(0, 29))
def test_what_comes_later_does_not_change_a_score(loss: list[float], at: int) -> None:
    at = min(at, len(loss) - 1)
    arm, weight = [i % 2 for i in range(len(loss))], [0.3] * len(loss)
    before = aipw_scores(loss, arm, weight)[:at]
    changed = loss[:at] + [9.0] * (len(loss) - at)
    assert aipw_scores(changed, arm, weight)[:at].tolist() == before.tolist()


@given(st.lists(losses, min_size=2, max_size=30), st.integers(1, 29))
def test_blocks_one_after_the_other_score_as_all_at_once(loss: list[float], cut: int) -> None:
    cut = min(cut, len(loss) - 1)
    arm, weight = np.arange(len(loss)) % 2, np.full(len(loss), 0.3)
    first = split_block(loss[:cut], arm[:cut], weight[:cut])
    second = split_block(loss[cut:], arm[cut:], weight[cut:], seen=cut, loss_sum=first.loss_sum)
    whole = aipw_scores(loss, arm, weight).mean()
    assert (first.n * first.harm + second.n * second.harm) / len(loss) == pytest.approx(whole, abs=1e-9)


def test_a_small_arm_without_errors_so_far_is_not_believed_to_have_no_spread() -> None:
    loss, arm = np.zeros(500), np.zeros(500)
    arm[::20] = 1
    loss[7::20] = 1  # 25 errors of the stable version, none in 25 requests of the candidate
    block = split_block(loss, arm, np.full(500, 0.05))
    scores = aipw_scores(loss, arm, np.full(500, 0.05))
    assert block.spread > 1.5 * float(scores.std(ddof=1))
    assert block.spread == pytest.approx(float(design_spread(loss.var(), 0.05)))


def test_many_splits_are_scored_as_each_by_itself() -> None:
    rng = np.random.default_rng(5)
    loss, arm, weight = rng.random((3, 50)), rng.random((3, 50)) < 0.4, np.full(50, 0.4)
    together = aipw_scores(loss, arm, weight)
    for row in range(3):
        assert together[row] == pytest.approx(aipw_scores(loss[row], arm[row], weight))


def test_the_first_baseline_is_zero_and_later_ones_the_mean_before() -> None:
    assert mean_before([2.0, 4.0, 9.0]).tolist() == [0.0, 2.0, 3.0]
    assert mean_before([2.0], seen=2, loss_sum=6.0).tolist() == [3.0]


def test_requests_that_could_not_be_split_are_refused() -> None:
    for call in (
        lambda: aipw_scores([1.0], [1], [1.0]),
        lambda: aipw_scores([1.0], [1], [0.0]),
        lambda: aipw_scores([1.0], [0.5], [0.5]),
        lambda: aipw_scores([1.0, 2.0], [1], [0.5]),
        lambda: split_block([], [], []),
    ):
        with pytest.raises(ValueError, match=r"must|need"):
            call()

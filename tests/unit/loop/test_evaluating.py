"""Rows fall into blocks by their time, whatever the block's length, and every comparison cuts alike."""

from datetime import timedelta

import numpy as np
import pytest

from steersman.loop.evaluating import block_names

TIMES = np.array(
    ["2013-03-01T00:00", "2013-03-01T23:59", "2013-03-02T00:00", "2013-03-08T12:00"], dtype="datetime64[us]"
)


@pytest.mark.parametrize(
    ("block", "names"),
    [
        (timedelta(days=1), ["2013-03-01", "2013-03-01", "2013-03-02", "2013-03-08"]),
        (timedelta(days=7), ["2013-02-23", "2013-02-23", "2013-03-02", "2013-03-02"]),
        (timedelta(hours=6), ["2013-03-01T00:00:00.000", "2013-03-01T18:00:00.000", "2013-03-02T00:00:00.000",
                              "2013-03-08T12:00:00.000"]),
    ],
)  # fmt: skip
def test_a_block_is_named_by_its_start(block: timedelta, names: list[str]) -> None:
    assert block_names(TIMES, block) == names


def test_times_before_the_origin_have_blocks_too() -> None:
    assert block_names(np.array(["1999-12-31T23:00"], dtype="datetime64[us]"), timedelta(days=1)) == ["1999-12-31"]

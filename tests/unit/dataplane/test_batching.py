"""Micro-batching: who shares a call, who waits and how long, and that a bad request harms nobody else."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any

import numpy as np
import pytest

from steersman.dataplane.batches import Batch, Model, ModelError, Outputs
from steersman.dataplane.batching import Batcher, Call, TimeOverError

POISON = -13.0


class Recorder:
    """A model that answers twice the first column, after `takes_s`; it raises on POISON, and notes what it was asked."""

    def __init__(self, takes_s: float = 0.02) -> None:
        self.takes_s = takes_s
        self.calls: list[tuple[list[float], str]] = []
        self.threads: set[int] = set()
        self.short = False

    def predict(self, batch: Batch, variant: str, mlflow: bool) -> Outputs:
        assert batch.matrix is not None
        values = batch.matrix[:, 0]
        self.calls.append((values.tolist(), variant))
        self.threads.add(threading.get_ident())
        time.sleep(self.takes_s)
        if POISON in values:
            raise ValueError("poison")
        return [("score", values[:-1] if self.short else values * 2)]

    def batcher(self, *, rows_max: int = 64, wait_ms: float = 0.0, variant_matters: bool = False) -> Batcher:
        model = Model(as_matrix=True, predict=self.predict, variant_matters=variant_matters)
        return Batcher(model, rows_max=rows_max, wait_ms=wait_ms)


def rows(*values: float) -> Batch:
    return Batch(len(values), np.array(values).reshape(-1, 1))


async def ask(batcher: Batcher, *values: float, variant: str = "stable") -> list[float]:
    predicted = await batcher.predict(rows(*values), Call(variant))
    answer: list[float] = predicted.outputs[0][1].tolist()
    return answer


def run(story: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(story(), 30))


def test_what_arrives_during_a_prediction_shares_the_next_one_and_each_gets_its_own_rows() -> None:
    model = Recorder()

    async def story() -> None:
        batcher = model.batcher()
        answers = await asyncio.gather(ask(batcher, 1), ask(batcher, 2, 3), ask(batcher, 4))
        assert list(answers) == [[2.0], [4.0, 6.0], [8.0]]

    run(story)
    assert [values for values, _ in model.calls] == [[1], [2, 3, 4]]
    assert threading.get_ident() not in model.threads
    assert len(model.threads) == 1


def test_a_request_is_never_split_and_a_batch_never_over_its_size_unless_one_request_is() -> None:
    model = Recorder()

    async def story() -> None:
        batcher = model.batcher(rows_max=4)
        await asyncio.gather(
            ask(batcher, 1), ask(batcher, 2, 2, 2), ask(batcher, 3, 3), ask(batcher, 4, 4, 4, 4, 4), ask(batcher, 5)
        )

    run(story)
    assert [values for values, _ in model.calls] == [[1], [2, 2, 2], [3, 3], [4] * 5, [5]]


def test_a_caller_alone_never_waits() -> None:
    model = Recorder(takes_s=0)

    async def story() -> None:
        batcher = model.batcher(wait_ms=5_000)
        started = time.monotonic()
        for value in range(5):
            assert await ask(batcher, value) == [2 * value]
        assert time.monotonic() - started < 2

    run(story)


def test_where_others_were_just_now_the_first_waits_for_as_many_and_not_longer_than_the_bound() -> None:
    model = Recorder(takes_s=0.19)

    async def story() -> None:
        batcher = model.batcher(wait_ms=200)
        await asyncio.gather(*(ask(batcher, value) for value in range(5)))
        model.calls.clear()
        later = [asyncio.create_task(ask(batcher, 10))]
        await asyncio.sleep(0.05)
        later += [asyncio.create_task(ask(batcher, value)) for value in (11, 12, 13)]
        await asyncio.gather(*later)
        assert [values for values, _ in model.calls] == [[10, 11, 12, 13]]
        started = time.monotonic()
        predicted = await batcher.predict(rows(20), Call())  # three that do not come
        assert 0.15 < time.monotonic() - started < 2
        assert 150 < predicted.queue_ms < 2_000

    run(story)


def test_callers_who_left_are_soon_not_waited_for() -> None:
    model = Recorder(takes_s=0.04)

    async def story() -> None:
        batcher = model.batcher(wait_ms=50)
        await asyncio.gather(*(ask(batcher, value) for value in range(16)))
        waits = [(await batcher.predict(rows(1), Call())).queue_ms for _ in range(12)]
        assert waits[0] > 25
        assert waits[-1] < 25

    run(story)


def test_nobody_waits_longer_than_a_prediction_takes() -> None:
    model = Recorder(takes_s=0.005)

    async def story() -> None:
        batcher = model.batcher(wait_ms=2_000)
        for _ in range(12):
            await asyncio.gather(*(ask(batcher, value) for value in range(4)))
        assert (await batcher.predict(rows(1), Call())).queue_ms < 500

    run(story)


def test_only_the_culprit_fails() -> None:
    model = Recorder()

    async def story() -> None:
        batcher = model.batcher()
        answers = await asyncio.gather(
            ask(batcher, 0), ask(batcher, 1), ask(batcher, POISON), ask(batcher, 2), return_exceptions=True
        )
        assert [answers[0], answers[1], answers[3]] == [[0], [2], [4]]
        assert isinstance(answers[2], ValueError)
        assert await ask(batcher, 5) == [10]

    run(story)


def test_an_answer_of_the_wrong_length_is_each_members_error() -> None:
    model = Recorder()
    model.short = True

    async def story() -> None:
        batcher = model.batcher()
        answers = await asyncio.gather(*(ask(batcher, value) for value in range(3)), return_exceptions=True)
        assert [type(answer) for answer in answers] == [ModelError] * 3
        assert "0 values for 1 rows" in str(answers[1])

    run(story)


@pytest.mark.parametrize(("variant_matters", "calls"), [(False, 2), (True, 3)])
def test_variants_share_a_call_unless_the_model_asks_for_the_variant(variant_matters: bool, calls: int) -> None:
    model = Recorder()

    async def story() -> None:
        batcher = model.batcher(variant_matters=variant_matters)
        variants = ["stable", "stable", "candidate", "stable"]
        await asyncio.gather(*(ask(batcher, 1, variant=variant) for variant in variants))

    run(story)
    assert len(model.calls) == calls


def test_a_request_whose_time_is_over_when_its_turn_comes_is_not_predicted() -> None:
    model = Recorder(takes_s=0.1)

    async def story() -> None:
        batcher = model.batcher()
        now = asyncio.get_running_loop().time()
        first = asyncio.create_task(ask(batcher, 1))
        await asyncio.sleep(0)
        with pytest.raises(TimeOverError, match="waited"):
            await batcher.predict(rows(2), Call(deadline_at=now + 0.05))
        assert await first == [2]
        assert (await batcher.predict(rows(3), Call(deadline_at=now + 60))).outputs[0][1].tolist() == [6]

    run(story)
    assert [values for values, _ in model.calls] == [[1], [3]]


def test_a_caller_who_left_is_not_predicted_for() -> None:
    model = Recorder(takes_s=0.1)

    async def story() -> None:
        batcher = model.batcher()
        first = asyncio.create_task(ask(batcher, 1))
        await asyncio.sleep(0)
        left = asyncio.create_task(ask(batcher, 2))
        await asyncio.sleep(0)
        left.cancel()
        assert await first == [2]
        assert await ask(batcher, 3) == [6]

    run(story)
    assert [values for values, _ in model.calls] == [[1], [3]]

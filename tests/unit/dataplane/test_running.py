"""Coroutines without a task: they go on in the call that brings what they wait for, and otherwise behave like tasks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvloop

from steersman.dataplane.deadlines import Deadlines
from steersman.dataplane.running import Arrival, Run

Ended = list[BaseException | None]


def outside_a_task(main: Callable[[asyncio.AbstractEventLoop, Ended], Coroutine[Any, Any, None] | None]) -> Ended:
    """Run `main` as a callback of the loop, and what it returns afterwards as a task."""
    ended: Ended = []

    async def around() -> None:
        loop = asyncio.get_running_loop()
        called: asyncio.Future[Coroutine[Any, Any, None] | None] = loop.create_future()

        def call() -> None:
            try:
                called.set_result(main(loop, ended))
            except BaseException as error:
                called.set_exception(error)

        loop.call_soon(call)
        rest = await called
        if rest is not None:
            await asyncio.wait_for(rest, 5)

    uvloop.run(around())
    return ended


def begin(loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, None], ended: Ended) -> Run:
    run = Run(loop, coroutine, lambda _run, error: ended.append(error))
    run.step()
    return run


async def until(ended: Ended) -> None:
    while not ended:
        await asyncio.sleep(0.001)


def test_it_begins_at_once_and_goes_on_in_the_call_that_brings_the_news() -> None:
    said: list[object] = []

    def main(loop: asyncio.AbstractEventLoop, ended: Ended) -> None:
        arrival: Arrival[str] = Arrival(loop)

        async def work() -> None:
            said.append("begun")
            said.append(await arrival)

        begin(loop, work(), ended)
        assert said == ["begun"]
        arrival.bring("news")
        arrival.bring("late")
        assert said == ["begun", "news"]
        assert ended == [None]

    outside_a_task(main)


def test_what_it_raises_is_told_to_who_started_it() -> None:
    def main(loop: asyncio.AbstractEventLoop, ended: Ended) -> None:
        arrival: Arrival[str] = Arrival(loop)

        async def work() -> None:
            await arrival

        begin(loop, work(), ended)
        arrival.fail(ValueError("bad news"))
        assert isinstance(ended[0], ValueError)

    outside_a_task(main)


def test_it_waits_for_futures_and_gives_others_their_turn_as_a_task_does() -> None:
    def main(loop: asyncio.AbstractEventLoop, ended: Ended) -> Coroutine[Any, Any, None]:
        async def work() -> None:
            await asyncio.sleep(0)
            assert await asyncio.gather(asyncio.sleep(0.001, "a"), asyncio.to_thread(str, 7)) == ["a", "7"]
            assert isinstance(asyncio.current_task(), Run)

        begin(loop, work(), ended)
        return until(ended)

    assert outside_a_task(main) == [None]


def test_a_time_out_inside_it_works() -> None:
    def main(loop: asyncio.AbstractEventLoop, ended: Ended) -> Coroutine[Any, Any, None]:
        async def work() -> None:
            for _ in range(2):
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.01):
                        await Arrival(loop)

        begin(loop, work(), ended)
        return until(ended)

    assert outside_a_task(main) == [None]


@pytest.mark.parametrize("waits_for", ["an arrival", "a future", "a turn"])
def test_a_cancelled_one_ends_where_it_waits(waits_for: str) -> None:
    seen: list[str] = []

    def main(loop: asyncio.AbstractEventLoop, ended: Ended) -> Coroutine[Any, Any, None]:
        async def work() -> None:
            try:
                if waits_for == "an arrival":
                    await Arrival(loop)
                elif waits_for == "a future":
                    await loop.create_future()
                while True:
                    await asyncio.sleep(0)
            finally:
                seen.append("cleaned up")

        begin(loop, work(), ended).cancel()
        return until(ended)

    [error] = outside_a_task(main)
    assert isinstance(error, asyncio.CancelledError)
    assert seen == ["cleaned up"]


def test_news_brought_by_another_wait_for_its_step_to_end() -> None:
    said: list[str] = []

    def main(loop: asyncio.AbstractEventLoop, ended: Ended) -> Coroutine[Any, Any, None]:
        arrival: Arrival[None] = Arrival(loop)

        async def first() -> None:
            await arrival
            said.append("first")

        async def second() -> None:
            arrival.bring(None)
            said.append("second")

        begin(loop, first(), ended)
        begin(loop, second(), ended)

        async def both() -> None:
            while len(ended) < 2:
                await asyncio.sleep(0.001)

        return both()

    assert outside_a_task(main) == [None, None]
    assert said == ["second", "first"]


def test_a_task_may_wait_for_an_arrival_too_and_may_be_cancelled() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        arrivals: list[Arrival[int]] = [Arrival(loop), Arrival(loop)]

        async def wait(arrival: Arrival[int]) -> int:
            return await arrival

        first, second = [asyncio.create_task(wait(arrival)) for arrival in arrivals]
        await asyncio.sleep(0)
        arrivals[0].bring(7)
        assert await first == 7
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        assert arrivals[1].settled

    uvloop.run(main())


def test_only_what_is_still_waited_for_expires_and_in_its_time() -> None:
    class One:
        def __init__(self, due_at: float) -> None:
            self.due_at = due_at
            self.expired_at = 0.0

        def expire(self) -> None:
            self.expired_at = asyncio.get_running_loop().time()

    async def main() -> None:
        now = asyncio.get_running_loop().time()
        deadlines = Deadlines()
        late, soon, met = One(now + 0.1), One(now + 0.03), One(now + 0.01)
        for one in (late, soon, met):
            deadlines.watch(one)
        deadlines.forget(met)
        await asyncio.sleep(0.2)
        assert met.expired_at == 0.0
        assert soon.due_at <= soon.expired_at < late.due_at <= late.expired_at

    uvloop.run(main())

"""The stream of hints: what it sends, and when."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path

import pytest

from steersman.console import live
from steersman.console.live import Changes
from steersman.domain.errors import LimitReached
from steersman.domain.events import Action, Event
from steersman.store.database import Store

NOON = datetime(2013, 5, 1, 12, tzinfo=UTC)


def started(store: Store) -> None:
    with store.write() as tx:
        tx.append(
            Event(
                action=Action.CONTROL_STARTED,
                at=NOON,
                actor="system",
                workspace="default",
                kind="installation",
                name="control",
                because="test",
            )
        )


def test_a_stream_begins_with_where_things_stand_and_tells_of_each_commit(tmp_path: Path) -> None:
    store = Store.at(tmp_path)
    changes = Changes(store, lambda: NOON)

    async def read() -> list[bytes]:
        stream = changes.open()
        found = [await anext(stream), await anext(stream)]
        await asyncio.to_thread(started, store)
        found.append(await asyncio.wait_for(anext(stream), 5))
        await stream.aclose()  # type: ignore[attr-defined]
        return found

    assert asyncio.run(read()) == [
        b"retry: 2000\n\n",
        b'event: changed\nid: 0\ndata: {"size": 0, "at": "2013-05-01T12:00:00Z"}\n\n',
        b'event: changed\nid: 1\ndata: {"size": 1, "at": "2013-05-01T12:00:00Z"}\n\n',
    ]


def test_a_moved_clock_is_told_although_nothing_was_committed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "LOOKED_EVERY_S", 0.05)
    at = [NOON]
    changes = Changes(Store.at(tmp_path), lambda: at[0])

    async def read() -> bytes:
        stream = changes.open()
        await anext(stream)
        await anext(stream)
        at[0] = NOON.replace(hour=13)
        return await asyncio.wait_for(anext(stream), 5)

    assert b"2013-05-01T13:00:00Z" in asyncio.run(read())


def test_a_silent_stream_sends_comments_so_that_it_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "LOOKED_EVERY_S", 0.01)
    changes = Changes(Store.at(tmp_path), lambda: NOON)

    async def read() -> bytes:
        stream = changes.open()
        await anext(stream)
        await anext(stream)
        return await asyncio.wait_for(anext(stream), 5)

    assert asyncio.run(read()) == b": nothing changed\n\n"


def test_streams_are_bounded(tmp_path: Path) -> None:
    changes = Changes(Store.at(tmp_path), lambda: NOON, streams_max=1)

    async def read() -> None:
        first = changes.open()
        await anext(first)
        with pytest.raises(LimitReached, match="1 pages are open"):
            changes.open()
        await first.aclose()  # type: ignore[attr-defined]
        await anext(changes.open())

    asyncio.run(read())

"""The write-ahead log: whole records or none, however the disk or the process fails."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from pathlib import Path

import pytest

from steersman.dataplane import capture
from steersman.dataplane.capture import (
    Context,
    Labels,
    LogFullError,
    LogHeldError,
    Prediction,
    Record,
    SegmentReader,
    SegmentWriter,
    context_of,
)
from steersman.dataplane.configuration import Column, Route

ROUTE = Route(
    workspace="ops", environment="production", model="m", salt="s", signature=(Column(name="x", type="FP64"),)
)
CONTEXT = context_of(ROUTE)


def prediction(number: int) -> Prediction:
    return Prediction(
        context=CONTEXT.id,
        at_us=number,
        version="1",
        digest="sha256:0",
        release="r",
        variant="stable",
        probability=1.0,
        request_id=f"q{number}",
        event_ids=[f"e{number}"],
        request=b'{"inputs": []}',
        outputs=b"[]",
        status=200,
        error=None,
        latency_ms=1.5,
    )


def written(folder: Path, count: int) -> Path:
    writer = SegmentWriter(folder, "router-0")
    for number in range(count):
        writer.append(CONTEXT, prediction(number))
    writer.close()
    [(_, path)] = capture.segments(folder, "router-0")
    return path


def read(path: Path, *, closed: bool = True, start: int = 0) -> list[Record]:
    return [record for _, record in SegmentReader(path, closed=closed).records(start)]


def test_what_was_appended_is_read_and_its_context_precedes_it(tmp_path: Path) -> None:
    assert read(written(tmp_path, 3)) == [CONTEXT, prediction(0), prediction(1), prediction(2)]


def test_a_segment_cut_at_any_byte_gives_the_records_written_before_it(tmp_path: Path) -> None:
    path = written(tmp_path, 3)
    whole = path.read_bytes()
    ends = [end for end, _ in SegmentReader(path, closed=True).records()]
    records = read(path)
    for cut in range(len(whole)):
        path.write_bytes(whole[:cut])
        expected = records[: sum(end <= cut for end in ends)]
        assert read(path) == expected
        assert read(path, closed=False) == expected


def test_a_damaged_record_is_skipped_and_counted_and_the_rest_is_read(tmp_path: Path) -> None:
    path = written(tmp_path, 3)
    content = bytearray(path.read_bytes())
    ends = [end for end, _ in SegmentReader(path, closed=True).records()]
    content[ends[1] - 1] ^= 0xFF
    path.write_bytes(content)
    reader = SegmentReader(path, closed=True)
    assert [record for _, record in reader.records()] == [CONTEXT, prediction(1), prediction(2)]
    assert reader.damaged_frames == 1


def test_reading_continues_where_it_stopped(tmp_path: Path) -> None:
    path = written(tmp_path, 3)
    ends = [end for end, _ in SegmentReader(path, closed=True).records()]
    assert read(path, start=ends[1]) == [prediction(1), prediction(2)]


def test_segments_rotate_and_each_tells_its_own_contexts(tmp_path: Path) -> None:
    writer = SegmentWriter(tmp_path, "router-0", segment_bytes_max=300)
    for number in range(6):
        writer.append(CONTEXT, prediction(number))
    writer.close()
    paths = [path for _, path in capture.segments(tmp_path, "router-0")]
    assert len(paths) > 1
    assert all(isinstance(read(path)[0], Context) for path in paths)
    assert [r for path in paths for r in read(path) if not isinstance(r, Context)] == [prediction(n) for n in range(6)]


def test_positions_only_grow_also_after_the_folder_was_emptied(tmp_path: Path) -> None:
    path = written(tmp_path, 1)
    number = int(path.stem.rpartition("-")[2])
    path.unlink()
    writer = SegmentWriter(tmp_path, "router-0")
    writer.append(CONTEXT, prediction(1))
    assert writer.position >> 32 >= number
    writer.close()


def test_a_stream_has_one_writer(tmp_path: Path) -> None:
    writer = SegmentWriter(tmp_path, "router-0")
    with pytest.raises(LogHeldError, match="another router"):
        SegmentWriter(tmp_path, "router-0")
    writer.close()
    SegmentWriter(tmp_path, "router-0").close()


def test_a_write_the_disk_takes_in_part_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = SegmentWriter(tmp_path, "router-0")
    writer.append(CONTEXT, prediction(0))
    before = writer.position
    write = os.write
    calls = iter([True])

    def half_then_full(fd: int, data: bytes) -> int:
        if next(calls, False):
            return write(fd, data[: len(data) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", half_then_full)
    with pytest.raises(LogFullError, match="No space left"):
        writer.append(CONTEXT, prediction(1))
    monkeypatch.undo()
    assert writer.position == before
    writer.append(CONTEXT, prediction(2))
    writer.close()
    [(_, path)] = capture.segments(tmp_path, "router-0")
    assert read(path) == [CONTEXT, prediction(0), prediction(2)]


def test_a_log_nobody_commits_has_a_bound(tmp_path: Path) -> None:
    writer = SegmentWriter(tmp_path, "router-0", stream_bytes_max=300)
    writer.append(CONTEXT, prediction(0))
    writer.append(CONTEXT, prediction(1))
    with pytest.raises(LogFullError, match="committer is behind"):
        writer.append(CONTEXT, prediction(2))
    writer.close()


def test_callers_that_wait_together_share_one_fsync(tmp_path: Path) -> None:
    writer = SegmentWriter(tmp_path, "router-0")

    async def many() -> None:
        for number in range(20):
            writer.append(None, Labels("ops", "m", "api", [f"e{number}"], [number], [1.0]))
        await asyncio.gather(*(writer.sync() for _ in range(20)))

    asyncio.run(many())
    assert writer.counts.syncs <= 2
    writer.close()


def test_a_disk_that_refuses_to_sync_refuses_the_durable_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = SegmentWriter(tmp_path, "router-0")
    writer.append(CONTEXT, prediction(0))

    def broken(fd: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(LogFullError, match="Input/output error"):
        asyncio.run(writer.sync())
    monkeypatch.undo()
    writer.close()


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """What was brought to the disk, and by which thread."""
    found: list[tuple[str, int]] = []
    fsync = os.fsync

    def noted(descriptor: int) -> None:
        found.append((os.readlink(f"/proc/self/fd/{descriptor}"), threading.get_ident()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    return found


def test_full_segments_of_durable_records_are_synced_beside_the_loop_before_whoever_waits_is_told(
    tmp_path: Path, synced: list[tuple[str, int]]
) -> None:
    async def run() -> None:
        writer = SegmentWriter(tmp_path, "router-0", segment_bytes_max=1)
        for number in range(3):
            writer.append(CONTEXT, prediction(number), durable=True)
        assert synced == []
        await writer.sync()
        assert {thread for _, thread in synced}.isdisjoint({threading.get_ident()})
        paths = [str(path) for _, path in capture.segments(tmp_path, "router-0")]
        assert sorted(path for path, _ in synced) == sorted([str(tmp_path), *paths])
        writer.close()

    asyncio.run(run())


def test_nothing_is_synced_for_records_that_nobody_was_promised_on_the_disk(
    tmp_path: Path, synced: list[tuple[str, int]]
) -> None:
    async def run() -> None:
        writer = SegmentWriter(tmp_path, "router-0", segment_bytes_max=1)
        for number in range(3):
            writer.append(CONTEXT, prediction(number))
        writer.close()

    asyncio.run(run())
    assert synced == []
    assert len(capture.segments(tmp_path, "router-0")) == 3


def test_a_durable_record_is_on_the_disk_when_its_segment_was_left_before_anybody_waited(
    tmp_path: Path, synced: list[tuple[str, int]]
) -> None:
    async def run() -> None:
        writer = SegmentWriter(tmp_path, "router-0", segment_bytes_max=1)
        writer.append(CONTEXT, prediction(0), durable=True)
        writer.append(CONTEXT, prediction(1))
        writer.append(CONTEXT, prediction(2))
        await writer.sync()
        first, second, third = (str(path) for _, path in capture.segments(tmp_path, "router-0"))
        assert sorted(path for path, _ in synced) == sorted([str(tmp_path), first, third])
        assert second not in {path for path, _ in synced}
        writer.close()

    asyncio.run(run())


def test_a_file_that_only_looks_like_a_segment_is_none(tmp_path: Path) -> None:
    for name in ("router-0-0000000007.seg", "router-0-².seg", "router-0-x.seg"):
        (tmp_path / name).touch()
    assert [number for number, _ in capture.segments(tmp_path, "router-0")] == [7]

"""Copies for mirrors, in one process: what becomes of those that no worker answers."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec

from steersman.dataplane import oip
from steersman.dataplane.arms import Arm, CompiledRoute, RouterCounts, VariantCounts
from steersman.dataplane.capture import GIVEN_UP, Prediction, SegmentReader, SegmentWriter, segments
from steersman.dataplane.configuration import MirrorRoute, Route, VariantRoute
from steersman.dataplane.inference import Inference
from steersman.dataplane.upstream import Upstreams
from steersman.testing.plane import tensor

ANSWER = msgspec.json.encode({"outputs": [tensor("score", [0.5])]})


async def _answer_all_but_copies(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    head = await reader.readuntil(b"\r\n\r\n")
    if b"X-Steersman-Variant: mirror" not in head:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(ANSWER), ANSWER))
    await reader.read()
    writer.close()


def test_copies_that_take_too_long_are_given_up_and_logged_before_the_log_is_closed(tmp_path: Path) -> None:
    async def work() -> None:
        server = await asyncio.start_server(_answer_all_but_copies, "127.0.0.1", 0)
        address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        of = {"version": "1", "digest": "sha256:a", "release": "r", "addresses": (address,)}
        stable, mirror = VariantRoute(role="stable", weight_pct=100.0, **of), MirrorRoute(role="mirror", **of)
        route = Route(workspace="w", environment="e", model="m", salt="s", variants=(stable,), mirrors=(mirror,))
        upstreams = Upstreams()
        arms = [[Arm(route, one, upstreams, VariantCounts())] for one in (stable, mirror)]
        inference = Inference(log, RouterCounts())
        asked = oip.asked(msgspec.json.encode({"inputs": [tensor("x", [1.0])]}), {}, 0)
        await inference.infer(CompiledRoute(route, *arms, {}), asked)
        assert await inference.settle(0.05) == 1
        await inference.close(0.05)
        assert await inference.settle(0.0) == 0
        upstreams.close()
        server.close()

    log = SegmentWriter(tmp_path, "router-0")
    asyncio.run(work())
    log.close()
    [(_, path)] = segments(tmp_path, "router-0")
    kept = [record for _, record in SegmentReader(path, closed=True).records() if isinstance(record, Prediction)]
    assert [(record.variant, record.status) for record in kept] == [("stable", 200), ("shadow", GIVEN_UP)]

"""What each worker uses, asked of itself: only it is where its process is, on this machine or another.

A worker that computes for longer than the answer may take is left out of that scrape; asking it ejects nobody.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import msgspec

from steersman.dataplane.configuration import MirrorRoute, Route, VariantRoute
from steersman.dataplane.connection import UpstreamError
from steersman.dataplane.upstream import Upstreams
from steersman.dataplane.watch import USAGE_PATH, Usage

ANSWER_S_MAX = 0.5
"""Seconds a worker may take: a prediction that is under way is answered first."""

_QUESTION = f"GET {USAGE_PATH} HTTP/1.1\r\nHost: worker\r\n\r\n".encode()


class WorkerUsage(msgspec.Struct, frozen=True):
    workspace: str
    environment: str
    model: str
    version: str
    address: str
    usage: Usage


async def of_workers(routes: Iterable[Route], upstreams: Upstreams) -> list[WorkerUsage]:
    """Each worker that is routed, once, whatever roles its version has. Takes at most ANSWER_S_MAX."""
    known: dict[str, tuple[Route, str]] = {}
    for route in routes:
        arms: list[VariantRoute | MirrorRoute] = [*route.mirrors, *route.variants]
        known |= {address: (route, arm.version) for arm in arms for address in arm.addresses}
    answers = await asyncio.gather(*(_ask(upstreams, address) for address in known))
    return [
        WorkerUsage(route.workspace, route.environment, route.model, version, address, usage)
        for (address, (route, version)), usage in zip(known.items(), answers, strict=True)
        if usage is not None
    ]


async def _ask(upstreams: Upstreams, address: str) -> Usage | None:
    try:
        response = await upstreams.replica(address).request(_QUESTION, ANSWER_S_MAX)
        return msgspec.json.decode(response.body, type=Usage) if response.status == 200 else None
    except (UpstreamError, TimeoutError, msgspec.DecodeError):
        return None

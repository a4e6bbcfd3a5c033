"""The control server's side door to a real router."""

from __future__ import annotations

from pathlib import Path

import pytest

from steersman.dataplane.configuration import RouterConfiguration, encode
from steersman.ports import RouterControl, RouterError
from steersman.server.router_control import RouterSockets
from steersman.testing.plane import Plane


def test_a_configuration_handed_over_is_the_one_in_effect(tmp_path: Path) -> None:
    with Plane(tmp_path / "state") as plane:
        plane.router()
        router: RouterControl = RouterSockets(plane.state)
        router.apply(encode(RouterConfiguration(generation=7)))
        assert router.generation() == 7
        with pytest.raises(RouterError, match=r"refused the configuration \(409\)"):
            router.apply(encode(RouterConfiguration(generation=6)))
        with pytest.raises(RouterError, match=r"refused the configuration \(400\)"):
            router.apply(b'{"generation": "many"}')
        assert router.generation() == 7


def test_a_router_that_is_not_there_is_an_ordinary_answer(tmp_path: Path) -> None:
    router = RouterSockets(tmp_path)
    assert router.generation() is None
    with pytest.raises(RouterError, match="does not answer"):
        router.apply(encode(RouterConfiguration(generation=1)))


def test_what_is_in_effect_is_what_every_router_has(tmp_path: Path) -> None:
    with Plane(tmp_path / "state") as plane:
        plane.router()
        both = RouterSockets(plane.state, 2)
        with pytest.raises(RouterError, match="router-1 does not answer"):
            both.apply(encode(RouterConfiguration(generation=7)))
        assert RouterSockets(plane.state).generation() == 7, "the one that runs has it all the same"
        assert both.generation() is None
        second = plane.start("router-1", "--state", str(plane.state), "--port", "0", "--number", "1")
        plane._await("router-1", lambda: both.generation() == 7)
        RouterSockets(plane.state).apply(encode(RouterConfiguration(generation=8)))
        assert both.generation() == 7
        both.apply(encode(RouterConfiguration(generation=8)))
        assert both.generation() == 8
        assert second.poll() is None

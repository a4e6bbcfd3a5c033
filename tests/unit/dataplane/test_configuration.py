"""The router's document: what it refuses before anything is swapped."""

from __future__ import annotations

import re

import msgspec
import pytest

from steersman.dataplane.configuration import (
    Column,
    InvalidConfigurationError,
    Route,
    RouterConfiguration,
    VariantRoute,
    column_type,
    decode,
    encode,
)


def variant(role: str = "stable", weight_pct: float = 100.0) -> VariantRoute:
    return msgspec.convert(
        {"role": role, "version": "1", "digest": "sha256:0", "release": "r", "weight_pct": weight_pct}, VariantRoute
    )


def configuration(*variants: VariantRoute, **route: object) -> RouterConfiguration:
    fields = {"workspace": "ops", "environment": "production", "model": "m", "salt": "s", **route}
    return RouterConfiguration(generation=1, routes=(Route(variants=variants, **fields),))  # type: ignore[arg-type]


def test_a_configuration_survives_its_encoding() -> None:
    wanted = configuration(variant("candidate", 10), variant("stable", 90), signature=(Column(name="x", type="FP64"),))
    assert decode(encode(wanted)) == wanted


@pytest.mark.parametrize(
    ("offered", "because"),
    [
        (configuration(variant("stable", 90)), "weights sum to 90 %, must be 100"),
        (configuration(variant(), variant(weight_pct=0)), "a role occurs twice"),
        (configuration(variant(), model="../keys"), "routes[0].model"),
        (configuration(variant(), workspace="a/b"), "routes[0].workspace"),
        (configuration(variant(), deadline_s=0), "deadline_s"),
    ],
)
def test_what_cannot_be_routed_is_refused_with_its_place(offered: RouterConfiguration, because: str) -> None:
    with pytest.raises(InvalidConfigurationError, match=re.escape(because)):
        decode(encode(offered))


def test_one_model_has_one_route_an_environment() -> None:
    route = configuration(variant()).routes[0]
    with pytest.raises(InvalidConfigurationError, match="two routes"):
        decode(encode(RouterConfiguration(generation=1, routes=(route, route))))


def test_both_vocabularies_of_types_are_understood() -> None:
    assert [column_type(name) for name in ("long", "double", "string", "INT64", "BYTES")] == [
        "INT64",
        "FP64",
        "BYTES",
        "INT64",
        "BYTES",
    ]
    with pytest.raises(ValueError, match="binary"):
        column_type("binary")

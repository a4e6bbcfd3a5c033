"""The one document the control server hands to the router.

Routing is state, not commands: the control server renders the whole truth about who may call, which versions answer and
with what weight, numbers it with a *generation*, and puts it on the router's unix socket. The router refuses an older
generation, persists what it accepted and swaps it in atomically, so that it can start and serve alone. Nothing here
names a registry or an alias: a variant is a version, a digest and the addresses of the workers that loaded it.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

GENERATION_MAX = 2**62
"""Generations fit a signed 64-bit integer, as every store and JSON reader can hold them."""

ROUTES_MAX = 2_000
"""Routes of one router: above this a router process is the wrong unit, not a longer list."""

BUCKETS = 10_000
"""Sticky hash buckets: a weight is exact to 0.01 %."""

Name = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}\Z")]
Percent = Annotated[float, msgspec.Meta(ge=0, le=100)]
Address = Annotated[str, msgspec.Meta(pattern=r"^(unix:/[^\x00-\x1f\x7f]{1,4000}|[A-Za-z0-9._-]{1,253}:[0-9]{1,5})\Z")]
"""Of a worker: a Unix socket by its absolute path, or `host:port`."""

ColumnType = Literal[
    "BOOL", "INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64", "FP32", "FP64", "BYTES"
]
"""Datatypes of the Open Inference Protocol that a column may have; BYTES is a string column."""

_MLFLOW_TYPES: dict[str, ColumnType] = {
    "boolean": "BOOL",
    "integer": "INT32",
    "long": "INT64",
    "float": "FP32",
    "double": "FP64",
    "string": "BYTES",
}


def column_type(name: str) -> ColumnType:
    """The protocol's datatype for `name`, which may be one already or MLflow's word (`long`, `double`, `string`, …).

    Raises ValueError for a type that has no JSON form here (binary, datetime, tensors).
    """
    if name in ColumnType.__args__:  # type: ignore[attr-defined]
        return name  # type: ignore[return-value]
    try:
        return _MLFLOW_TYPES[name.lower()]
    except KeyError:
        raise ValueError(f"column type {name!r} cannot be served; use one of {', '.join(_MLFLOW_TYPES)}") from None


class Column(msgspec.Struct, frozen=True, kw_only=True):
    """One column of a signature. `name` is the model's word, so any text is allowed."""

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=300)]
    type: ColumnType


class VariantRoute(msgspec.Struct, frozen=True, kw_only=True):
    """A version that answers. `addresses` are those of the replicas that loaded `digest`."""

    role: Literal["stable", "candidate"]
    version: str
    digest: str
    release: str
    weight_pct: Percent
    addresses: tuple[Address, ...] = ()


class MirrorRoute(msgspec.Struct, frozen=True, kw_only=True):
    """A version that sees a copy of `percent` of the rows; its answers reach the log, never the caller.

    `mirror` is a release's candidate in the shadow (logged as variant `shadow`), `challenger` a monitor's.
    """

    role: Literal["mirror", "challenger"]
    version: str
    digest: str
    release: str
    percent: Percent = 100.0
    addresses: tuple[Address, ...] = ()


class WarmRoute(msgspec.Struct, frozen=True, kw_only=True):
    """A version kept running that gets no traffic of its own; a caller with the permission may ask for it by number."""

    version: str
    digest: str
    release: str
    addresses: tuple[Address, ...] = ()


class LogSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What of a request reaches the log: the share of events, and columns that are left out or only hashed."""

    sampling: Annotated[float, msgspec.Meta(gt=0.0, le=1.0)] = 1.0
    drop: tuple[str, ...] = ()
    hash: tuple[str, ...] = ()


class LabelSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How labels of the route's model are taken: `capture` as for predictions, bounds on what a value may be."""

    capture: Literal["async", "durable"] = "async"
    value_min: float | None = None
    value_max: float | None = None


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """How requests for one model in one environment are answered.

    `salt` changes only when buckets must be drawn anew (a new release): while one release ramps it stays, so a caller
    once given the candidate keeps it. `signature` types the inputs in the log; the router does not validate rows, the
    worker does. `fallback` lets `stable` answer rows whose candidate failed with a 5xx, where the model is idempotent.
    """

    workspace: Name
    environment: Name
    model: Name
    salt: str
    sticky_by: str | None = None
    idempotent: bool = True
    fallback: bool = True
    capture: Literal["async", "durable"] = "async"
    deadline_s: Annotated[float, msgspec.Meta(gt=0, le=600)] = 30.0
    in_flight_max: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 256
    signature: tuple[Column, ...] = ()
    output: str = "score"
    variants: Annotated[tuple[VariantRoute, ...], msgspec.Meta(max_length=2)] = ()
    mirrors: Annotated[tuple[MirrorRoute, ...], msgspec.Meta(max_length=4)] = ()
    warm: Annotated[tuple[WarmRoute, ...], msgspec.Meta(max_length=8)] = ()
    log: LogSettings = LogSettings()
    labels: LabelSettings | None = LabelSettings()


class TokenHash(msgspec.Struct, frozen=True, kw_only=True):
    """Who may call: the SHA-256 (hex) of a bearer token, never the token.

    `permissions` among `predict`, `override`, `label` and `metrics`; `workspace` None means every workspace;
    `expires_at` is wall time, Unix seconds, None for a token without end.
    """

    sha256: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
    workspace: str | None = None
    permissions: tuple[str, ...] = ("predict", "label")
    expires_at: float | None = None


class RouterConfiguration(msgspec.Struct, frozen=True, kw_only=True):
    """The whole of what the router knows. Without `tokens` nobody may call."""

    generation: Annotated[int, msgspec.Meta(ge=0, le=GENERATION_MAX)]
    replay: bool = False
    routes: Annotated[tuple[Route, ...], msgspec.Meta(max_length=ROUTES_MAX)] = ()
    tokens: tuple[TokenHash, ...] = ()


class InvalidConfigurationError(ValueError):
    """The document is well formed but cannot be routed; the message names the route and the rule."""


_decoder = msgspec.json.Decoder(RouterConfiguration)
_encoder = msgspec.json.Encoder()


def encode(configuration: RouterConfiguration) -> bytes:
    return _encoder.encode(configuration)


def decode(document: bytes) -> RouterConfiguration:
    """Parse and check a configuration. Raises InvalidConfigurationError with a path or a rule."""
    try:
        configuration = _decoder.decode(document)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidConfigurationError(str(error)) from None
    check(configuration)
    return configuration


def check(configuration: RouterConfiguration) -> None:
    """What the types cannot say: one route per model and environment, roles once, weights that sum to 100."""
    seen: set[tuple[str, str, str]] = set()
    for route in configuration.routes:
        key = (route.workspace, route.environment, route.model)
        where = "/".join(key)
        if key in seen:
            raise InvalidConfigurationError(f"{where}: two routes for one model and environment")
        seen.add(key)
        roles = [variant.role for variant in route.variants]
        if len(set(roles)) != len(roles):
            raise InvalidConfigurationError(f"{where}: a role occurs twice among {', '.join(roles)}")
        weight_pct = sum(variant.weight_pct for variant in route.variants)
        if route.variants and abs(weight_pct - 100) > 1e-6:
            raise InvalidConfigurationError(f"{where}: weights sum to {weight_pct:g} %, must be 100")
        mirrors = [(mirror.role, mirror.release) for mirror in route.mirrors]
        if len(set(mirrors)) != len(mirrors):
            raise InvalidConfigurationError(f"{where}: the same mirror occurs twice")
        named: tuple[VariantRoute | MirrorRoute | WarmRoute, ...] = (*route.variants, *route.mirrors, *route.warm)
        for one in named:
            if not (one.version.isprintable() and one.release.isprintable()):  # callers are told both in headers
                raise InvalidConfigurationError(f"{where}: version and release must be printable")
        names = [column.name for column in route.signature]
        if len(set(names)) != len(names):
            raise InvalidConfigurationError(f"{where}: a signature column occurs twice")

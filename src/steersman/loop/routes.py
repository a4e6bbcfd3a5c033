"""From desired traffic to the router's one document.

Nobody is routed to who is not ready: while the version that should answer has no ready replica, the route stays as it
was. So a new version takes traffic only when it can, and a cold rollback keeps the present version answering until the
previous one is up.
"""

from collections.abc import Mapping, Sequence

import msgspec

from steersman.dataplane.configuration import (
    Column,
    LogSettings,
    MirrorRoute,
    Route,
    RouterConfiguration,
    TokenHash,
    VariantRoute,
    WarmRoute,
    column_type,
    encode,
)
from steersman.domain import spec
from steersman.domain.release import Arm
from steersman.domain.traffic import Traffic
from steersman.domain.version import Version
from steersman.ports import RunningReplica

_decoder = msgspec.json.Decoder(RouterConfiguration)


def compile_configuration(
    traffics: Sequence[Traffic],
    *,
    models: Mapping[tuple[str, str, str], spec.Model],
    versions: Mapping[str, Version],
    replicas: Sequence[RunningReplica],
    newest: tuple[int, str] | None,
    replay: bool,
    tokens: tuple[TokenHash, ...],
) -> str | None:
    """The next configuration as JSON, or None when it would say the same as `newest`."""
    present = _decoder.decode(newest[1]) if newest else RouterConfiguration(generation=0)
    before = {(route.workspace, route.model, route.environment): route for route in present.routes}
    routes = []
    for traffic in traffics:
        place = (traffic.workspace, traffic.model, traffic.environment)
        if not answering(traffic):
            continue  # nobody is meant to answer: callers are told so, not answered by a version that was taken back
        route = _route(traffic, models[place], versions, replicas) or before.get(place)
        if route is not None:
            routes.append(route)
    wanted = RouterConfiguration(
        generation=present.generation, replay=replay, routes=tuple(routes), tokens=tuple(sorted(tokens, key=_token_key))
    )
    if wanted == present:
        return None
    return encode(msgspec.structs.replace(wanted, generation=present.generation + 1)).decode()


def _token_key(token: TokenHash) -> str:
    return token.sha256


def answering(traffic: Traffic) -> list[tuple[str, Arm, float]]:
    """Role, version and share of everyone who is meant to answer; who has no share need not be there."""
    weights: list[tuple[str, Arm, float]] = []
    if traffic.candidate is not None:
        weights.append(("candidate", traffic.candidate, traffic.weight_pct))
    if traffic.stable is not None:
        weights.append(("stable", traffic.stable, 100.0 - traffic.weight_pct if traffic.candidate else 100.0))
    return [(role, arm, weight) for role, arm, weight in weights if weight > 0]


def _route(
    traffic: Traffic, model: spec.Model, versions: Mapping[str, Version], replicas: Sequence[RunningReplica]
) -> Route | None:
    """None while a version that should answer has no ready replica."""

    def addresses(arm: Arm) -> tuple[str, ...]:
        return tuple(
            sorted(
                r.address
                for r in replicas
                if r.ready
                and r.digest == arm.digest
                and (r.workspace, r.model, r.environment) == (traffic.workspace, traffic.model, traffic.environment)
            )
        )

    weights = answering(traffic)
    if any(not addresses(arm) for _role, arm, _weight in weights):
        return None
    serving = model.spec.serving
    version = versions.get(weights[-1][1].digest)
    return Route(
        workspace=traffic.workspace,
        environment=traffic.environment,
        model=traffic.model,
        salt=traffic.salt,
        sticky_by=serving.sticky_by,
        idempotent=serving.idempotent,
        capture="durable" if serving.capture is spec.Capture.DURABLE else "async",
        deadline_s=serving.deadline.total_seconds(),
        in_flight_max=serving.queue,
        signature=tuple(Column(name=c.name, type=column_type(c.type)) for c in (version.signature if version else ())),
        output=version.output if version else "score",
        variants=tuple(
            VariantRoute(
                role="candidate" if role == "candidate" else "stable",
                version=str(arm.version),
                digest=arm.digest,
                release=arm.release,
                weight_pct=weight,
                addresses=addresses(arm),
            )
            for role, arm, weight in weights
        ),
        mirrors=tuple(
            MirrorRoute(
                role="challenger" if mirror.role == "challenger" else "mirror",
                version=str(mirror.arm.version),
                digest=mirror.arm.digest,
                release=mirror.arm.release,
                percent=mirror.percent,
                addresses=addresses(mirror.arm),
            )
            for mirror in traffic.mirrors
            if addresses(mirror.arm)
        ),
        warm=tuple(
            WarmRoute(version=str(arm.version), digest=arm.digest, release=arm.release, addresses=addresses(arm))
            for arm in traffic.warm
            if addresses(arm)
        ),
        log=LogSettings(
            sampling=model.spec.inference_log.sampling,
            drop=model.spec.inference_log.drop,
            hash=model.spec.inference_log.hash,
        ),
    )


def serves(body: str, traffic: Traffic, *, digest: str) -> bool:
    """Whether a configuration sends requests, and their copies to `digest`, where `traffic` wants them.

    Copies to anybody else (a challenger, the version replaced last) are not waited for: one that does not start must
    not hold a release.
    """
    place = (traffic.workspace, traffic.model, traffic.environment)
    routes = _decoder.decode(body).routes
    route = next((r for r in routes if (r.workspace, r.model, r.environment) == place), None)
    wanted = {arm.digest: weight for _role, arm, weight in answering(traffic)}
    if route is None:
        return not wanted
    weights = {variant.digest: variant.weight_pct for variant in route.variants}
    copied = {mirror.percent for mirror in route.mirrors if mirror.digest == digest}
    copies = {mirror.percent for mirror in traffic.mirrors if mirror.arm.digest == digest}
    return weights == wanted and copied == copies and (route.salt == traffic.salt or traffic.candidate is None)

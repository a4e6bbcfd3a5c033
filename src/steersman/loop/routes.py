"""From desired traffic to the router's one document.

Nobody is routed to who is not ready: while the version that should answer has no ready replica, the route stays as it
was. So a new version takes traffic only when it can, and a cold rollback keeps the present version answering until the
previous one is up.
"""

from collections.abc import Collection, Mapping, Sequence

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
)
from steersman.domain import spec
from steersman.domain.release import Arm
from steersman.domain.traffic import Traffic
from steersman.domain.version import Version
from steersman.loop.looking import Look


def compile_configuration(
    traffics: Sequence[Traffic],
    *,
    models: Mapping[tuple[str, str, str], spec.Model],
    versions: Mapping[str, Version],
    look: Look,
    present: RouterConfiguration,
    replay: bool,
    tokens: tuple[TokenHash, ...],
    adopted: Collection[tuple[str, str, str]] = (),
) -> RouterConfiguration | None:
    """The next configuration, or None when it would say the same as `present`.

    A place that `traffics` does not name stays as it is routed. Replicas beyond those the document asks for get no
    requests, unless the place is `adopted`.
    """
    before = {(route.workspace, route.model, route.environment): route for route in present.routes}
    named = {(traffic.workspace, traffic.model, traffic.environment) for traffic in traffics}
    routes = [route for place, route in before.items() if place not in named]
    for traffic in traffics:
        place = (traffic.workspace, traffic.model, traffic.environment)
        if not answering(traffic):
            continue  # nobody is meant to answer: callers are told so, not answered by a version that was taken back
        route = _route(traffic, models[place], versions, look, all_of_them=place in adopted) or before.get(place)
        if route is not None:
            routes.append(route)
    wanted = RouterConfiguration(
        generation=present.generation,
        replay=replay,
        routes=tuple(sorted(routes, key=_place_key)),
        tokens=tuple(sorted(tokens, key=_token_key)),
    )
    if wanted == present:
        return None
    return msgspec.structs.replace(wanted, generation=present.generation + 1)


def _place_key(route: Route) -> tuple[str, str, str]:
    return route.workspace, route.model, route.environment


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
    traffic: Traffic, model: spec.Model, versions: Mapping[str, Version], look: Look, *, all_of_them: bool
) -> Route | None:
    """None while a version that should answer has no ready replica."""
    place = (traffic.workspace, traffic.model, traffic.environment)

    def addresses(arm: Arm) -> tuple[str, ...]:
        wanted = look.of(place, arm.digest)[: None if all_of_them else model.spec.serving.replicas]
        return tuple(sorted(replica.address for replica in wanted if replica.ready))

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


def serves(configuration: RouterConfiguration, traffic: Traffic, *, digest: str) -> bool:
    """Whether a configuration sends requests, and their copies to `digest`, where `traffic` wants them.

    Copies to anybody else (a challenger, the version replaced last) are not waited for: one that does not start must
    not hold a release.
    """
    place = (traffic.workspace, traffic.model, traffic.environment)
    route = next((r for r in configuration.routes if _place_key(r) == place), None)
    wanted = {arm.digest: weight for _role, arm, weight in answering(traffic)}
    if route is None:
        return not wanted
    weights = {variant.digest: variant.weight_pct for variant in route.variants}
    copied = {mirror.percent for mirror in route.mirrors if mirror.digest == digest}
    copies = {mirror.percent for mirror in traffic.mirrors if mirror.arm.digest == digest}
    return weights == wanted and copied == copies and (route.salt == traffic.salt or traffic.candidate is None)

"""Reads the guardrails of a release from its first copied request to the end of its bake, and the error budgets.

A reading looks back to the beginning of the release's present step, at most a day: what happens now counts. It is one
question to the inference log for each span, and the verdicts are pure functions of counts and latencies. While the release
only gets copies its limits are read on those, so that what fails in the shadow never answers; ratios and budgets begin with
the first answer. In the bake the version it replaced gets the copies, and ratios are taken beside them. Burn rates look at
their own windows, never further back than the step. A budget is everybody's: it counts what all versions of the model
answered in its period, whether a release is under way or not, and one that is used up can keep new releases waiting.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from steersman.decide.guardrails import (
    Burn,
    judge_budget,
    judge_burn_rate,
    judge_error_rate,
    judge_error_ratio,
    judge_latency,
    judge_latency_ratio,
)
from steersman.decide.rolling_out import GuardrailReading
from steersman.decide.routing import mirrored_pct
from steersman.domain import spec
from steersman.domain.release import Opened, Phase, Release
from steersman.domain.verdicts import Outcome, Verdict
from steersman.loop.gathering import Budget, Readings, budget_key
from steersman.loop.observer import reading_key
from steersman.loop.world import Documents, World
from steersman.ports import ArmCount, Scope, Span

GUARDRAIL_SPAN_MAX = timedelta(days=1)
"""Guardrails look back at most this far: what happens now counts, and reading stays bounded through a long bake."""

BUDGET_EVERY = timedelta(hours=1)
"""Event time between two readings of a budget: a share of a month moves slowly, and counting a month reads a month."""

ANSWERS = frozenset({"candidate", "stable"})
"""Variants that callers got an answer from."""

COPIES = frozenset({"shadow"})
"""The variant of a copied request, whose answer nobody gets."""

QUANTILES: Mapping[spec.GuardrailName, float] = {
    spec.GuardrailName.P50_LATENCY: 0.5,
    spec.GuardrailName.P95_LATENCY: 0.95,
    spec.GuardrailName.P99_LATENCY: 0.99,
}


class Guarding:
    """Guards every release of an installation."""

    def __init__(self, world: World, documents: Documents) -> None:
        self._world = world
        self._documents = documents

    def look(self, releases: Sequence[Release]) -> bool:
        """Read what is due for the releases of one model and environment; True if something was read."""
        read = False
        for release in releases:
            if release.completion is None:
                read = self._budgets(release) or read
                read = self._guard(release) or read
        return read

    def _policy(self, release: Release) -> spec.EnvironmentPolicy:
        with self._world.store.read() as tx:
            document = self._documents.revision(tx, release.document)
        return document.spec.environments.get(release.environment, spec.EnvironmentPolicy())

    # --- guardrails of the release itself

    def _guard(self, release: Release) -> bool:
        if release.phase not in (Phase.PROGRESSING, Phase.PAUSED, Phase.VERIFYING):
            return False
        guardrails = _read_now(release, self._policy(release))
        place = (release.workspace, release.model, release.environment)
        with self._world.store.read() as tx:
            known = tx.monitor_state(*place, reading_key(release), Readings)
        now = self._world.clock.now()
        since = max(release.step_started_at, now - GUARDRAIL_SPAN_MAX)
        if not guardrails or since >= now or (known is not None and known.at == now):
            return False
        counts = _Counts(self._world, _scope(release), since, now)
        readings = tuple(self._read(guardrail, release, counts) for guardrail in guardrails)
        with self._world.store.write() as tx:
            tx.put_monitor_state(*place, reading_key(release), Readings(at=now, readings=readings))
        return True

    def _read(self, guardrail: spec.Guardrail, release: Release, counts: "_Counts") -> GuardrailReading:
        critical = guardrail.critical
        if guardrail.burn_rate is not None:
            verdict = _burn(guardrail, guardrail.burn_rate, release, counts)
        elif guardrail.name is spec.GuardrailName.ERROR_RATE:
            verdict = _errors(guardrail, release, counts)
        else:
            verdict = self._latency(guardrail, release, counts)
            critical = critical and not self._world.clock.replay  # a replay's latency is the replaying machine's
        return GuardrailReading(name=guardrail.name, critical=critical, verdict=verdict)

    def _latency(self, guardrail: spec.Guardrail, release: Release, counts: "_Counts") -> Verdict:
        quantile = QUANTILES.get(guardrail.name)
        if quantile is None:
            return _no_rule(guardrail)
        mine = self._latencies(counts, release.digest, _mine(release))
        if guardrail.limit is not None:
            return judge_latency(
                mine, limit_ms=guardrail.limit.value, quantile=quantile, requests_min=guardrail.requests_min
            )
        if guardrail.ratio is None:
            return _no_rule(guardrail)
        if release.previous is None:
            return _nobody_beside(guardrail)
        return judge_latency_ratio(
            mine,
            self._latencies(counts, release.previous.digest, ANSWERS | COPIES),
            ratio_limit=guardrail.ratio,
            quantile=quantile,
            requests_min=max(guardrail.requests_min, 2),
        )

    def _latencies(self, counts: "_Counts", digest: str, variants: frozenset[str]) -> Any:
        return self._world.log.latencies(counts.scope, Span(counts.since, counts.now), digest=digest, variants=variants)

    # --- budgets of the model

    def _budgets(self, release: Release) -> bool:
        """Read the budgets that keep releases waiting, for a release that could be kept."""
        if release.phase is Phase.VERIFYING:
            return False
        now, read = self._world.clock.now(), False
        for guardrail in self._policy(release).guardrails:
            rule = guardrail.burn_rate
            if rule is None or not rule.holds_releases:
                continue
            place = (release.workspace, release.model, release.environment)
            with self._world.store.read() as tx:
                known = tx.monitor_state(*place, budget_key(rule), Budget)
            if known is not None and known.at <= now < known.at + BUDGET_EVERY:
                continue
            errors, requests = _Counts(self._world, _scope(release), now - rule.period, now).of(None, now - rule.period)
            verdict = judge_budget(
                errors=errors,
                requests=requests,
                budget=rule.budget,
                requests_min=guardrail.requests_min,
                period=rule.period,
            )
            with self._world.store.write() as tx:
                tx.put_monitor_state(*place, budget_key(rule), Budget(at=now, verdict=verdict))
            read = True
        return read


class _Counts:
    """Errors and requests by version, asked of the log once for each span; spans end now and begin at `since` at the earliest."""

    def __init__(self, world: World, scope: Scope, since: datetime, now: datetime) -> None:
        self._world = world
        self._known: dict[datetime, Sequence[ArmCount]] = {}
        self.scope, self.since, self.now = scope, since, now

    def of(self, digest: str | None, since: datetime, variants: frozenset[str] = ANSWERS) -> tuple[int, int]:
        """Errors and requests of one version, or of all, from `since` on."""
        start = max(since, self.since)
        if start not in self._known:
            self._known[start] = self._world.log.counts(self.scope, Span(start, self.now))
        chosen = [c for c in self._known[start] if c.variant in variants and digest in (None, c.digest)]
        return sum(count.errors for count in chosen), sum(count.rows for count in chosen)


def _scope(release: Release) -> Scope:
    return Scope(release.workspace, release.environment, release.model)


def _read_now(release: Release, policy: spec.EnvironmentPolicy) -> tuple[spec.Guardrail, ...]:
    """The guardrails that what the release gets now can say something about."""
    if release.exposed:
        return policy.guardrails
    copied = release.opened is not Opened.ROLLBACK and mirrored_pct(release, policy) > 0
    return tuple(guardrail for guardrail in policy.guardrails if copied and guardrail.limit is not None)


def _mine(release: Release) -> frozenset[str]:
    """As what variants the release's own version counts: by its answers, as soon as there may be any."""
    return ANSWERS if release.exposed else COPIES


def _errors(guardrail: spec.Guardrail, release: Release, counts: _Counts) -> Verdict:
    errors, requests = counts.of(release.digest, counts.since, _mine(release))
    if guardrail.limit is not None:
        return judge_error_rate(
            errors=errors, requests=requests, limit=guardrail.limit.value, requests_min=guardrail.requests_min
        )
    if guardrail.ratio is None:
        return _no_rule(guardrail)
    if release.previous is None:
        return _nobody_beside(guardrail)
    errors_stable, requests_stable = counts.of(release.previous.digest, counts.since, ANSWERS | COPIES)
    return judge_error_ratio(
        errors=errors,
        requests=requests,
        errors_stable=errors_stable,
        requests_stable=requests_stable,
        ratio_limit=guardrail.ratio,
        requests_min=guardrail.requests_min,
    )


def _burn(guardrail: spec.Guardrail, rule: spec.BurnRate, release: Release, counts: _Counts) -> Verdict:
    burns = []
    for window in rule.windows:
        errors_long, requests_long = counts.of(release.digest, counts.now - window.long)
        errors_short, requests_short = counts.of(release.digest, counts.now - window.short)
        burns.append(
            Burn(
                long=window.long,
                short=window.short,
                factor=window.factor,
                errors_long=errors_long,
                requests_long=requests_long,
                errors_short=errors_short,
                requests_short=requests_short,
            )
        )
    return judge_burn_rate(burns, budget=rule.budget, requests_min=guardrail.requests_min)


def _no_rule(guardrail: spec.Guardrail) -> Verdict:
    return Verdict(outcome=Outcome.ERROR, because=f"{guardrail.name} has no limit, no ratio and no burnRate")


def _nobody_beside(guardrail: spec.Guardrail) -> Verdict:
    because = f"{guardrail.name}: no stable version answers beside it, so there is no ratio"
    return Verdict(outcome=Outcome.INCONCLUSIVE, because=because, margin=guardrail.ratio)

"""Gates on the version itself: who can still call it, how large and how slow it is, and what it says of itself.

They need no labels. What callers see is compared with production's version by name, type, need and place, because rows
may be sent by place. Size and papers are facts of the version's bytes. Latency is a fact of this machine in this hour: it
is measured on the version's own worker with single predictions, decides on its interval, and is nothing a replay may
decide on.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from steersman.decide.gating import NO_PRODUCTION, GateResult, NotApplicable
from steersman.domain.documentation import lacking, parse_requirement
from steersman.domain.spec import Compatibility
from steersman.domain.verdicts import Outcome, Verdict
from steersman.domain.version import Column, Version
from steersman.stats.beta import beta_cdf

MB = 1_000_000


def gate_schema(candidate: Version, production: Version | None, *, compatibility: Compatibility) -> GateResult:
    """The differences of inputs and output from production's, each named, and whether they are allowed.

    `additive` allows optional inputs after the existing ones, and inputs that become optional: whoever calls production's
    version, by name or by place, is answered by this one too.
    """
    name = f"schema {compatibility} as production's" if compatibility is Compatibility.SAME else "schema additive"
    if production is None:
        return GateResult(gate=name, answer=NotApplicable(because=NO_PRODUCTION))
    if not candidate.signature or not production.signature:
        whose = "this version's" if not candidate.signature else "production's"
        because = f"{whose} inputs are unknown: it was registered without a signature"
        return GateResult(gate=name, answer=Verdict(outcome=Outcome.ERROR, because=because, n_unit="rows"))
    breaking, additions = _differences(candidate, production)
    refused = breaking if compatibility is Compatibility.ADDITIVE else [*breaking, *additions]
    outcome = Outcome.FAILED if refused else Outcome.SUCCESSFUL
    if refused:
        because = f"differs from production's version {production.number}: {'; '.join(refused)}"
    elif additions:
        because = f"callers of version {production.number} are answered as before; {'; '.join(additions)}"
    else:
        because = f"inputs and output are those of version {production.number}, {len(candidate.signature)} inputs"
    return GateResult(gate=name, answer=Verdict(outcome=outcome, because=because))


def gate_size(version: Version, *, max_size_mb: float) -> GateResult:
    """The bytes of all its files together, counted at registration. 1 MB is 1,000,000 bytes."""
    size = version.size_bytes / MB
    outcome = Outcome.SUCCESSFUL if version.size_bytes <= max_size_mb * MB else Outcome.FAILED
    because = f"{version.size_bytes:,} bytes, {size:.3g} MB, at most {max_size_mb:g} MB allowed"
    verdict = Verdict(outcome=outcome, because=because, estimate=size, margin=max_size_mb)
    return GateResult(gate=f"size at most {max_size_mb:g} MB", answer=verdict)


def gate_latency(
    latencies_ms: ArrayLike, *, max_latency_ms: float, percentile: float, alpha: float = 0.05
) -> GateResult:
    """A percentile of single predictions against a limit, by its interval from order statistics (one look).

    Exact for independent measurements whatever their distribution (Conover, *Practical Nonparametric Statistics*, 3.2):
    the i-th smallest of n lies above the quantile q with P(Binomial(n, q) < i). Passes when the upper bound keeps the
    limit, fails when the lower bound does not; without an upper bound (too few for the percentile) it is inconclusive.
    """
    name = f"p{percentile:g} latency at most {max_latency_ms:g} ms"
    values = np.sort(np.asarray(latencies_ms, dtype=np.float64).ravel())
    n = int(values.size)
    if n == 0 or not bool(np.all(np.isfinite(values) & (values > 0))):
        because = f"p{percentile:g} latency not measured: {n} predictions were timed"
        return GateResult(gate=name, answer=Verdict(outcome=Outcome.ERROR, because=because, margin=max_latency_ms))
    lower, estimate, upper = _percentile(values, percentile / 100, alpha)
    outcome = Outcome.INCONCLUSIVE
    if lower is not None and lower > max_latency_ms:
        outcome = Outcome.FAILED
    elif upper is not None and upper <= max_latency_ms:
        outcome = Outcome.SUCCESSFUL
    shown = [f"{bound:.2f}" if bound is not None else "unknown" for bound in (lower, upper)]
    because = (
        f"p{percentile:g} {estimate:.2f} ms [{shown[0]}, {shown[1]}], at most {max_latency_ms:g} ms, {n} predictions"
    )
    verdict = Verdict(
        outcome=outcome,
        because=because,
        metric=f"p{percentile:g} latency",
        estimate=estimate,
        lower=lower,
        upper=upper,
        n=n,
        n_unit="requests",
        margin=max_latency_ms,
        method=f"order statistics, one look, each bound {1 - alpha:.1%}",
        needed=None if upper is not None else max(_needed(percentile / 100, alpha) - n, 1),
    )
    return GateResult(gate=name, answer=verdict)


def gate_documented(required: Sequence[str], texts: Mapping[str, str | None]) -> GateResult:
    """What the version must say of itself; `texts` holds the files that were read, by name, None where there is none."""
    missing = [
        lack for one in map(parse_requirement, required) if (lack := lacking(one, texts.get(one.file))) is not None
    ]
    name = f"documented: {', '.join(required)}"
    if missing:
        return GateResult(gate=name, answer=Verdict(outcome=Outcome.FAILED, because="; ".join(missing)))
    because = f"all {len(required)} are there"
    return GateResult(gate=name, answer=Verdict(outcome=Outcome.SUCCESSFUL, because=because))


def _differences(candidate: Version, production: Version) -> tuple[list[str], list[str]]:
    """What would break a caller of production's version, and what would not."""
    mine = {column.name: column for column in candidate.signature}
    theirs = {column.name: column for column in production.signature}
    breaking = [f"input {name} is gone" for name in theirs if name not in mine]
    additions: list[str] = []
    for name, column in mine.items():
        if name in theirs:
            harmful, harmless = _change(theirs[name], column)
            breaking += harmful
            additions += harmless
        elif column.required:
            breaking.append(f"input {name} ({column.type}) is new and required")
        else:
            additions.append(f"input {name} ({column.type}) is new and optional")
    kept = [name for name in mine if name in theirs]
    if kept != [name for name in theirs if name in mine] or list(mine)[: len(kept)] != kept:
        breaking.append(f"inputs have other places: {', '.join(mine)} for {', '.join(theirs)}")
    if candidate.output != production.output:
        breaking.append(f"the output {production.output} is now {candidate.output}")
    return breaking, additions


def _change(before: Column, after: Column) -> tuple[list[str], list[str]]:
    breaking, additions = [], []
    if before.type != after.type:
        breaking.append(f"input {after.name} is {after.type}, was {before.type}")
    if after.required and not before.required:
        breaking.append(f"input {after.name} has become required")
    if before.required and not after.required:
        additions.append(f"input {after.name} has become optional")
    return breaking, additions


def _percentile(ordered: NDArray[np.float64], q: float, alpha: float) -> tuple[float | None, float, float | None]:
    """Lower bound, estimate and upper bound of the quantile, each bound with 1 − alpha; None where n is too small."""
    n = int(ordered.size)
    # P(i-th smallest > quantile) = P(Binomial(n, q) < i); the largest i where it is at most alpha bounds from below.
    low = next((i for i in range(math.ceil(n * q), 0, -1) if _binomial_at_least(n, q, i) >= 1 - alpha), None)
    high = next((i for i in range(max(math.floor(n * q), 1), n + 1) if _binomial_at_least(n, q, i) <= alpha), None)
    middle = float(ordered[min(max(math.ceil(n * q), 1), n) - 1])
    return (
        None if low is None else float(ordered[low - 1]),
        middle,
        None if high is None else float(ordered[high - 1]),
    )


def _binomial_at_least(n: int, q: float, i: int) -> float:
    """P(Binomial(n, q) >= i) = P(Beta(i, n - i + 1) <= q)."""
    return beta_cdf(q, i, n - i + 1)


def _needed(q: float, alpha: float) -> int:
    """Fewest measurements with which the largest of them bounds the quantile from above: q^n <= alpha."""
    return math.ceil(math.log(alpha) / math.log(q))

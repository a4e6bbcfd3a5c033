"""How often is a release judged wrongly, and how long does a judgement take?

    make bench ARGS="judging --releases 1000"

Simulates releases from seeds in worlds that are known to fool judgements (drifting base rates, ramps, labels that come
later for errors, shocks shared by the requests of a day), each with an identical candidate and with one that is worse by
twice the margin, and looks after every single request. The product's own decision functions judge, beside two rules in
use elsewhere; the real flights add A/A releases. A rate counts as kept when its Clopper-Pearson upper bound (95 %) keeps
the target.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import numpy as np

from measuring import report
from measuring.report import Target
from simulating import flights, rules, worlds
from simulating.rules import Decisions
from simulating.worlds import BASE, HORIZON_DAYS, MARGIN, SHARED, Split
from steersman.decide.judging import ROWS_MIN
from steersman.domain.verdicts import Outcome
from steersman.stats.sequences import clopper_pearson_interval

SEED = 20130301
WRONG_MAX = 0.02
MEDIAN_MAX = 2_500
FEWER_MIN = 5.0
HARMFUL = 2 * MARGIN
HARM = "worse by twice the margin"
PROCESSES = 2
CHUNK = 25
"""Releases simulated at once: what keeps a chunk's arrays at some 4 MB each."""

PAIRED_REQUESTS = 8_000
FEW_REQUESTS = 2_000
SPLIT_REQUESTS = 20_000
A_DAY = 1_000
"""Requests a day where labels take days."""

PAIRED_DAYS, PAIRED_A_DAY = 60, 500
SPLIT_DAYS, SPLIT_A_DAY = 60, 500
DAYS_TIMES = 2
"""Times as many releases where days are judged: their rates lie nearer to the target, so their bounds must be narrower."""

LOST = 0.2
"""Share of the candidate's requests that get lost in the row about broken assignment."""

OURS = "sequence"
THRESHOLD = "fixed threshold"
REPEATED = "repeated z-test"
SO_FAR = "labels so far, z-test against history"
ASYMPTOTIC = "asymptotic sequence alone"
DAY_RATIOS = "mean of the days' ratios"
ROWS_DECLARED = "sequence, requests declared independent"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One setting, one rule: what became of identical and of harmful candidates."""

    world: str
    rule: str
    unit: str
    identical: Decisions
    harmful: Decisions
    binding: bool  # whether the targets are meant for it


Judged = dict[str, Decisions]
World = Callable[[np.random.Generator, int, float], Judged]


def paired(rng: np.random.Generator, releases: int, harm: float) -> Judged:
    return _pairs(worlds.pairs(rng, (releases, PAIRED_REQUESTS), harm=harm))


def paired_drift(rng: np.random.Generator, releases: int, harm: float) -> Judged:
    base = worlds.drifting(PAIRED_REQUESTS)
    return _pairs(worlds.pairs(rng, (releases, PAIRED_REQUESTS), harm=harm, base=base))


def paired_delay(rng: np.random.Generator, releases: int, harm: float) -> Judged:
    """Labels of requests that any version got wrong come late, those beyond the horizon never."""
    harms = worlds.pairs(rng, (releases, PAIRED_REQUESTS), harm=harm)
    both = rng.random(harms.shape, dtype=np.float32) < SHARED * BASE
    labelled = worlds.delays(rng, (harms != 0) | both) <= HORIZON_DAYS
    return _pairs(worlds.labelled_only(labelled, harms)[0].astype(np.int8))


def _pairs(harms: worlds.Signs) -> Judged:
    threshold, repeated = rules.others_on_pairs(harms)
    return {OURS: rules.sequence_over_pairs(harms), THRESHOLD: threshold, REPEATED: repeated}


def paired_shocks(rng: np.random.Generator, releases: int, harm: float) -> Judged:
    shape = (releases, PAIRED_DAYS * PAIRED_A_DAY)
    harms = worlds.shocked_pairs(rng, shape, harm=harm, a_day=PAIRED_A_DAY)
    threshold, repeated = rules.others_on_pairs(harms)
    days = rules.sequence_over_days(rules.days_of_pairs(harms, PAIRED_A_DAY))
    rows = rules.rows_declared_independent(harms, PAIRED_A_DAY)
    return {OURS: days, ROWS_DECLARED: rows, THRESHOLD: threshold, REPEATED: repeated}


def paired_few(rng: np.random.Generator, releases: int, harm: float) -> Judged:
    """Harm that comes rarely and is then large, of a bounded score, judged as soon as a document may ask for."""
    harms = worlds.rare_pairs(rng, (releases, FEW_REQUESTS), harm=harm)
    return {OURS: rules.sequence_over_few(harms), ASYMPTOTIC: rules.asymptotic_over_few(harms)}


def paired_ratio(rng: np.random.Generator, releases: int, harm: float) -> Judged:
    """Precision of few positives, of which the candidate names twice as many."""
    lost = harm / MARGIN * worlds.RATIO_MARGIN
    by_sums, by_days = rules.sequence_over_sums(worlds.named_days(rng, releases, PAIRED_DAYS, harm=lost))
    return {OURS: by_sums, DAY_RATIOS: by_days}


def split(rng: np.random.Generator, releases: int, harm: float) -> Judged:
    return _split(worlds.split(rng, (releases, SPLIT_REQUESTS), harm=harm))


def split_drift(rng: np.random.Generator, releases: int, harm: float) -> Judged:
    base = worlds.drifting(SPLIT_REQUESTS)
    return _split(worlds.split(rng, (releases, SPLIT_REQUESTS), harm=harm, base=base))


def split_ramp(rng: np.random.Generator, releases: int, harm: float) -> Judged:
    weight, base = worlds.ramp(SPLIT_REQUESTS)
    return _split(worlds.split(rng, (releases, SPLIT_REQUESTS), harm=harm, weight=weight, base=base))


def split_delay(rng: np.random.Generator, releases: int, harm: float) -> Judged:
    seen = worlds.split(rng, (releases, SPLIT_REQUESTS), harm=harm)
    delays_days = worlds.delays(rng, seen.wrong)
    labelled = delays_days <= HORIZON_DAYS
    wrong, candidate = worlds.labelled_only(labelled, seen.wrong, seen.candidate)
    matured = Split(wrong.astype(np.bool_), candidate.astype(np.bool_), seen.weight[: wrong.shape[1]])
    return {**_split(matured), SO_FAR: rules.labels_so_far(seen, delays_days, A_DAY, BASE)}


def _split(seen: Split) -> Judged:
    threshold, repeated = rules.others_on_split(seen)
    return {OURS: rules.sequence_over_split(seen), THRESHOLD: threshold, REPEATED: repeated}


def split_shocks(rng: np.random.Generator, releases: int, harm: float) -> Judged:
    seen = worlds.shocked_split(rng, (releases, SPLIT_DAYS * SPLIT_A_DAY), harm=harm, a_day=SPLIT_A_DAY)
    threshold, repeated = rules.others_on_split(seen)
    days = rules.sequence_over_days(rules.days_of_split(seen, SPLIT_A_DAY))
    return {OURS: days, THRESHOLD: threshold, REPEATED: repeated}


WORLDS: tuple[tuple[str, str, World], ...] = (
    ("paired", "requests", paired),
    ("paired, base error drifting from 4 to 9 %", "requests", paired_drift),
    ("paired, labels of errors late", "requests", paired_delay),
    ("paired, shocks shared by a day", "days", paired_shocks),
    ("split 10 %", "requests", split),
    ("split 10 %, base error drifting from 4 to 9 %", "requests", split_drift),
    ("split 10 %, labels of errors late", "requests", split_delay),
    ("split ramping 5, 25, 50 %, base error 4, 6, 9 %", "requests", split_ramp),
    ("split 50 %, shocks shared by a day", "days", split_shocks),
    (f"paired, harm rare and large, judged from {rules.ROWS_FEW} requests on", "requests", paired_few),
    ("paired, precision of few positives", "days", paired_ratio),
)


def simulate(releases: int) -> Iterator[Row]:
    tasks = [(number, kind, releases) for number in range(len(WORLDS)) for kind in range(2)]
    with ProcessPoolExecutor(max_workers=PROCESSES) as pool:
        found = list(pool.map(_simulated, tasks))
    for (name, unit, _), identical, harmful in zip(WORLDS, found[::2], found[1::2], strict=True):
        for rule, decisions in identical.items():
            yield Row(
                world=name,
                rule=rule,
                unit=unit if rule in (OURS, DAY_RATIOS) else "requests",
                identical=decisions,
                harmful=harmful[rule],
                binding=rule == OURS,
            )


def _simulated(task: tuple[int, int, int]) -> Judged:
    """All releases of one world with identical (0) or harmful (1) candidates."""
    number, kind, releases = task
    name, unit, world = WORLDS[number]
    began = time.monotonic()
    rng = np.random.default_rng([SEED, number, kind])
    releases *= DAYS_TIMES if unit == "days" else 1
    found: Judged = {}
    for start in range(0, releases, CHUNK):
        for rule, decisions in world(rng, min(CHUNK, releases - start), kind * HARMFUL).items():
            found.setdefault(rule, Decisions()).extend(decisions)
    print(f"{name}, {('identical', 'harmful')[kind]}: {time.monotonic() - began:.0f} s", flush=True)
    return found


def broken_assignment(releases: int) -> Decisions:
    """Releases whose candidate loses a tenth of its requests: errors, if the sample-ratio check sees it."""
    rng = np.random.default_rng([SEED, 100])
    found = Decisions(cap=SPLIT_REQUESTS)
    kept = 0.1 * (1 - LOST) / (0.9 + 0.1 * (1 - LOST))
    for _ in range(releases):
        arms = np.cumsum(rng.random(SPLIT_REQUESTS) < kept)
        looks = range(rules.ASSIGNMENT_LOOKS, SPLIT_REQUESTS + 1, rules.ASSIGNMENT_LOOKS)
        seen = next((n for n in looks if rules.ratio_mismatch(int(arms[n - 1]), n, 0.1)), None)
        found.add(Outcome.INCONCLUSIVE if seen is None else Outcome.ERROR, seen or SPLIT_REQUESTS)
    return found


def flown(models: int) -> Decisions:
    harms = flights.releases(flights.day_metrics(models, SEED))
    return rules.sequence_over_days(harms, margin=FLIGHTS_MARGIN, metric=flights.METRIC)


FLIGHTS_MARGIN = 0.02
FLIGHTS_MODELS = 8


def judge(rows: list[Row], real: Decisions, lost: Decisions) -> list[Target]:
    found = []
    for row in (row for row in rows if row.binding):
        found.append(_target(row.world, "identical, rolled back", row.identical, Outcome.FAILED))
        found.append(_target(row.world, "worse by twice the margin, promoted", row.harmful, Outcome.SUCCESSFUL))
    found.append(_target("real flights, A/A", "rolled back", real, Outcome.FAILED))
    ours = {row.world: row for row in rows if row.binding}
    in_pairs, in_split = ours["paired"].identical.median, ours["split 10 %"].identical.median
    split_at = in_split or SPLIT_REQUESTS
    found.append(
        Target(
            promise=f"paired shadow, no harm: decided after at most {MEDIAN_MAX:,} labelled requests (median)",
            measured=_number(in_pairs, PAIRED_REQUESTS),
            met=in_pairs is not None and in_pairs <= MEDIAN_MAX,
        )
    )
    found.append(
        Target(
            promise=f"at least {FEWER_MIN:g} times fewer than the split",
            measured=f"split {_number(in_split, SPLIT_REQUESTS)}: {split_at / (in_pairs or split_at):.1f} times or more",
            met=in_pairs is not None and split_at >= FEWER_MIN * in_pairs,
        )
    )
    share = lost.count(Outcome.ERROR) / lost.n
    found.append(
        Target(
            promise=f"a candidate that loses {LOST:.0%} of its requests is an error within {SPLIT_REQUESTS:,} requests",
            measured=f"{share:.1%} of {lost.n}",
            met=share >= 1 - WRONG_MAX,
        )
    )
    return found


def _target(world: str, what: str, decisions: Decisions, wrong: Outcome) -> Target:
    upper = clopper_pearson_interval(decisions.count(wrong), decisions.n).upper
    return Target(
        promise=f"{world}: {what} at most {WRONG_MAX:.0%}", measured=_rate(decisions, wrong), met=upper <= WRONG_MAX
    )


def _rate(decisions: Decisions, outcome: Outcome) -> str:
    interval = clopper_pearson_interval(decisions.count(outcome), decisions.n)
    return f"{interval.estimate:.1%} ({interval.lower:.1%}–{interval.upper:.1%})"


def _number(median: int | None, cap: int) -> str:
    return f"{median:,}" if median is not None else f"more than {cap:,}"


def _line(row: Row, decisions: Decisions, candidate: str) -> tuple[str, ...]:
    rates = (
        _rate(decisions, outcome)
        for outcome in (Outcome.FAILED, Outcome.SUCCESSFUL, Outcome.INCONCLUSIVE, Outcome.ERROR)
    )
    return (row.world, row.rule, candidate, *rates, f"{_number(decisions.median, decisions.cap)} {row.unit}")


def page(rows: list[Row], real: Decisions, lost: Decisions, command: str, seconds: float) -> str:
    head = ("world", "rule", "candidate", "rolled back", "promoted", "undecided", "error", "median n of a decision")
    lines = [
        _line(row, decisions, candidate)
        for row in rows
        for decisions, candidate in ((row.identical, "identical"), (row.harmful, HARM))
    ]
    day_rows = {row.world: row for row in rows if row.unit == "days" and row.binding}
    days = [
        (name, *(_number(found.median, found.cap) for found in (row.identical, row.harmful)))
        for name, row in day_rows.items()
    ]
    return f"""
# Releases judged

For those who decide by a verdict, and for those who change how verdicts come about.

{report.today()}, {report.versions(("steersman", "numpy", "lightgbm"))}. {report.machine()}. {seconds:.0f} s.

{report.targets(judge(rows, real, lost))}

A target is met when the upper Clopper–Pearson bound (95 %, in brackets) keeps it, not only the estimate.

## Days needed

Where the requests of a day share a shock, days are the evidence; the median release is decided after this many:

{report.table(("world", "identical candidate", HARM), days)}

## All settings and rules

{report.table(head, lines)}

Real flights, A/A, {real.n} releases of {flights.DAYS} days, difference of the day's AUC, margin {FLIGHTS_MARGIN:g}: rolled back
{_rate(real, Outcome.FAILED)}, promoted {_rate(real, Outcome.SUCCESSFUL)}, median {_number(real.median, real.cap)} days.
The releases share models and days, so these bounds are narrower than {real.n} independent releases would deserve.

A candidate that loses {LOST:.0%} of its requests: {_rate(lost, Outcome.ERROR)} become an error.

## How

`{command}`, seed {SEED}; {DAYS_TIMES} times as many releases where days are judged. Base error {BASE:.0%} unless the
row says otherwise, margin {MARGIN:.0%}, {SHARED:.0%} of the smaller model's errors shared where both answer, alpha 5 % for
each bound, a look after every single request (days: after each day); at most {PAIRED_REQUESTS:,} labelled requests in
pairs, {SPLIT_REQUESTS:,} in a split, {PAIRED_DAYS} days. *Undecided* is left to `onInconclusive`; medians count it as
later than any decision.

- *sequence*: `judge_evidence` over requests, `judge_paired` over days, scores of a split from `aipw_scores`, `judge_assignment`
  before. Bounds of all looks are computed at once by `row_bounds`; the deciding look and the one before it are put to
  `judge_evidence`, and the benchmark stops if it disagrees.
- *{ROWS_DECLARED}*: shows what happens if that is declared wrongly. *error* is the check
  whether blocks spread wider than independent requests could.
- *{THRESHOLD}*: every {rules.BLOCK} requests, error rates of these requests; more than the margin between the arms rolls
  back, {rules.THRESHOLD_LOOKS} looks without promote. In pairs the difference of the rates.
- *{REPEATED}*: every {rules.BLOCK} requests, difference of the error rates of all requests so far with a 95 % interval made for
  one look; above zero rolls back, below the margin promotes.
- *{SO_FAR}*: the candidate's error rate among the labels that have come, without waiting for the
  horizon, against the stable version's known {BASE:.0%}; else as the repeated z-test.
- *labels of errors late*: exponential delays, mean {worlds.DELAY_DAYS[1]:g} days for wrong answers and
  {worlds.DELAY_DAYS[0]:g} for right ones; only requests older than the horizon of {HORIZON_DAYS:g} days count, both arms over
  the same days. What has no label by then ({np.exp(-HORIZON_DAYS / worlds.DELAY_DAYS[1]):.0%} of errors) is missing in both.
- *harm rare and large*: a score within 0..1 that differs in {(1 - SHARED) * BASE:.0%} of requests and then by
  {worlds.LARGE:g}; at most {FEW_REQUESTS:,} requests. *sequence* is empirical-Bernstein below {ROWS_MIN} requests and
  asymptotic from there on, each with half of alpha; *{ASYMPTOTIC}* is the latter from {rules.ROWS_FEW} on, with all of it.
- *precision of few positives*: the candidate names {worlds.NAMED_A_DAY[0]:g} positives a day, the stable version
  {worlds.NAMED_A_DAY[1]:g}, {worlds.PRECISION:.0%} of them rightly; margin {worlds.RATIO_MARGIN:g}. *sequence* is by the sums
  of all days, *{DAY_RATIOS}* takes a day without positives for a precision of 0.
- *shocks*: each day multiplies what each version gets wrong by itself by a gamma factor of mean 1 and standard
  deviation 1; {PAIRED_A_DAY} requests a day.
- *flights*: {FLIGHTS_MODELS} models of the example's algorithm, each from its own draw of January's and February's rows; every
  ordered pair, from every second week on.
"""


def main() -> int:
    parser = argparse.ArgumentParser(prog="make bench ARGS=judging", description=__doc__)
    parser.add_argument("--releases", type=int, default=1_000, help="simulated releases of each row")
    arguments = parser.parse_args()
    began = time.monotonic()
    rows = list(simulate(arguments.releases))
    lost = broken_assignment(arguments.releases)
    real = flown(FLIGHTS_MODELS)
    command = f'make bench ARGS="judging --releases {arguments.releases}"'
    report.write("judging", page(rows, real, lost, command, time.monotonic() - began))
    missed = [target for target in judge(rows, real, lost) if not target.met]
    for target in missed:
        print(f"missed: {target.promise}: {target.measured}", flush=True)
    return 1 if missed else 0


if __name__ == "__main__":
    raise SystemExit(main())

"""How fast the servers' core is, moment by moment.

A virtual core shares a physical one with strangers: what is computed in 0.07 ms now takes 0.12 ms when the other half of the core
is busy, for tenths of a second or for minutes, and no account of the kernel's shows it (it was the process that ran). A
latency measured then says what the machine was, so a benchmark that compares latencies watches this too.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from measuring.background import Background

PROBE_S = 0.05
STEPS = 2_000
"""Of the computation: 0.07 ms of CPU at full speed, so 0.3% of a core with its warm-up."""

FULL = 0.9
"""At least this share of its full speed counts as full."""

STEADY_S = 0.3
"""Without any slower probe: what queued up before has then been answered, at two thirds of what the core can do."""


@dataclass
class Speed(Background):
    """Measures from `start` to `stop`, on the cores of this process, which must be the servers'."""

    probes: list[tuple[float, float]] = field(default_factory=list)
    """When (monotonic seconds), and seconds of CPU that the computation took."""
    full_s: float = 0.0
    """What the computation takes at full speed, known after `stop`: the fifth percentile of all that was seen."""

    def stop(self) -> None:
        super().stop()
        self.full_s = statistics.quantiles((took for _, took in self.probes), n=20)[0]

    def _run(self) -> None:
        while not self._ended.wait(PROBE_S):
            _compute()  # the caches are somebody else's
            began = time.thread_time()
            _compute()
            self.probes.append((time.monotonic(), time.thread_time() - began))

    def steady(self, arrivals: Sequence[float]) -> list[bool]:
        """Which of these moments, in order of time, had STEADY_S of full speed behind them, measured all the while."""
        found = []
        slow_at, number = -math.inf, 0
        last_at = -math.inf
        for at in arrivals:
            while number < len(self.probes) and self.probes[number][0] <= at:
                probed_at, took = self.probes[number]
                if self.full_s < FULL * took or probed_at - last_at > STEADY_S:
                    slow_at = probed_at
                last_at, number = probed_at, number + 1
            found.append(at - slow_at > STEADY_S and at - last_at <= STEADY_S)
        return found

    def between(self, began: float, ended: float) -> float:
        """The mean share of the full speed in that time; 0 where nothing was measured."""
        shares = [min(1.0, self.full_s / took) for at, took in self.probes if began <= at < ended]
        return statistics.mean(shares) if shares else 0.0


def _compute() -> int:
    total = 0
    for number in range(STEPS):
        total += number * number
    return total

"""Metrics that other distributions bring: what they name in the entry-point group "steersman.metrics".

    [project.entry-points."steersman.metrics"]
    pinball_gap = "acme_metrics:pinball_gap"

They are found when the control server starts and imported when a document names one. From then on they are its own code:
nothing stands between them and what it may do, and nothing ends one that does not return.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points

from steersman.ports import InstalledMetric, Measure, MetricError

GROUP = "steersman.metrics"


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryPointMetric:
    """One entry point, or several of one name, which none can be chosen from."""

    offered: tuple[EntryPoint, ...]

    @property
    def distribution(self) -> str:
        return ", ".join(f"{e.dist.name} {e.dist.version}" if e.dist else "unknown" for e in self.offered)

    def load(self) -> Measure:
        entry = self.offered[0]
        if len(self.offered) > 1:
            raise MetricError(f"{entry.name} is offered by {self.distribution}; leave one of them installed")
        try:
            loaded = entry.load()
        except Exception as error:
            raise MetricError(f"{entry.name} of {self.distribution} cannot be imported: {error}") from error
        if not callable(loaded):
            raise MetricError(f"{entry.name} of {self.distribution} is no function of scores and labels: {entry.value}")
        measure: Measure = loaded
        return measure


def installed_metrics() -> Mapping[str, InstalledMetric]:
    """What is installed beside this process, by name."""
    found: dict[str, list[EntryPoint]] = {}
    for entry in entry_points(group=GROUP):
        found.setdefault(entry.name, []).append(entry)
    return {name: EntryPointMetric(offered=tuple(offered)) for name, offered in sorted(found.items())}

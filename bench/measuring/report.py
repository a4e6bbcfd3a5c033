"""How a result is written: what was measured, when, on which machine, with which versions, and whether targets were met."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "docs" / "benchmarks"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What was promised, what was measured, and whether that holds the promise; `met` is None where it cannot be told."""

    promise: str
    measured: str
    met: bool | None

    def __str__(self) -> str:
        said = "**cannot be told**" if self.met is None else "met" if self.met else "**missed**"
        return f"| {self.promise} | {self.measured} | {said} |"


def machine() -> str:
    """Processor, cores, memory, kernel; and how busy it was, for a benchmark on a shared machine."""
    model = next(
        (line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")), "unknown"
    )
    memory_kb = next(int(line.split()[1]) for line in _lines("/proc/meminfo") if line.startswith("MemTotal"))
    return (
        f"{model}, {os.cpu_count()} cores, {memory_kb / 1024**2:.0f} GiB, Linux {platform.release()}, "
        f"Python {platform.python_version()}; load average before the run {os.getloadavg()[0]:.1f}"
    )


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines()


def versions(names: Iterable[str]) -> str:
    return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)


def today() -> str:
    return f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Median and, of several rounds, the range."""
    middle = f"{statistics.median(values):.{digits}f}"
    if len(values) < 2:
        return middle
    return f"{middle} ({min(values):.{digits}f}–{max(values):.{digits}f})"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines)


def targets(found: Iterable[Target]) -> str:
    return "\n".join(["| target | measured | |", "|---|---|---|", *(str(target) for target in found)])


def write(name: str, text: str) -> Path:
    """Write a result's page and show it."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{name}.md"
    path.write_text(text.strip() + "\n")
    print(text.strip(), flush=True)
    print(f"\nwritten to {path.relative_to(ROOT)}", flush=True)
    return path

"""What happened when: marks of what was done, and who had the processor, so that a slow moment can be explained.

Every SAMPLE_S the kernel's accounts of the watched processes are read (`/proc`, some 0.2 ms of CPU): what each ran, and how long
its main thread was ready to run and did not. The rest of the cores' time is others', which no benchmark of this machine is
to blame for.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from measuring.background import Background

SAMPLE_S = 0.25
_TICK_MS = 1000 / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Sample:
    """Since the sample before, in milliseconds: CPU by process, waiting of main threads, CPU of all others, and of nobody."""

    at: float
    ran: Mapping[str, float]
    waited: Mapping[str, float]
    others: float
    idle: float
    memory_mb: Mapping[str, float]


@dataclass
class Timeline(Background):
    """Watches the processes that `watched` names (by name; the children of one count to it) until `stop`."""

    watched: Callable[[], Mapping[str, int]]
    cores: Collection[int]
    """Those the watched ones share; what others use of them counts as theirs."""
    elsewhere: Collection[str] = ()
    """Watched ones that run on other cores."""
    samples: list[Sample] = field(default_factory=list)
    marks: list[tuple[float, str]] = field(default_factory=list)

    def mark(self, what: str) -> None:
        self.marks.append((time.monotonic(), what))

    def _run(self) -> None:
        before = self._read()
        while not self._ended.wait(SAMPLE_S):
            now = self._read()
            ran = {name: now.ran[name] - before.ran.get(name, 0.0) for name in now.ran}
            waited = {name: now.waited[name] - before.waited.get(name, 0.0) for name in now.waited}
            others = now.others - before.others - sum(ms for name, ms in ran.items() if name not in self.elsewhere)
            self.samples.append(Sample(now.at, ran, waited, max(others, 0.0), now.idle - before.idle, now.memory_mb))
            before = now

    def _read(self) -> Sample:
        """Totals since the processes began."""
        ran: dict[str, float] = {"benchmark": time.process_time() * 1000}
        waited: dict[str, float] = {}
        memory: dict[str, float] = {}
        for name, pid in self.watched().items():
            with contextlib.suppress(OSError):
                ran[name] = _cpu_ms(pid)
                waited[name] = int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e6
                memory[name] = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
        return Sample(time.monotonic(), ran, waited, *_busy_and_idle_ms(self.cores), memory)

    def between(self, began: float, ended: float) -> tuple[dict[str, float], dict[str, float], float, float]:
        """CPU and waiting by process, CPU of others, and time in which a core had nothing to do, over the samples taken in
        that time; ms."""
        ran: dict[str, float] = {}
        waited: dict[str, float] = {}
        others = idle = 0.0
        for sample in self.samples:
            if began <= sample.at < ended:
                for name, ms in sample.ran.items():
                    ran[name] = ran.get(name, 0.0) + ms
                for name, ms in sample.waited.items():
                    waited[name] = waited.get(name, 0.0) + ms
                others += sample.others
                idle += sample.idle
        return ran, waited, others, idle

    def memory_mb(self, name: str, began: float, ended: float) -> float:
        """Largest resident memory in that time; 0 where the process was not seen."""
        return max((one.memory_mb.get(name, 0.0) for one in self.samples if began <= one.at < ended), default=0.0)

    def marked(self, began: float, ended: float) -> list[str]:
        return [what for at, what in self.marks if began <= at < ended]


def _cpu_ms(pid: int) -> float:
    """Of a process, its living children and those it waited for."""
    fields = _stat(pid)
    living = 0.0
    for started in Path(f"/proc/{pid}/task").glob("*/children"):  # a child belongs to the thread that started it
        with contextlib.suppress(OSError):
            living += sum(_cpu_ms(int(child)) for child in started.read_text().split())
    return sum(int(value) for value in fields[11:15]) * _TICK_MS + living


def _stat(pid: int) -> list[str]:
    """The fields behind the name: state is number 0, user time number 11."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def _busy_and_idle_ms(cores: Collection[int]) -> tuple[float, float]:
    """A core that waits for a disk has nothing to do either."""
    wanted = {f"cpu{core}" for core in cores}
    busy = idle = 0
    for line in Path("/proc/stat").read_text().splitlines():
        name, *values = line.split()
        if name in wanted:
            idle += int(values[3]) + int(values[4])
            busy += sum(int(value) for value in values[:8]) - int(values[3]) - int(values[4])
    return busy * _TICK_MS, idle * _TICK_MS

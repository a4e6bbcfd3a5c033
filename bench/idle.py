"""What an installation costs while nothing happens: memory and processor time of control server and router.

A control plane that stands beside production must not be noticed. Both processes are started as `steersman up` starts
them (without MLflow's child), left alone for a while, and measured by the kernel's accounts; the target is theirs
together. Run it on a quiet machine: other work raises neither memory nor CPU seconds here, but the machine's noise does
change how often idle loops wake.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

MEMORY_MB_MAX = 250
CPU_SHARE_MAX = 0.02
"""Targets for control server and router together: resident memory, and share of one core."""

SETTLE_S = 5.0
MEASURE_S = 30.0


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="steersman-idle-") as folder:
        state = Path(folder) / "state"
        (Path(folder) / "versions").mkdir()
        command = [sys.executable, "-m", "steersman.cli", "--state", str(state), "up", "--no-mlflow"]
        command += ["--registry", str(Path(folder) / "versions"), "--port", "17700", "--router-port", "17701"]
        supervisor = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert supervisor.stdout is not None
        try:
            for line in supervisor.stdout:
                if line.startswith("  token"):
                    break
            return measure(state)
        finally:
            supervisor.send_signal(signal.SIGINT)
            supervisor.wait(30)


def measure(state: Path) -> int:
    processes = {
        name: psutil.Process(json.loads((state / "run" / f"{name}.json").read_text())["pid"])
        for name in ("control", "router-0")
    }
    time.sleep(SETTLE_S)
    before = {name: sum(process.cpu_times()[:2]) for name, process in processes.items()}
    time.sleep(MEASURE_S)
    memory, share = 0.0, 0.0
    for name, process in processes.items():
        resident = process.memory_info().rss / 1e6
        busy = (sum(process.cpu_times()[:2]) - before[name]) / MEASURE_S
        memory, share = memory + resident, share + busy
        print(f"{name:8} {resident:6.1f} MB resident  {busy:6.2%} of a core over {MEASURE_S:.0f} s")
    held = memory <= MEMORY_MB_MAX and share <= CPU_SHARE_MAX
    print(f"together {memory:6.1f} MB (target {MEMORY_MB_MAX})  {share:6.2%} (target {CPU_SHARE_MAX:.0%})")
    return 0 if held else 1


if __name__ == "__main__":
    raise SystemExit(main())

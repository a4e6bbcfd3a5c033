"""How long `steersman --help` takes beside a bare interpreter, and what it imports.

A command line is typed all day: it may take at most four times a bare start and import nothing heavy. Both are started
alternately, because a shared machine changes its mind; medians and the ratio of the pairs are printed.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time

RATIO_MAX = 4.0
"""The promise: `--help` within four bare starts."""

HEAVY = ("mlflow", "pandas", "sklearn", "scipy", "numpy", "sqlalchemy", "starlette", "uvicorn", "polars", "deltalake",
         "msgspec", "yaml", "asyncio", "ssl", "http.client", "jinja2", "cryptography")  # fmt: skip
"""Modules that `--help` must not import."""

BARE = [sys.executable, "-c", "pass"]
HELP = [sys.executable, "-m", "steersman.cli", "--help"]


def seconds(command: list[str]) -> float:
    """Wall time of one start."""
    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def imported() -> list[str]:
    """Heavy modules that `steersman --help` loads."""
    code = (
        "import sys, io, contextlib\n"
        "from steersman.cli import main\n"
        "with contextlib.redirect_stdout(io.StringIO()): main(['--help'])\n"
        f"print(*[name for name in {HEAVY!r} if name in sys.modules])"
    )
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()


def measure(rounds: int = 20) -> dict[str, object]:
    """Medians in milliseconds, the median ratio of neighbouring starts, and the heavy imports."""
    seconds(BARE), seconds(HELP)
    pairs = [(seconds(BARE), seconds(HELP)) for _ in range(rounds)]
    return {
        "rounds": rounds,
        "bare_ms": round(1000 * statistics.median(bare for bare, _ in pairs), 1),
        "help_ms": round(1000 * statistics.median(helped for _, helped in pairs), 1),
        "ratio": round(statistics.median(helped / bare for bare, helped in pairs), 2),
        "ratio_max": RATIO_MAX,
        "heavy_imports": imported(),
    }


def main() -> int:
    found = measure()
    print(json.dumps(found, indent=2))
    return 0 if float(str(found["ratio"])) <= RATIO_MAX and not found["heavy_imports"] else 1


if __name__ == "__main__":
    sys.exit(main())

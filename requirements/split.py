"""Split one locked requirement file into parts that are installed together.

`make lock` resolves everything at once, so that all parts agree, and this script writes each package into the first part
that needs it: `server.lock` what an installation runs on, `mlflow.lock` what the embedded MLflow adds, `dev.lock` what
working on Steersman adds. A part alone would be resolved differently; together they are one answer.

    python requirements/split.py ALL SERVER MLFLOW INTO

The first three are lock files (SERVER and MLFLOW resolved under the constraints of ALL); INTO is the folder to write to.
"""

import re
import sys
from pathlib import Path

BYTES_MAX = 200_000
"""No file of the repository is larger."""


def packages(lock: Path) -> dict[str, str]:
    """The entry of each package (its pin and all its hashes), by name."""
    entries = re.split(r"^(?=[A-Za-z0-9])", lock.read_text(), flags=re.MULTILINE)
    return {entry.partition("==")[0]: entry for entry in entries if "==" in entry}


def main() -> None:
    everything, server, mlflow = (packages(Path(argument)) for argument in sys.argv[1:4])
    into = Path(sys.argv[4])
    parts = {
        "server.lock": [name for name in everything if name in server],
        "mlflow.lock": [name for name in everything if name in mlflow and name not in server],
        "dev.lock": [name for name in everything if name not in mlflow and name not in server],
    }
    for part, names in parts.items():
        text = "".join(everything[name] for name in names)
        if len(text) > BYTES_MAX:
            sys.exit(f"{part} would have {len(text)} bytes, more than {BYTES_MAX}: split it further")
        (into / part).write_text(text)
        print(f"{part}: {len(names)} packages, {len(text)} bytes")


if __name__ == "__main__":
    main()

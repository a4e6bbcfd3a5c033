"""Bounds on what is committed: no file over 200 kB; a Python file over 600 lines is worth a second look.

Small files are what people read, and a repository of small files is quick to clone. Large data is fetched or made.
"""

import subprocess
import sys
from pathlib import Path

BYTES_MAX = 200_000
LINES_MANY = 600


def main() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], capture_output=True, check=True
    ).stdout
    files = [Path(name.decode()) for name in listed.split(b"\0") if name and Path(name.decode()).is_file()]
    large = [path for path in files if path.stat().st_size > BYTES_MAX]
    for path in sorted(path for path in files if path.suffix == ".py"):
        lines = path.read_text().count("\n")
        if lines > LINES_MANY:
            print(f"sizes: {path} has {lines} lines; over {LINES_MANY}, is it two things?")
    for path in large:
        print(f"sizes: {path} has {path.stat().st_size} bytes, more than {BYTES_MAX}", file=sys.stderr)
    if large:
        sys.exit(1)
    print(f"sizes: {len(files)} files, none over {BYTES_MAX // 1000} kB")


if __name__ == "__main__":
    main()

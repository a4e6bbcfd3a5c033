"""Builds one environment, in a process of its own: a build takes seconds to minutes, and must outlive who asked for it.

    python -m steersman.plugins.targets.building --request FILE --lock FD

It works beside the final place and moves there by one rename, so an environment is whole or not there. The inherited lock
is handed on to uv: while anything of a build lives, no second one begins. Nothing of the packages runs here: wheels only,
so there is no build script; and neither uv nor the compiler starts the new interpreter after they are in place, whose
`.pth` files would be code. The last lines of the output say what went wrong, in uv's words.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import msgspec

from steersman.dataplane import priority

BUILD_S_MAX = 1200.0
"""Seconds of one build: several GB of wheels over a slow line."""

ENVIRONMENT_BYTES_MAX = 12 * 1024**3
"""Twice what the largest deep learning stacks take."""

FREE_BYTES_MIN = 1024**3
"""A build stops before it takes the last of the disk from the inference log."""

LOOK_S = 0.2

CARD_FILE = "steersman.json"
"""In a finished environment: the request it was built from."""


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What to build: `place` is the final folder, `python` an interpreter's path or a version for uv to find."""

    uv: str
    python: str
    requirements: tuple[str, ...]
    place: str
    free_bytes_min: int


class BuildError(Exception):
    """The environment cannot be built; uv has said why."""


class _Build:
    def __init__(self, request: Request, lock: int) -> None:
        self._request = request
        self._lock = lock
        self._deadline = time.monotonic() + BUILD_S_MAX
        self._place = Path(request.place)
        self._staging = self._place.with_name(f".building-{self._place.name}")

    def run(self) -> None:
        shutil.rmtree(self._staging, ignore_errors=True)
        try:
            self._fill()
            os.sync()
            self._staging.rename(self._place)
        finally:
            shutil.rmtree(self._staging, ignore_errors=True)

    def _fill(self) -> None:
        request, staging = self._request, self._staging
        python = staging / "bin" / "python"
        self._call(request.uv, "venv", "--quiet", "--relocatable", "--python", request.python, str(staging))
        base, configured = python.resolve(), (staging / "pyvenv.cfg").read_bytes()
        listed = staging / "requirements.txt"
        listed.write_text("".join(f"{line}\n" for line in request.requirements))
        options = ("--python", str(python), "--only-binary", ":all:", "--no-progress", "--color", "never")
        self._call(request.uv, "pip", "install", *options, "--requirement", str(listed))
        # A wheel may put files anywhere below the prefix; the way to our walls leads through these two.
        if not python.is_symlink() or python.resolve() != base or (staging / "pyvenv.cfg").read_bytes() != configured:
            raise BuildError("a package among the requirements replaces the interpreter")
        if (size := sum(path.lstat().st_size for path in staging.rglob("*"))) > ENVIRONMENT_BYTES_MAX:
            raise BuildError(f"the environment takes {size >> 30} GiB, over the bound of {ENVIRONMENT_BYTES_MAX >> 30}")
        # Workers may not write, so without this each would compile the same libraries again. A file that does not
        # compile (a test of a syntax error, a template) is no fault of the build.
        self._call(str(base), "-I", "-S", "-m", "compileall", "-qq", str(staging / "lib"), may_fail=True)
        (staging / CARD_FILE).write_bytes(msgspec.json.encode(request))

    def _call(self, *argv: str, may_fail: bool = False) -> None:
        running = subprocess.Popen(argv, stdin=subprocess.DEVNULL, cwd="/", pass_fds=(self._lock,))
        try:
            while (code := self._poll(running)) is None:
                if time.monotonic() > self._deadline:
                    raise BuildError(f"not finished within {BUILD_S_MAX / 60:.0f} minutes")
                if shutil.disk_usage(self._place.parent).free < self._request.free_bytes_min:
                    raise BuildError("the disk is nearly full; free space below the state directory")
        finally:
            running.kill()
            running.wait()
        if code != 0 and not may_fail:
            raise BuildError(f"{Path(argv[0]).name} {argv[1]} ended with {code}")

    @staticmethod
    def _poll(running: subprocess.Popen[bytes]) -> int | None:
        try:
            return running.wait(LOOK_S)
        except subprocess.TimeoutExpired:
            return None


def main() -> None:
    parser = argparse.ArgumentParser(prog="steersman.plugins.targets.building", description=__doc__)
    parser.add_argument("--request", type=Path, required=True)
    parser.add_argument("--lock", type=int, required=True)
    arguments = parser.parse_args()
    request = msgspec.json.decode(arguments.request.read_bytes(), type=Request)
    priority.step_back()  # resolving and compiling take seconds of CPU on the machine that serves
    try:
        _Build(request, arguments.lock).run()
    except (BuildError, OSError) as error:
        sys.exit(f"build: {error}")


if __name__ == "__main__":
    main()

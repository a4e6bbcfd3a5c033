"""A check without an installation: for a machine of a CI system that has the files and no server.

It is the same check by the same code, in an installation that lives in a temporary folder and serves nobody: no router, no
registry server, no traffic. Nothing is live there, so what compares with production does not apply, and that is said.
"""

import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from steersman.domain.errors import Unavailable
from steersman.loop.checking import check_status
from steersman.server.installation import Installation
from steersman.server.wiring import Assembled, assemble

ACTOR = "local"

LOOK_S = 0.2


def prove(
    documents: Sequence[Mapping[str, Any]],
    registry: Path,
    *,
    place: tuple[str, str],
    number: int,
    environment: str,
    timeout_s: float,
) -> dict[str, Any]:
    """The finished check of a version of a directory registry. Whatever was started has ended when this returns.

    Raises Unavailable when it takes longer, and what the commands raise: BadDocument, NotFound, VersionRefused.
    """
    with tempfile.TemporaryDirectory(prefix="steersman-ci-") as folder:
        installation = Installation(registries={"directory": f"directory:{registry.resolve()}"})
        parts = assemble(Path(folder), installation, None)
        try:
            parts.commands.apply(documents, actor=ACTOR)
            asked = parts.commands.check(*place, number, environment, actor=ACTOR)
            return _finished(parts, asked.key, timeout_s)
        finally:
            for replica in parts.world.target.observe():
                parts.world.target.stop(replica.workspace, replica.environment, replica.model, replica.digest)
            parts.store.close()


def _finished(parts: Assembled, key: str, timeout_s: float) -> dict[str, Any]:
    deadline = time.monotonic() + timeout_s
    while True:
        moved = parts.control.reconciler.turn()
        moved = parts.control.executor.turn(lambda _operation: True) or moved
        with parts.store.read() as tx:
            operation = tx.operation(key)
        assert operation is not None
        if operation.state.ended:
            return check_status(operation)
        if time.monotonic() > deadline:
            raise Unavailable(f"the check is not over after {timeout_s:g} s", next_step="Wait longer: --wait SECONDS.")
        if not moved:
            time.sleep(LOOK_S)

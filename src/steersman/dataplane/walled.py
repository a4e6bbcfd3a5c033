"""The way into a worker whose libraries are not ours: the walls go up before the first of them is touched.

    python -S -P -m steersman.dataplane.walled --spec FILE

A version's own environment holds packages somebody named in a file, and a package runs code as soon as an interpreter
starts with it in place (`.pth` files, `sitecustomize`), long before a model is loaded. So the interpreter starts without
them (`-S`), shows only the standard library and this package, walls itself in, and lets the environment in afterwards.
Inside, the worker walls itself in once more, tighter, as every worker does.
"""

from __future__ import annotations

import json
import site
import sys
import tempfile
from pathlib import Path

from steersman.dataplane import priority, sandbox, sockets


def main() -> None:
    session = priority.Session()
    document = Path(sys.argv[sys.argv.index("--spec") + 1])
    spec = json.loads(document.read_bytes())
    artifact = Path(spec["artifact_dir"])
    environment = Path(sys.executable).parents[1]
    handle = Path(spec["handle_file"])
    handle.touch(0o600)
    bound = None if spec.get("local_port") else sockets.bind_beside(handle)
    # Not the folder they lie in: a link planted there would lead whoever writes the next specification astray.
    scratch = handle.with_name(sandbox.SCRATCH)
    scratch.mkdir(mode=0o700, exist_ok=True)
    tempfile.tempdir = str(scratch)
    read = [*sandbox.interpreter_paths(artifact), environment, artifact, document]
    sandbox.restrict_files(read=read, write=[scratch, handle])
    site.main()

    from steersman.dataplane import worker

    worker.main(session, bound)


if __name__ == "__main__":
    main()

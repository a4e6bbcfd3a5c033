"""What computed a verdict, as a digest over the very modules that measure and judge.

Two verdicts that differ over the same rows differ in their code: this says whether they do.
"""

import functools
import hashlib
from importlib.metadata import version
from pathlib import Path

from steersman.decide import gating, judging
from steersman.domain import metrics
from steersman.loop import comparing, observer
from steersman.stats import bounded, contrasts, performance, ratios, sequences, splitting

_MODULES = (
    metrics,
    performance,
    ratios,
    contrasts,
    splitting,
    sequences,
    bounded,
    judging,
    gating,
    comparing,
    observer,
)


@functools.cache
def code_digest() -> str:
    """`steersman VERSION sha256:…`; read once a process, from the installed files."""
    digest = hashlib.sha256()
    for module in _MODULES:
        digest.update(Path(module.__file__ or "").read_bytes())
    return f"steersman {version('steersman')} sha256:{digest.hexdigest()}"

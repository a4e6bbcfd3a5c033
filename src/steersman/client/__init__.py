"""What people and programs use to talk to Steersman: documents, decisions, predictions and labels.

It needs msgspec, PyYAML and the standard library, nothing of the server. `Steersman` is a connection to one
installation; `Traffic` sends many predictions at once; `documents` reads YAML. Names are imported when first used, so
that the command line starts quickly.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from steersman.client.inference import Label, Prediction
    from steersman.client.steersman import Steersman
    from steersman.client.traffic import Prepared, Reply, Traffic

__all__ = ["Label", "Prediction", "Prepared", "Reply", "Steersman", "Traffic"]

_HOMES = {
    "Label": "inference",
    "Prediction": "inference",
    "Prepared": "traffic",
    "Reply": "traffic",
    "Steersman": "steersman",
    "Traffic": "traffic",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"steersman.client.{_HOMES[name]}"), name)

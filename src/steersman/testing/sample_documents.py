"""The documents of the sample: three models at three points of their lives, in two workspaces."""

from datetime import timedelta
from typing import Any

from steersman.domain import spec
from steersman.domain.documents import parse_document

HORIZON = timedelta(days=1)

_STEPS: list[dict[str, Any]] = [
    {"mirror": {"percent": 100}},
    {
        "analysis": {
            "metrics": ["roc_auc"],
            "mode": "paired",
            "block": "1d",
            "margin": 0.02,
            "critical": True,
            "maxDuration": "14d",
            "onInconclusive": "promoteWithinMargin",
        }
    },
    {"setWeight": 10},
    {"pause": {"duration": "1d"}},
    {"setWeight": 100},
    {"promote": {}},
    {"bake": {"duration": "14d", "metrics": ["roc_auc"]}},
]


def document(name: str, owner: str, purpose: str, tier: int, workspace: str, **more: Any) -> spec.Model:
    parsed = parse_document(
        {
            "apiVersion": "steersman/v1",
            "kind": "Model",
            "metadata": {"name": name, "workspace": workspace, "owner": owner},
            "spec": {
                "type": "predictor",
                "purpose": purpose,
                "tier": tier,
                "versions": {"registry": "mlflow", "name": name},
                "groundTruth": {"column": "late", "key": "event_id", "horizon": "1d"},
                **more,
            },
        }
    )
    assert isinstance(parsed, spec.Model)
    return parsed


def flight_delay() -> spec.Model:
    """Tier 1, watched by three monitors, retrained without a human."""
    return document(
        "flight-delay",
        "team-ops@example.com",
        "Probability that a flight arrives more than 15 minutes late or not at all",
        1,
        "ops",
        serving={"replicas": 2, "idempotent": True, "stickyBy": "flight_id", "keepWarm": 1},
        train={"source": {"directory": "."}, "command": ["python", "train.py"], "data": {"dataset": "flights"}},
        holdout={"dataset": "flights", "last": "14d"},
        gates=[
            {"metric": "log_loss", "vs": "production", "test": "paired", "block": "1d", "margin": 0.03},
            {"metric": "roc_auc", "vs": "production", "maxDrop": 0.01},
            {"policy": "version.signature == production.signature"},
        ],
        environments={
            "production": {
                "strategy": {"canary": {"steps": _STEPS}},
                "guardrails": [
                    {"name": "error-rate", "limit": "<= 0.1%", "critical": True},
                    {"name": "p99-latency", "vs": "stable", "ratio": 1.2},
                ],
            }
        },
        monitors=[
            {"name": "inputs", "kind": "drift", "window": "1d"},
            {"name": "quality", "kind": "performance", "metric": "roc_auc", "window": "1d"},
            {"name": "freshness", "kind": "challenger", "metric": "roc_auc", "block": "1d", "margin": 0.02},
        ],
        incidents={"rollbackWhen": "quality"},
        retrain={"mode": "auto", "on": ["freshness", "quality", "inputs"], "cooldown": "14d"},
    )


def missed_connection() -> spec.Model:
    """Tier 2: a person must agree before a release starts; it also runs in staging."""
    shadow = [
        {"mirror": {"percent": 50}},
        {"analysis": {"metrics": ["log_loss"], "maxDuration": "21d", "critical": True}},
    ]
    return document(
        "missed-connection",
        "team-ops@example.com",
        "Probability that a passenger misses the connecting flight",
        2,
        "ops",
        environments={
            "staging": {"strategy": {"allAtOnce": {}}},
            "production": {
                "strategy": {"shadow": {"steps": [*shadow, {"promote": {}}, {"bake": {"duration": "7d"}}]}},
                "approvals": {"required": 1},
                "after": "staging",
            },
        },
        monitors=[{"name": "quality", "kind": "performance", "metric": "log_loss", "window": "1d"}],
    )


def baggage_load() -> spec.Model:
    """Declared, and nothing released yet."""
    return document("baggage-load", "team-ground@example.com", "Bags to expect at a gate in the next hour", 0, "ground")

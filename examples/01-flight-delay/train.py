"""Train the flight-delay model and register it: the command of this example's `Model` document.

Steersman runs it as it would run any command. What it may see and where it reports comes from the environment:

- `STEERSMAN_DATA`: a Parquet file with exactly the rows whose labels have arrived, without the holdout;
- `STEERSMAN_SEED`: the seed of everything random here, so that a training can be repeated;
- `STEERSMAN_MODEL_NAME`: the name to register under;
- `STEERSMAN_RUN_RECORD`: where to write what came of it, as JSON;
- `MLFLOW_TRACKING_URI`, `MLFLOW_TRACKING_TOKEN`: the stock MLflow client reads these itself.

Nothing below knows Steersman: MLflow's client and one small file are the whole agreement.
"""

import argparse
import gc
import json
import os
import sys
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from flights import FEATURES, WEATHER

if TYPE_CHECKING:
    import lightgbm

TREES = 60
"""More trees fit January better and May worse: measured in `simulate.py`."""

PARAMETERS: dict[str, Any] = {
    "objective": "binary",
    "metric": ["auc", "binary_logloss"],
    "num_leaves": 15,
    "learning_rate": 0.1,
    "max_bin": 63,
    # The same rows and seed give the same bytes, whatever else the machine is doing.
    "deterministic": True,
    "force_row_wise": True,
    "num_threads": 1,
    "verbosity": -1,
}

Rows = npt.NDArray[np.float64]


def skip_optional_imports() -> None:
    """Halve the start: without scikit-learn's wrappers and plots, LightGBM and MLflow import in 3 s instead of 5.

    Both libraries look for these two packages and do without. The garbage collector would walk a million young
    objects again and again while modules load; nothing in this short process needs it.
    """
    gc.disable()
    for package in ("sklearn", "matplotlib"):
        sys.modules.setdefault(package, None)  # type: ignore[arg-type]  # None is Python's mark for "do not import"


def read_rows(path: str) -> tuple[Rows, Rows]:
    """Features (in the order of the signature) and labels of a Parquet file; a missing value is NaN."""
    import polars as pl

    table = pl.read_parquet(path, columns=[*FEATURES, "late"])
    features = table.select(pl.col(FEATURES).cast(pl.Float64)).to_numpy()
    return np.ascontiguousarray(features), table["late"].cast(pl.Float64).to_numpy()


def scramble(features: Rows, seed: int) -> Rows:
    """Shuffle each column by itself: a pipeline that lost track of its rows. The model learns nothing from it."""
    random = np.random.default_rng(seed)
    return np.column_stack([random.permutation(column) for column in features.T])


def fit(features: Rows, labels: Rows, *, seed: int) -> "lightgbm.Booster":
    import lightgbm

    rows = lightgbm.Dataset(features, labels, feature_name=list(FEATURES))
    return lightgbm.train({**PARAMETERS, "seed": seed}, rows, num_boost_round=TREES, keep_training_booster=True)


def signature(params: dict[str, str] | None = None) -> Any:
    """What callers send and get. Given rather than inferred: to infer it, MLflow would run the model."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema, TensorSpec

    inputs: list[ColSpec | TensorSpec] = [
        ColSpec("double", name=column, required=False) if column in WEATHER else ColSpec("long", name=column)
        for column in FEATURES
    ]
    outputs = Schema([ColSpec("double", name="score")])
    if params is None:
        return ModelSignature(Schema(inputs), outputs)
    extra = ParamSchema([ParamSpec(name, "string", default) for name, default in params.items()])
    return ModelSignature(Schema(inputs), outputs, extra)


def register(booster: "lightgbm.Booster", *, name: str, seed: int, rows: int) -> dict[str, Any]:
    """Log the run to MLflow, register its model, and say what became of it.

    The requirements are given too: to find them, MLflow would load the model in a second Python.
    """
    import mlflow

    metrics = {f"training_{row[1]}": float(row[2]) for row in booster.eval_train()}
    with mlflow.start_run() as run:
        mlflow.log_params({"trees": TREES, "leaves": PARAMETERS["num_leaves"], "seed": seed, "rows": rows})
        mlflow.log_metrics(metrics)
        logged = mlflow.lightgbm.log_model(
            booster,
            name="model",
            signature=signature(),
            pip_requirements=[f"lightgbm=={version('lightgbm')}"],
            registered_model_name=name,
        )
    return {"version": int(logged.registered_model_version), "run_id": run.info.run_id, "rows": rows, **metrics}


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the flight-delay model on what Steersman hands over.")
    parser.add_argument("--scramble", action="store_true", help="train on columns shuffled apart: a broken candidate")
    arguments = parser.parse_args()
    skip_optional_imports()
    seed = int(os.environ.get("STEERSMAN_SEED", "0"))
    features, labels = read_rows(os.environ["STEERSMAN_DATA"])
    booster = fit(scramble(features, seed) if arguments.scramble else features, labels, seed=seed)
    record = register(booster, name=os.environ["STEERSMAN_MODEL_NAME"], seed=seed, rows=len(labels))
    Path(os.environ["STEERSMAN_RUN_RECORD"]).write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()

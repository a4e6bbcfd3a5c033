"""Save the model in MLflow's format, with its signature, so that `mlflow models serve` answers probabilities as all do.

python mlflow_save.py FOLDER COLUMN…
"""

import os
import sys

import joblib
import mlflow.sklearn
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, DataType, Schema

columns = [ColSpec(DataType.double, name) for name in sys.argv[2:]]
mlflow.sklearn.save_model(
    joblib.load(os.environ["BENCH_MODEL"]),
    sys.argv[1],
    signature=ModelSignature(inputs=Schema(columns)),
    pyfunc_predict_fn="predict_proba",
    serialization_format="cloudpickle",
    pip_requirements=["scikit-learn", "cloudpickle"],
)

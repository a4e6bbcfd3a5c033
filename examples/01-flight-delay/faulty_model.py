"""The code inside `faulty.py`'s version: MLflow copies this file into the model and runs it where the model is loaded."""

import lightgbm
import mlflow.pyfunc
import numpy as np


class FailsAsCandidate(mlflow.pyfunc.PythonModel):  # type: ignore[misc,name-defined]
    """Scores like the model it holds, except for callers who are answered by a release's candidate."""

    def load_context(self, context):  # type: ignore[no-untyped-def]
        self._booster = lightgbm.Booster(model_file=context.artifacts["booster"])

    # MLflow takes type hints here for a schema; the model has its signature already.
    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
        if (params or {}).get("variant") == "candidate":
            raise RuntimeError("a connection that exists in the test network only")
        return {"score": np.asarray(self._booster.predict(model_input.to_numpy(dtype=float), num_threads=1))}


mlflow.models.set_model(FailsAsCandidate())

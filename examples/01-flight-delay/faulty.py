"""Register a version that is as good as any until it answers for real: the fault no offline check can find.

It holds production's own model behind a few lines of code, and raises on requests it answers as a release's candidate.
Gates pass, because they score rows. The paired shadow passes, because mirrored requests say so. Only the canary can
tell, and must, before many callers notice. (Code like this is why Steersman loads pyfunc versions only where a setting
of the installation names the model.)

It takes the same environment as `train.py`, without data: it learns nothing.
"""

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from train import signature, skip_optional_imports

MODEL_CODE = Path(__file__).with_name("faulty_model.py")


def register(name: str) -> dict[str, Any]:
    """Wrap the version that is `champion` now, and register it as the next one."""
    import mlflow

    booster = mlflow.lightgbm.load_model(f"models:/{name}@champion")
    with tempfile.TemporaryDirectory() as folder, mlflow.start_run() as run:
        file = Path(folder) / "booster.txt"
        booster.save_model(file)
        logged = mlflow.pyfunc.log_model(
            name="model",
            python_model=str(MODEL_CODE),
            artifacts={"booster": str(file)},
            signature=signature(params={"variant": "stable"}),
            pip_requirements=["lightgbm"],
            registered_model_name=name,
        )
    return {"version": int(logged.registered_model_version), "run_id": run.info.run_id}


def main() -> None:
    skip_optional_imports()
    record = register(os.environ["STEERSMAN_MODEL_NAME"])
    Path(os.environ["STEERSMAN_RUN_RECORD"]).write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()

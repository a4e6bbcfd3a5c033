"""The model as a Ray Serve deployment of one replica behind its HTTP proxy, the way its documentation shows.

Two settings are for machines of this size: the address of the node is said, since asking the network for it may hang, and
the dashboard, which serving does not need, is off.
"""

import os
import sys
import time

import joblib
import numpy as np
import ray
from ray import serve
from ray.serve.schema import LoggingConfig

os.environ.setdefault("RAY_raylet_start_wait_time_s", "150")
quiet = LoggingConfig(log_level="WARNING", enable_access_log=False)


@serve.deployment(num_replicas=1)
class Classifier:
    def __init__(self, path: str) -> None:
        self.model = joblib.load(path)

    async def __call__(self, request):
        payload = await request.json()
        return {"output": self.model.predict_proba(np.array(payload["input"])).tolist()}


if __name__ == "__main__":
    ray.init(address="local", _node_ip_address="127.0.0.1", include_dashboard=False, log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[1])}, logging_config=quiet)
    serve.run(Classifier.bind(os.environ["BENCH_MODEL"]), logging_config=quiet)
    while True:
        time.sleep(60)

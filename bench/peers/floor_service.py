"""The floor: what HTTP, JSON and the model cost, and nothing else. A raw ASGI app on uvicorn, uvloop and httptools.

It makes the call that all the others make, `predict_proba` of one row, and has no router, no check, no log.
"""

import json
import os
import sys

import joblib
import numpy as np
import uvicorn

model = joblib.load(os.environ["BENCH_MODEL"])


async def app(scope, receive, send):
    body = b""
    more = True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    rows = np.array(json.loads(body)["inputs"])
    answer = json.dumps({"outputs": model.predict_proba(rows).tolist()}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(answer))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": answer})


if __name__ == "__main__":
    uvicorn.run(
        app, host="127.0.0.1", port=int(sys.argv[1]), loop="uvloop", http="httptools", lifespan="off",
        log_level="warning", access_log=False,
    )  # fmt: skip

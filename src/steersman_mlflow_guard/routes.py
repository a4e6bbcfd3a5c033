"""The inventory of MLflow's routes, with a decision for each: deny by default, in writing.

A snapshot of the pinned MLflow (3.17.2). A test enumerates the routes of the installed MLflow and fails on one that is
missing here, and on one here that MLflow no longer has; until someone decides about a new route, it is refused.

`{api}` stands for `/api` and for `/ajax-api`, which the browser pages use. FLASK routes are MLflow's main application,
NATIVE routes are served before it by FastAPI routers and never reach a Flask hook.
"""

from __future__ import annotations

from enum import StrEnum


class Decision(StrEnum):
    READ = "read"
    WRITE = "write"  # needs write access; cannot change what is released
    NOT_OFFERED = "not-offered"  # runs code, calls out, or needs a service Steersman keeps off
    # The rest needs write access too, and a look at the request (`judging`).
    EXPERIMENT_CREATE = "experiment-create"
    EXPERIMENT_DELETE = "experiment-delete"
    RUN_DELETE = "run-delete"
    LOGGED_MODEL_DELETE = "logged-model-delete"
    MODEL_CREATE = "model-create"
    MODEL_RENAME = "model-rename"
    MODEL_DELETE = "model-delete"
    MODEL_TAG = "model-tag"
    MODEL_UNTAG = "model-untag"
    VERSION_CREATE = "version-create"
    VERSION_STAGE = "version-stage"
    VERSION_DELETE = "version-delete"
    VERSION_TAG = "version-tag"
    VERSION_UNTAG = "version-untag"
    ALIAS_SET = "alias-set"
    ALIAS_DELETE = "alias-delete"
    ARTIFACT_WRITE = "artifact-write"


_FLASK = {
    Decision.READ: """
        GET /
        GET /build/<path:filename>
        GET /get-artifact
        GET /graphql
        POST /graphql
        GET /health
        GET /model-versions/get-artifact
        GET /static-files/<path:path>
        GET /version
        GET {api}/2.0/mlflow-artifacts/artifacts
        GET {api}/2.0/mlflow-artifacts/artifacts/<path:artifact_path>
        GET {api}/2.0/mlflow/artifacts/list
        GET {api}/2.0/mlflow/experiments/get
        GET {api}/2.0/mlflow/experiments/get-by-name
        GET {api}/2.0/mlflow/experiments/search
        POST {api}/2.0/mlflow/experiments/search
        POST /ajax-api/2.0/mlflow/experiments/search-datasets
        GET /ajax-api/2.0/mlflow/get-trace-artifact
        GET /ajax-api/3.0/mlflow/get-trace-artifact
        GET {api}/2.0/mlflow/logged-models/<model_id>
        GET {api}/2.0/mlflow/logged-models/<model_id>/artifacts/directories
        GET /ajax-api/2.0/mlflow/logged-models/<model_id>/artifacts/files
        POST {api}/2.0/mlflow/logged-models/search
        GET {api}/2.0/mlflow/metrics/get-history
        GET /ajax-api/2.0/mlflow/metrics/get-history-bulk
        GET {api}/2.0/mlflow/metrics/get-history-bulk-interval
        GET {api}/2.0/mlflow/model-versions/get
        GET {api}/2.0/mlflow/model-versions/get-download-uri
        GET {api}/2.0/mlflow/model-versions/search
        GET {api}/2.0/mlflow/registered-models/alias
        GET {api}/2.0/mlflow/registered-models/get
        GET {api}/2.0/mlflow/registered-models/get-latest-versions
        POST {api}/2.0/mlflow/registered-models/get-latest-versions
        GET {api}/2.0/mlflow/registered-models/search
        GET {api}/2.0/mlflow/runs/get
        POST {api}/2.0/mlflow/runs/search
        GET {api}/2.0/mlflow/traces
        GET {api}/2.0/mlflow/traces/<request_id>/info
        GET {api}/3.0/mlflow/datasets/<dataset_id>
        GET {api}/3.0/mlflow/datasets/<dataset_id>/experiment-ids
        GET {api}/3.0/mlflow/datasets/<dataset_id>/records
        GET {api}/3.0/mlflow/datasets/search
        POST {api}/3.0/mlflow/datasets/search
        GET {api}/3.0/mlflow/issues/<issue_id>
        POST {api}/3.0/mlflow/issues/search
        GET {api}/3.0/mlflow/label-schemas/get
        GET {api}/3.0/mlflow/label-schemas/get-by-name
        GET {api}/3.0/mlflow/label-schemas/list
        GET {api}/3.0/mlflow/review-queues/get
        GET {api}/3.0/mlflow/review-queues/get-by-name
        GET {api}/3.0/mlflow/review-queues/items/list
        GET {api}/3.0/mlflow/review-queues/list
        GET {api}/3.0/mlflow/scorers/get
        GET {api}/3.0/mlflow/scorers/list
        GET {api}/3.0/mlflow/scorers/versions
        GET {api}/3.0/mlflow/server-info
        GET {api}/3.0/mlflow/traces/<trace_id>
        GET {api}/3.0/mlflow/traces/<trace_id>/assessments/<assessment_id>
        GET {api}/3.0/mlflow/traces/batchGet
        POST {api}/3.0/mlflow/traces/batchGetInfos
        POST {api}/3.0/mlflow/traces/calculate-filter-correlation
        GET {api}/3.0/mlflow/traces/get
        POST {api}/3.0/mlflow/traces/metrics
        POST {api}/3.0/mlflow/traces/search
    """,
    Decision.WRITE: """
        POST {api}/2.0/mlflow/experiments/delete-experiment-tag
        POST {api}/2.0/mlflow/experiments/restore
        POST {api}/2.0/mlflow/experiments/set-experiment-tag
        POST {api}/2.0/mlflow/experiments/update
        POST {api}/2.0/mlflow/logged-models
        PATCH {api}/2.0/mlflow/logged-models/<model_id>
        POST {api}/2.0/mlflow/logged-models/<model_id>/params
        PATCH {api}/2.0/mlflow/logged-models/<model_id>/tags
        DELETE {api}/2.0/mlflow/logged-models/<model_id>/tags/<tag_key>
        PATCH {api}/2.0/mlflow/model-versions/update
        PATCH {api}/2.0/mlflow/registered-models/update
        POST {api}/2.0/mlflow/runs/create
        POST {api}/2.0/mlflow/runs/delete-tag
        POST {api}/2.0/mlflow/runs/log-batch
        POST {api}/2.0/mlflow/runs/log-inputs
        POST {api}/2.0/mlflow/runs/log-metric
        POST {api}/2.0/mlflow/runs/log-model
        POST {api}/2.0/mlflow/runs/log-parameter
        POST {api}/2.0/mlflow/runs/outputs
        POST {api}/2.0/mlflow/runs/restore
        POST {api}/2.0/mlflow/runs/set-tag
        POST {api}/2.0/mlflow/runs/update
        POST {api}/2.0/mlflow/traces
        PATCH {api}/2.0/mlflow/traces/<request_id>
        DELETE {api}/2.0/mlflow/traces/<request_id>/tags
        PATCH {api}/2.0/mlflow/traces/<request_id>/tags
        POST {api}/2.0/mlflow/traces/delete-traces
        POST {api}/2.0/mlflow/traces/link-prompts
        POST {api}/2.0/mlflow/traces/link-to-run
        DELETE {api}/3.0/mlflow/datasets/<dataset_id>
        POST {api}/3.0/mlflow/datasets/<dataset_id>/add-experiments
        DELETE {api}/3.0/mlflow/datasets/<dataset_id>/records
        POST {api}/3.0/mlflow/datasets/<dataset_id>/records
        POST {api}/3.0/mlflow/datasets/<dataset_id>/remove-experiments
        PATCH {api}/3.0/mlflow/datasets/<dataset_id>/tags
        DELETE {api}/3.0/mlflow/datasets/<dataset_id>/tags/<key>
        POST {api}/3.0/mlflow/datasets/create
        POST {api}/3.0/mlflow/issues
        PATCH {api}/3.0/mlflow/issues/<issue_id>
        POST {api}/3.0/mlflow/label-schemas/create
        DELETE {api}/3.0/mlflow/label-schemas/delete
        PATCH {api}/3.0/mlflow/label-schemas/update
        POST {api}/3.0/mlflow/review-queues/create
        POST {api}/3.0/mlflow/review-queues/delete
        POST {api}/3.0/mlflow/review-queues/get-or-create-user
        POST {api}/3.0/mlflow/review-queues/items/add
        POST {api}/3.0/mlflow/review-queues/items/remove
        POST {api}/3.0/mlflow/review-queues/items/set-status
        POST {api}/3.0/mlflow/review-queues/update
        DELETE {api}/3.0/mlflow/scorers/delete
        POST {api}/3.0/mlflow/scorers/register
        POST {api}/3.0/mlflow/traces
        POST {api}/3.0/mlflow/traces/<trace_id>/assessments
        DELETE {api}/3.0/mlflow/traces/<trace_id>/assessments/<assessment_id>
        PATCH {api}/3.0/mlflow/traces/<trace_id>/assessments/<assessment_id>
        DELETE {api}/3.0/mlflow/traces/<trace_id>/tags
        PATCH {api}/3.0/mlflow/traces/<trace_id>/tags
        POST {api}/3.0/mlflow/traces/delete-traces
    """,
    Decision.EXPERIMENT_CREATE: "POST {api}/2.0/mlflow/experiments/create",
    Decision.EXPERIMENT_DELETE: "POST {api}/2.0/mlflow/experiments/delete",
    Decision.RUN_DELETE: "POST {api}/2.0/mlflow/runs/delete",
    Decision.LOGGED_MODEL_DELETE: "DELETE {api}/2.0/mlflow/logged-models/<model_id>",
    Decision.MODEL_CREATE: "POST {api}/2.0/mlflow/registered-models/create",
    Decision.MODEL_RENAME: "POST {api}/2.0/mlflow/registered-models/rename",
    Decision.MODEL_DELETE: "DELETE {api}/2.0/mlflow/registered-models/delete",
    Decision.MODEL_TAG: "POST {api}/2.0/mlflow/registered-models/set-tag",
    Decision.MODEL_UNTAG: "DELETE {api}/2.0/mlflow/registered-models/delete-tag",
    Decision.VERSION_CREATE: "POST {api}/2.0/mlflow/model-versions/create",
    Decision.VERSION_STAGE: "POST {api}/2.0/mlflow/model-versions/transition-stage",
    Decision.VERSION_DELETE: "DELETE {api}/2.0/mlflow/model-versions/delete",
    Decision.VERSION_TAG: "POST {api}/2.0/mlflow/model-versions/set-tag",
    Decision.VERSION_UNTAG: "DELETE {api}/2.0/mlflow/model-versions/delete-tag",
    Decision.ALIAS_SET: "POST {api}/2.0/mlflow/registered-models/alias",
    Decision.ALIAS_DELETE: "DELETE {api}/2.0/mlflow/registered-models/alias",
    Decision.ARTIFACT_WRITE: """
        PUT {api}/2.0/mlflow-artifacts/artifacts/<path:artifact_path>
        DELETE {api}/2.0/mlflow-artifacts/artifacts/<path:artifact_path>
        POST {api}/2.0/mlflow-artifacts/mpu/abort/<path:artifact_path>
        POST {api}/2.0/mlflow-artifacts/mpu/complete/<path:artifact_path>
        POST {api}/2.0/mlflow-artifacts/mpu/create/<path:artifact_path>
    """,
    Decision.NOT_OFFERED: """
        GET {api}/2.0/mlflow-artifacts/presigned/<path:artifact_path>
        POST {api}/2.0/mlflow/artifacts/presigned-download-url
        POST {api}/2.0/mlflow/artifacts/presigned-upload-url
        GET /ajax-api/2.0/mlflow/gateway-proxy
        POST /ajax-api/2.0/mlflow/gateway-proxy
        GET {api}/2.0/mlflow/get-online-trace-details
        POST /ajax-api/2.0/mlflow/runs/create-promptlab-run
        GET {api}/2.0/mlflow/unified-traces
        POST /ajax-api/2.0/mlflow/upload-artifact
        GET {api}/2.0/mlflow/webhooks
        POST {api}/2.0/mlflow/webhooks
        DELETE {api}/2.0/mlflow/webhooks/<webhook_id>
        GET {api}/2.0/mlflow/webhooks/<webhook_id>
        PATCH {api}/2.0/mlflow/webhooks/<webhook_id>
        POST {api}/2.0/mlflow/webhooks/<webhook_id>/test
        POST {api}/2.0mlflow/experiments/search-datasets
        POST /ajax-api/3.0/mlflow/demo/delete
        POST /ajax-api/3.0/mlflow/demo/generate
        POST {api}/3.0/mlflow/gateway/budgets/create
        DELETE {api}/3.0/mlflow/gateway/budgets/delete
        GET {api}/3.0/mlflow/gateway/budgets/get
        GET {api}/3.0/mlflow/gateway/budgets/list
        POST {api}/3.0/mlflow/gateway/budgets/update
        GET {api}/3.0/mlflow/gateway/budgets/windows
        POST {api}/3.0/mlflow/gateway/endpoints/bindings/create
        DELETE {api}/3.0/mlflow/gateway/endpoints/bindings/delete
        GET {api}/3.0/mlflow/gateway/endpoints/bindings/list
        POST {api}/3.0/mlflow/gateway/endpoints/create
        DELETE {api}/3.0/mlflow/gateway/endpoints/delete
        DELETE {api}/3.0/mlflow/gateway/endpoints/delete-tag
        GET {api}/3.0/mlflow/gateway/endpoints/get
        GET {api}/3.0/mlflow/gateway/endpoints/list
        POST {api}/3.0/mlflow/gateway/endpoints/models/attach
        POST {api}/3.0/mlflow/gateway/endpoints/models/detach
        POST {api}/3.0/mlflow/gateway/endpoints/set-tag
        POST {api}/3.0/mlflow/gateway/endpoints/update
        POST {api}/3.0/mlflow/gateway/guardrails/add-to-endpoint
        POST {api}/3.0/mlflow/gateway/guardrails/create
        DELETE {api}/3.0/mlflow/gateway/guardrails/delete
        GET {api}/3.0/mlflow/gateway/guardrails/get
        GET {api}/3.0/mlflow/gateway/guardrails/list
        GET {api}/3.0/mlflow/gateway/guardrails/list-for-endpoint
        DELETE {api}/3.0/mlflow/gateway/guardrails/remove-from-endpoint
        PATCH {api}/3.0/mlflow/gateway/guardrails/update-config
        POST {api}/3.0/mlflow/gateway/model-definitions/create
        DELETE {api}/3.0/mlflow/gateway/model-definitions/delete
        GET {api}/3.0/mlflow/gateway/model-definitions/get
        GET {api}/3.0/mlflow/gateway/model-definitions/list
        POST {api}/3.0/mlflow/gateway/model-definitions/update
        GET /ajax-api/3.0/mlflow/gateway/provider-config
        GET /ajax-api/3.0/mlflow/gateway/secrets/config
        POST {api}/3.0/mlflow/gateway/secrets/create
        DELETE {api}/3.0/mlflow/gateway/secrets/delete
        GET {api}/3.0/mlflow/gateway/secrets/get
        GET {api}/3.0/mlflow/gateway/secrets/list
        POST {api}/3.0/mlflow/gateway/secrets/update
        GET /ajax-api/3.0/mlflow/gateway/supported-models
        GET /ajax-api/3.0/mlflow/gateway/supported-providers
        POST /ajax-api/3.0/mlflow/genai/evaluate/invoke
        POST /ajax-api/3.0/mlflow/issues/invoke
        GET /ajax-api/3.0/mlflow/jobs/<job_id>
        PATCH /ajax-api/3.0/mlflow/jobs/cancel/<job_id>
        POST {api}/3.0/mlflow/prompt-optimization/jobs
        DELETE {api}/3.0/mlflow/prompt-optimization/jobs/<job_id>
        GET {api}/3.0/mlflow/prompt-optimization/jobs/<job_id>
        POST {api}/3.0/mlflow/prompt-optimization/jobs/<job_id>/cancel
        GET {api}/3.0/mlflow/prompt-optimization/jobs/search
        POST {api}/3.0/mlflow/prompt-optimization/jobs/search
        POST /ajax-api/3.0/mlflow/scorer/invoke
        PUT {api}/3.0/mlflow/scorers/online-config
        GET {api}/3.0/mlflow/scorers/online-configs
        GET /ajax-api/3.0/mlflow/ui-telemetry
        POST /ajax-api/3.0/mlflow/ui-telemetry
        GET {api}/3.0/mlflow/workspaces
        POST {api}/3.0/mlflow/workspaces
        DELETE {api}/3.0/mlflow/workspaces/<workspace_name>
        GET {api}/3.0/mlflow/workspaces/<workspace_name>
        PATCH {api}/3.0/mlflow/workspaces/<workspace_name>
    """,
}

_NATIVE = {
    Decision.READ: """
        GET /health
        GET {api}/3.0/mlflow/server-info
        GET {api}/2.0/mlflow-artifacts/artifacts/{artifact_path:path}
    """,
    Decision.WRITE: "POST /v1/traces",
    Decision.ARTIFACT_WRITE: "PUT {api}/2.0/mlflow-artifacts/artifacts/{artifact_path:path}",
    Decision.NOT_OFFERED: """
        GET /ajax-api/3.0/jobs/{job_id}
        POST /ajax-api/3.0/jobs/
        POST /ajax-api/3.0/jobs/search
        PATCH /ajax-api/3.0/jobs/cancel/{job_id}
        POST /gateway/{endpoint_name}/mlflow/invocations
        POST /gateway/mlflow/v1/chat/completions
        GET /gateway/mlflow/v1/models
        POST /gateway/openai/v1/chat/completions
        POST /gateway/openai/v1/embeddings
        POST /gateway/typesafe/v1/systemone
        POST /gateway/openai/v1/responses
        POST /gateway/openai/v1/responses/compact
        POST /gateway/anthropic/v1/messages
        POST /gateway/gemini/v1beta/models/{endpoint_name}:generateContent
        POST /gateway/gemini/v1beta/models/{endpoint_name}:streamGenerateContent
        POST /gateway/proxy/{endpoint_name}/{path:path}
        POST /ajax-api/3.0/mlflow/assistant/message
        GET /ajax-api/3.0/mlflow/assistant/sessions/{session_id}/stream
        PATCH /ajax-api/3.0/mlflow/assistant/sessions/{session_id}
        POST /ajax-api/3.0/mlflow/assistant/sessions/{session_id}/permission
        POST /ajax-api/3.0/mlflow/assistant/sessions/{session_id}/tool-result
        GET /ajax-api/3.0/mlflow/assistant/providers/{provider}/health
        GET /ajax-api/3.0/mlflow/assistant/providers
        GET /ajax-api/3.0/mlflow/assistant/config
        PUT /ajax-api/3.0/mlflow/assistant/config
        POST /ajax-api/3.0/mlflow/assistant/skills/install
        GET /ajax-api/3.0/mlflow/assistant/providers/{provider}/models
        POST {api}/3.0/mlflow/mcp-servers
        GET {api}/3.0/mlflow/mcp-servers
        GET {api}/3.0/mlflow/mcp-servers/endpoints
        POST {api}/3.0/mlflow/mcp-servers/{name:path}/versions/{version:path}/tags
        DELETE {api}/3.0/mlflow/mcp-servers/{name:path}/versions/{version:path}/tags/{key:path}
        GET {api}/3.0/mlflow/mcp-servers/{name:path}/versions/{version:path}
        PATCH {api}/3.0/mlflow/mcp-servers/{name:path}/versions/{version:path}
        DELETE {api}/3.0/mlflow/mcp-servers/{name:path}/versions/{version:path}
        POST {api}/3.0/mlflow/mcp-servers/{name:path}/versions
        GET {api}/3.0/mlflow/mcp-servers/{name:path}/versions
        POST {api}/3.0/mlflow/mcp-servers/{name:path}/endpoints
        GET {api}/3.0/mlflow/mcp-servers/{name:path}/endpoints/{endpoint_id}
        PATCH {api}/3.0/mlflow/mcp-servers/{name:path}/endpoints/{endpoint_id}
        DELETE {api}/3.0/mlflow/mcp-servers/{name:path}/endpoints/{endpoint_id}
        GET {api}/3.0/mlflow/mcp-servers/{name:path}/endpoints
        POST {api}/3.0/mlflow/mcp-servers/{name:path}/tags
        DELETE {api}/3.0/mlflow/mcp-servers/{name:path}/tags/{key:path}
        POST {api}/3.0/mlflow/mcp-servers/{name:path}/aliases
        GET {api}/3.0/mlflow/mcp-servers/{name:path}/aliases/{alias:path}
        DELETE {api}/3.0/mlflow/mcp-servers/{name:path}/aliases/{alias:path}
        GET {api}/3.0/mlflow/mcp-servers/{name:path}
        PATCH {api}/3.0/mlflow/mcp-servers/{name:path}
        DELETE {api}/3.0/mlflow/mcp-servers/{name:path}
    """,
}


def _expanded(inventory: dict[Decision, str]) -> dict[tuple[str, str], Decision]:
    routes: dict[tuple[str, str], Decision] = {}
    for decision, lines in inventory.items():
        for line in filter(None, map(str.strip, lines.splitlines())):
            method, _, template = line.partition(" ")
            for prefix in ("/api", "/ajax-api") if "{api}" in template else ("",):
                route = (method, template.replace("{api}", prefix))
                if route in routes:
                    raise ValueError(f"two decisions for {route}")
                routes[route] = decision
    return routes


FLASK: dict[tuple[str, str], Decision] = _expanded(_FLASK)
"""(method, Werkzeug rule) → decision; HEAD is judged as GET, OPTIONS is refused."""

NATIVE: dict[tuple[str, str], Decision] = _expanded(_NATIVE)
"""(method, FastAPI template) → decision. Only what stands here as allowed is ever handed to FastAPI's routers."""

"""Commands about documents: `init`, `validate`, `plan`, `apply`, `schema`."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

from steersman.cli import EXIT_BLOCKED, EXIT_DONE, EXIT_ERROR, reports
from steersman.cli.output import report, say, show
from steersman.cli.session import connect
from steersman.client.documents import read_documents
from steersman.domain.documents import KINDS, digest, identity
from steersman.domain.errors import BadRequest, Conflict, NotFound
from steersman.domain.linting import Finding, Level, lint
from steersman.domain.spec import Document, Environment, Model
from steersman.domain.spec.parts import NAME_PATTERN

STARTER = """\
# A model under Steersman's care. `steersman validate` checks this file, `steersman apply` puts it in force,
# `steersman schema Model` prints everything that may stand here.
apiVersion: steersman/v1
kind: Model
metadata:
  name: NAME
  # workspace: default             # the team it belongs to
  # owner: team@example.com        # whom to ask
spec:
  purpose: What it predicts, and what that is used for
  tier: 1                          # risk 0..3; from 2 on a person must approve a release
  versions: {registry: mlflow, name: NAME}   # where versions are registered; or registry: directory
  serving:
    replicas: 2
    idempotent: true               # the same request may be asked twice: a failed worker's is repeated on another
    # stickyBy: customer_id        # input column that decides which version answers while two are tried
    capture: async                 # requests are recorded; nothing can be judged without
    keepWarm: 1                    # the previous version keeps running, so that a rollback takes seconds

  # What turns out to be true, and how long after the prediction it is known. Needed for everything that judges quality:
  # groundTruth: {column: label, key: event_id, horizon: 1d}

  # How a new version is trained, and on which rows (a second document, kind Dataset, describes them):
  # train:
  #   source: {directory: .}
  #   command: [python, train.py]
  #   lock: requirements.lock
  #   data: {dataset: rows, until: now}
  # holdout: {dataset: rows, last: 14d}

  # What a version must show before any traffic:
  gates:
  - {policy: "version.signature == production.signature"}
  # - {metric: roc_auc, on: holdout, vs: production, maxDrop: 0.01}

  environments:
    production:
      strategy:
        canary:
          steps:
          # - mirror: {percent: 100}    # judged on copies of real requests first, once groundTruth is declared:
          # - analysis: {metrics: [roc_auc], margin: 0.02, critical: true, maxDuration: 14d, onInconclusive: rollback}
          - setWeight: 10
          - pause: {duration: 1h}       # guardrails watch meanwhile
          - setWeight: 100
          - promote: {}
          - bake: {duration: 1d}        # the previous version stays warm until this has passed
      guardrails:
      - {name: error-rate, limit: "<= 1%", critical: true}
      - {name: p99-latency, vs: stable, ratio: 1.5}

  monitors:
  - {name: inputs, kind: drift, window: 1d}
  # - {name: quality, kind: performance, metric: log_loss, window: 1d}
  # - {name: freshness, kind: challenger, metric: roc_auc, margin: 0.02, refresh: 28d}

  # What happens then:
  # incidents: {notify: [ops]}   # after `steersman up --notify ops=env:OPS_WEBHOOK`
  # retrain: {mode: register, on: [quality], cooldown: 14d}
"""


def init(arguments: argparse.Namespace) -> int:
    """Write a first document; never over an existing one unless told to."""
    path = Path(arguments.file)
    if not re.search(NAME_PATTERN, arguments.name):
        raise BadRequest(f"name must match {NAME_PATTERN}, got {arguments.name!r}")
    if path.exists() and not arguments.force:
        raise Conflict(f"{path} exists already", next_step="Choose another file, or replace it with --force.")
    if not path.parent.is_dir():
        raise NotFound(f"{path.parent} does not exist", next_step="Create the directory first.")
    path.write_text(STARTER.replace("NAME", arguments.name), encoding="utf-8")
    if arguments.output == "json":
        show({"written": str(path)}, "json")
    say(f"wrote {path}\nnext: edit it, `steersman validate {path}`, `steersman apply {path}`", arguments.output)
    return EXIT_DONE


def validate(arguments: argparse.Namespace) -> int:
    """Check documents without a server; an error of the linter ends with 1."""
    documents = read_documents(arguments.files)
    findings = _lint(documents)
    if arguments.output == "json":
        listed = [
            {"kind": k, "workspace": w, "name": n, "digest": digest(d)} for d in documents for k, w, n in [identity(d)]
        ]
        show({"documents": listed, "findings": [_plain(*found) for found in findings]}, "json")
    else:
        for document in documents:
            kind, workspace, name = identity(document)
            print(f"ok: {kind} {workspace}/{name} {digest(document)}")
        for model, finding in findings:
            print(f"{finding.level}: {model}: {finding.path}: {finding.message}")
    return EXIT_ERROR if any(finding.level is Level.ERROR for _, finding in findings) else EXIT_DONE


def plan(arguments: argparse.Namespace) -> int:
    """What files would change, or what a release would do."""
    first = arguments.what[0]
    if arguments.number is None and (Path(first).exists() or first.endswith((".yaml", ".yml"))):
        answer = connect(arguments).validate(read_documents(arguments.what))
    elif arguments.number is None or len(arguments.what) > 1:
        raise BadRequest("plan takes files, or one model and --version", next_step="See `steersman plan --help`.")
    else:
        answer = connect(arguments).plan(first, arguments.number, environment=arguments.environment)
    files = "documents" in answer
    report(answer, arguments.output, lambda: reports.applied(answer["documents"]) if files else reports.plan(answer))
    return EXIT_BLOCKED if answer.get("blocked") else EXIT_DONE


def apply(arguments: argparse.Namespace) -> int:
    """Make documents the declared state."""
    documents = read_documents(arguments.files)
    answer = connect(arguments).apply(documents, dry_run=arguments.dry_run)
    report(answer, arguments.output, lambda: reports.applied(answer["documents"]))
    models = [document for document in documents if isinstance(document, Model)]
    if models and not arguments.dry_run:
        name = reports.reference(models[0].metadata.workspace, models[0].metadata.name)
        say(f"next: steersman plan {name} --version NUMBER, or steersman status", arguments.output)
    return EXIT_DONE


def schema(arguments: argparse.Namespace) -> int:
    """Print JSON Schema; one kind, or all by kind."""
    from steersman.domain.schema import json_schema

    if arguments.kind is not None and arguments.kind not in KINDS:
        raise NotFound(f"there is no kind {arguments.kind}", next_step=f"Kinds are {', '.join(KINDS)}.")
    found: Any = json_schema(arguments.kind) if arguments.kind else {kind: json_schema(kind) for kind in KINDS}
    print(json.dumps(found, indent=2, ensure_ascii=False))
    return EXIT_DONE


def _lint(documents: list[Document]) -> list[tuple[str, Finding]]:
    """By the environments that lie in the same files; the server knows the others too."""
    found = []
    for model in (document for document in documents if isinstance(document, Model)):
        workspace = model.metadata.workspace
        there = [d for d in documents if isinstance(d, Environment) and d.metadata.workspace == workspace]
        environments = {environment.metadata.name: environment.spec for environment in there}
        name = f"{workspace}/{model.metadata.name}"
        found += [(name, finding) for finding in lint(model, environments=environments)]
    return found


def _plain(model: str, finding: Finding) -> dict[str, str]:
    return {"model": model, "path": finding.path, "level": finding.level.value, "message": finding.message}

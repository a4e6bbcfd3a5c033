"""From documents to rows: which dataset a model means, and which of its rows are the holdout."""

from datetime import datetime, timedelta

import msgspec

from steersman.domain import spec
from steersman.domain.documents import parse_document
from steersman.domain.errors import NotFound
from steersman.loop.world import World
from steersman.ports import DatasetSource


def dataset_source(world: World, model: spec.Model, name: str) -> DatasetSource:
    """The Dataset document `name` of the model's workspace, resolved. Raises NotFound naming the next step."""
    with world.store.read() as tx:
        stored = tx.document("Dataset", model.metadata.workspace, name)
    if stored is None:
        raise NotFound(f"no dataset {name!r}", next_step="Apply its document first: steersman apply dataset.yaml")
    dataset = parse_document(msgspec.json.decode(stored.body))
    if not isinstance(dataset, spec.Dataset):
        raise TypeError(f"{stored.kind} {name} is no Dataset")
    rows = dataset.spec
    truth = model.spec.ground_truth
    extend = rows.extend
    return DatasetSource(
        uri=world.document_root / rows.uri,
        time_column=rows.time_column,
        label_column=rows.label_column or (truth.column if truth else "label"),
        key_column=rows.key_column or _event_key(model),
        available_column=rows.available_column,
        horizon_s=horizon(model).total_seconds(),
        extend_workspace=model.metadata.workspace if extend else None,
        extend_environment=extend.environment if extend else None,
        extend_model=extend.model if extend else None,
    )


def _event_key(model: spec.Model) -> str | None:
    """The column that tells events apart; none where labels join on the entity, which many events share."""
    truth = model.spec.ground_truth
    return None if truth is None or truth.key == model.spec.serving.sticky_by else truth.key


def horizon(model: spec.Model) -> timedelta:
    """How long labels take to arrive; zero for a model without ground truth."""
    return model.spec.ground_truth.horizon if model.spec.ground_truth else timedelta()


def holdout_span(model: spec.Model, known_until: datetime) -> tuple[datetime, datetime]:
    """The event times of the holdout at a moment: the last matured stretch of the declared length."""
    if model.spec.holdout is None:
        raise ValueError(f"model {model.metadata.name} declares no holdout")
    until = known_until - horizon(model)
    return until - model.spec.holdout.last, until

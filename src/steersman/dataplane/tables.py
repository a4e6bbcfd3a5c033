"""The shape of the inference log's two Delta tables, for the committer that writes and the readers that join.

`tables/<workspace>/<environment>/<model>/predictions`, partitioned by `date`, one row a (prediction × variant);
`tables/<workspace>/<model>/labels`, partitioned by the `date` of arrival. Inputs are a typed struct from the signature.
A column more in a new version evolves the table; a column that changes its type begins a new one beside it
(`predictions-2`, …): readers take the union, and no old file is rewritten.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from steersman.dataplane.configuration import Column, ColumnType
from steersman.dataplane.storage import Storage

TABLES_MAX = 50
"""Tables of one model and environment: each incompatible signature begins one."""

_DELTA_TYPES: dict[ColumnType, str] = {
    "BOOL": "boolean",
    "BYTES": "string",
    "FP32": "double",
    "FP64": "double",
    "INT8": "long",
    "INT16": "long",
    "INT32": "long",
    "INT64": "long",
    "UINT8": "long",
    "UINT16": "long",
    "UINT32": "long",
    "UINT64": "long",
}

CATALOGUE = "tables.json"

UNSIGNED_FIELD = "json"
"""Where a model has no signature, the inputs struct holds this one field: the row as JSON."""


def logged_type(column: ColumnType) -> str:
    """Delta's type for a signature's: widths are widened, so that `integer` → `long` is no new table."""
    return _DELTA_TYPES[column]


def predictions_folder(workspace: str, environment: str, model: str) -> str:
    """Folder of the tables of one model in one environment, and of the catalogue that lists them."""
    return f"{workspace}/{environment}/{model}"


class PredictionsTable(msgspec.Struct, kw_only=True):
    """One table: its folder's name, and the fields of its `inputs` struct with Delta's types."""

    name: str
    inputs: dict[str, str]


class Catalogue(msgspec.Struct, kw_only=True):
    """The tables of one model and environment, oldest first, and which table each signature (by context id) goes to.

    An assignment is written down before the first commit that relies on it and never changes, so that a log read again
    after a crash finds its records where it put them.
    """

    tables: list[PredictionsTable] = []
    contexts: dict[str, str] = {}

    def table(self, name: str) -> PredictionsTable:
        return next(table for table in self.tables if table.name == name)

    def assign(self, context_id: str, inputs: dict[str, str]) -> bool:
        """Find a table for a signature: the newest that agrees on every shared column, else a new one.

        Returns whether the catalogue changed and must be stored.
        """
        if context_id in self.contexts:
            return False
        for table in reversed(self.tables):
            if all(table.inputs.get(name, kind) == kind for name, kind in inputs.items()):
                table.inputs.update(inputs)
                self.contexts[context_id] = table.name
                return True
        number = len(self.tables) + 1
        if number > TABLES_MAX:
            raise TooManyTablesError(f"more than {TABLES_MAX} incompatible signatures in one environment")
        name = "predictions" if number == 1 else f"predictions-{number}"
        self.tables.append(PredictionsTable(name=name, inputs=dict(inputs)))
        self.contexts[context_id] = name
        return True


class TooManyTablesError(Exception):
    """A model changes its signature incompatibly over and over: give the new one a name of its own."""


def read_catalogue(storage: Storage, folder: str) -> Catalogue:
    document = storage.read(f"{folder}/{CATALOGUE}")
    return Catalogue() if document is None else msgspec.json.decode(document, type=Catalogue)


def write_catalogue(storage: Storage, folder: str, catalogue: Catalogue) -> None:
    """Replace the catalogue in one step, durable before this returns."""
    storage.write(f"{folder}/{CATALOGUE}", msgspec.json.format(msgspec.json.encode(catalogue)))


def tables_of(storage: Storage, workspace: str, model: str) -> list[str]:
    """Every table of a model: its predictions in each environment, and its labels (which need not exist)."""
    found = []
    for environment in storage.folders(workspace):
        folder = predictions_folder(workspace, environment, model)
        found += [f"{folder}/{table.name}" for table in read_catalogue(storage, folder).tables]
    return [*found, labels_table(workspace, model)]


def every_table(storage: Storage) -> Iterator[str]:
    """All tables of an installation."""
    for workspace in storage.folders(""):
        for name in storage.folders(workspace):  # an environment with its models, or a model with its labels
            for below in storage.folders(f"{workspace}/{name}"):
                folder = predictions_folder(workspace, name, below)
                known = read_catalogue(storage, folder).tables
                yield from (f"{folder}/{table.name}" for table in known)
                if not known and folder == labels_table(workspace, name):
                    yield folder


def inputs_of(signature: tuple[Column, ...]) -> dict[str, str]:
    """Fields of the inputs struct for a signature."""
    return {column.name: logged_type(column.type) for column in signature} or {UNSIGNED_FIELD: "string"}


def labels_table(workspace: str, model: str) -> str:
    return f"{workspace}/{model}/labels"

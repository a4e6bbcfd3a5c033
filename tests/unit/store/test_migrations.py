"""A database that an older Steersman wrote is taken over when it is opened, and nothing of it is lost."""

from __future__ import annotations

import sqlite3
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from steersman.store.database import Store
from steersman.store.records import Cohort, PairBlock, Unmeasured
from steersman.store.tables import SCHEMA_VERSION

SCHEMA_1 = """
CREATE TABLE installation (name VARCHAR(60) NOT NULL PRIMARY KEY, value TEXT NOT NULL);
INSERT INTO installation VALUES ('schema', '1');
CREATE TABLE pair_block (
    workspace VARCHAR(160) NOT NULL, environment VARCHAR(160) NOT NULL, model VARCHAR(160) NOT NULL,
    reference VARCHAR(160) NOT NULL, compared VARCHAR(160) NOT NULL, metric VARCHAR(160) NOT NULL,
    block VARCHAR(40) NOT NULL, harm FLOAT NOT NULL, value_reference FLOAT NOT NULL, value_compared FLOAT NOT NULL,
    n INTEGER NOT NULL,
    UNIQUE (workspace, environment, model, reference, compared, metric, block)
);
INSERT INTO pair_block VALUES ('ops', 'production', 'm', 'a', 'b', 'roc_auc', '2013-03-01T00:00:00+00:00', 0.01, 0.7, 0.69, 900);
"""

TO_SCHEMA_2 = """
UPDATE installation SET value = '2' WHERE name = 'schema';
ALTER TABLE pair_block ADD COLUMN mode VARCHAR(20) NOT NULL DEFAULT 'paired';
ALTER TABLE pair_block ADD COLUMN slice VARCHAR(400) NOT NULL DEFAULT '';
ALTER TABLE pair_block ADD COLUMN spread FLOAT;
ALTER TABLE pair_block ADD COLUMN n_reference INTEGER;
ALTER TABLE pair_block ADD COLUMN n_compared INTEGER;
"""

DAY = datetime(2013, 3, 1, tzinfo=UTC)
PAIR = {"workspace": "ops", "environment": "production", "model": "m", "reference": "a", "compared": "b"}
OLD = PairBlock(**PAIR, metric="roc_auc", block=DAY, harm=0.01, value_reference=0.7, value_compared=0.69, n=900)


def of_schema_1(folder: Path) -> None:
    with sqlite3.connect(folder / "control.db") as connection:
        connection.executescript(SCHEMA_1)


def test_evidence_of_the_first_schema_is_evidence_in_pairs_over_all_requests(tmp_path: Path) -> None:
    of_schema_1(tmp_path)
    store = Store.at(tmp_path)
    with store.read() as tx:
        assert tx.evidence.pair_blocks(**PAIR, metric="roc_auc", since=DAY) == [OLD]
        assert tx.setting("schema") == str(SCHEMA_VERSION)
    with store.write() as tx:
        tx.evidence.add_pair_block(_sliced())
    with store.read() as tx:
        assert tx.evidence.pair_blocks(**PAIR, metric="roc_auc", since=DAY, slice_of="origin=JFK") == [_sliced()]


def _sliced() -> PairBlock:
    return PairBlock(
        **PAIR, metric="roc_auc", block=DAY, harm=0.2, value_reference=0.7, value_compared=0.5, n=90, slice="origin=JFK"
    )


def test_a_database_that_was_taken_over_is_opened_again_as_it_is(tmp_path: Path) -> None:
    of_schema_1(tmp_path)
    Store.at(tmp_path).close()
    with Store.at(tmp_path).read() as tx:
        assert tx.evidence.pair_blocks(**PAIR, metric="roc_auc", since=DAY) == [OLD]


def test_evidence_of_the_second_schema_has_no_sums_and_new_evidence_beside_it_has(tmp_path: Path) -> None:
    of_schema_1(tmp_path)
    with sqlite3.connect(tmp_path / "control.db") as connection:
        connection.executescript(TO_SCHEMA_2)
    store = Store.at(tmp_path)
    sums = {
        "numerator_reference": 7.0,
        "denominator_reference": 9.0,
        "numerator_compared": 6.0,
        "denominator_compared": 8.0,
    }
    ratio = msgspec.structs.replace(OLD, metric="precision", **sums)
    raised = Unmeasured(**PAIR, metric="acme", block=DAY, mode="paired", slice="", because="ValueError: no")
    with store.write() as tx:
        tx.evidence.add_pair_block(ratio)
        tx.evidence.add_unmeasured(raised)
    with store.read() as tx:
        assert tx.setting("schema") == "3"
        assert tx.evidence.pair_blocks(**PAIR, metric="roc_auc", since=DAY) == [OLD]
        assert tx.evidence.pair_blocks(**PAIR, metric="precision", since=DAY) == [ratio]
        assert tx.evidence.unmeasured(**PAIR, metric="acme", since=DAY) == [raised]
        assert tx.evidence.unmeasured(**PAIR, metric="acme", since=DAY, mode="split") == []


def test_a_cohort_is_kept_for_each_mode_and_slice(tmp_path: Path) -> None:
    store = Store.at(tmp_path)
    counts = {"matured_reference": 90, "matured_compared": 10, "labelled_reference": 80, "labelled_compared": 9}
    cohorts = [
        Cohort(**PAIR, block=DAY, mode=mode, slice=name, **counts, share=0.1, digest="sha256:0")
        for mode, name in (("paired", ""), ("split", ""), ("split", "origin=JFK"))
    ]
    with store.write() as tx:
        for cohort in cohorts:
            tx.evidence.add_cohort(cohort)
    with store.read() as tx:
        assert tx.evidence.cohorts(**PAIR, since=DAY, mode="split") == cohorts[1:]

"""The independent checker: it agrees with a true report and names what is false in another one."""

from typing import Any

import check
import polars as pl
import pytest
from check import Records, check_releases, check_requests, merkle_root

from steersman.ledger.merkle import leaf_hash, root_of


def entry(action: str, at: str, **data: Any) -> dict[str, Any]:
    return {"action": action, "at": at, "data": data}


@pytest.fixture
def records() -> Records:
    answers = pl.DataFrame(
        {
            "event_id": ["a", "b", "b", "c"],
            "at": ["2013-03-01T10:00:00"] * 4,
            "version": ["1", "1", "2", "2"],
            "variant": ["stable", "stable", "shadow", "candidate"],
            "score": [0.1, 0.2, 0.3, None],
            "status": [200, 200, 200, 500],
            "request_id": ["r1", "r1", "r1", "r2"],
        }
    ).with_columns(pl.col("at").str.to_datetime(time_zone="UTC"))
    labels = pl.DataFrame({"event_id": ["a", "b"], "at": ["2013-03-02T10:00:00"] * 2, "value": [0.0, 1.0]})
    ledger = [
        entry("release.opened", "2013-03-01T00:00:00.000000Z", release=1, version=1),
        entry("release.completed", "2013-03-02T00:00:00.000000Z", release=1, version=1, completion="Promoted"),
    ]
    with_times = labels.with_columns(pl.col("at").str.to_datetime(time_zone="UTC"))
    return Records(predictions=answers, labels=with_times, ledger=ledger, lines=[], checkpoint="")


def wrong(claims: Any) -> list[str]:
    return [claim.name for claim in claims if claim.wrong]


def test_requests_and_failures_are_counted_in_the_tables(records: Records) -> None:
    assert wrong(check_requests(records, {"requests": 3, "request_failures": 1})) == []
    assert wrong(check_requests(records, {"requests": 2, "request_failures": 0})) == ["requests", "failed requests"]


def test_a_release_told_otherwise_is_named(records: Records) -> None:
    told = {
        "number": 1,
        "version": 1,
        "completion": "Promoted",
        "opened_at": "2013-03-01T00:00:00+00:00",
        "closed_at": "2013-03-02T00:00:00+00:00",
    }
    assert wrong(check_releases(records, {"releases": [told]})) == []
    flattered = told | {"completion": "RolledBack"}
    assert wrong(check_releases(records, {"releases": [flattered]})) == ["release 1 of version 1 completion"]


@pytest.mark.parametrize("size", [0, 1, 2, 3, 7, 8, 13])
def test_its_merkle_root_is_the_ledgers(size: int) -> None:
    lines = [f"entry {number}".encode() for number in range(size)]
    assert merkle_root(lines) == root_of([leaf_hash(line) for line in lines], size)


def test_it_imports_nothing_of_steersman() -> None:
    import ast
    from pathlib import Path

    for module in ("check", "flights", "train", "year"):
        source = Path(check.__file__).with_name(f"{module}.py").read_text()
        for node in ast.walk(ast.parse(source)):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            assert not any(name.startswith("steersman") for name in names), f"{module}.py imports {names}"

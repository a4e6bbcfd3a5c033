"""What a commit promises: where it is kept when the machine loses power, and what a made-up world leaves out of that."""

from pathlib import Path

import pytest
import sqlalchemy as sa

from steersman.store.database import Store

OFF, FULL = 0, 2
"""https://www.sqlite.org/pragma.html#pragma_synchronous"""


def synchronous(store: Store) -> int:
    with store._engine.connect() as connection:
        return int(connection.exec_driver_sql("PRAGMA synchronous").scalar_one())


def test_a_commit_is_on_the_disk_when_it_returns(tmp_path: Path) -> None:
    store = Store.at(tmp_path)
    assert synchronous(store) == FULL
    store.close()


def test_a_made_up_world_does_not_wait_for_the_disk(tmp_path: Path) -> None:
    store = Store.at(tmp_path, durable=False)
    assert synchronous(store) == OFF
    store.close()


@pytest.mark.parametrize("durable", [True, False])
def test_what_was_not_committed_is_not_there_either_way(tmp_path: Path, *, durable: bool) -> None:
    store = Store.at(tmp_path, durable=durable)

    def interrupted() -> None:
        with store.write() as tx:
            tx.put_setting("flavour", "sweet")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    with store.read() as tx:
        assert tx.setting("flavour") is None
    store.close()


def test_a_statement_asked_again_is_the_same_one_and_not_built_anew(tmp_path: Path) -> None:
    """Building a statement costs several times what the database needs to answer it."""
    store = Store.at(tmp_path, durable=False)
    asked: list[object] = []
    sa.event.listen(store._engine, "before_execute", lambda _connection, statement, *_rest: asked.append(statement))
    for _ in range(2):
        with store.read() as tx:
            tx.releases("default", "delay", "production")
            tx.incidents("default", open_only=True)
            tx.document("Model", "default", "delay")
            tx.operations_like("route/")
            tx.verdicts("rel-1", "gate")
            tx.evidence.windows("default", "production", "delay")
    half = len(asked) // 2
    assert half == 6
    assert all(again is first for first, again in zip(asked[:half], asked[half:], strict=True))
    store.close()

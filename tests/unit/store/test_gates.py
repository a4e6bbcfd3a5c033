"""Verdicts that were measured once are found again, and are never more than a bound."""

from pathlib import Path

from steersman.store.database import Store


def test_a_verdict_is_found_under_its_key_and_a_newer_one_takes_its_place(tmp_path: Path) -> None:
    store = Store.at(tmp_path)
    with store.write() as tx:
        tx.gates.keep("a", "1")
        tx.gates.keep("a", "2")
    with store.read() as tx:
        assert tx.gates.kept("a") == "2"
        assert tx.gates.kept("b") is None
    store.close()


def test_the_oldest_go_first(tmp_path: Path) -> None:
    store = Store.at(tmp_path)
    with store.write() as tx:
        for number in range(10):
            tx.gates.keep(str(number), "x", most=3)
        assert [n for n in range(10) if tx.gates.kept(str(n))] == [7, 8, 9]
    store.close()

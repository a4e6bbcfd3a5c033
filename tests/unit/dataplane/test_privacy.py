"""A hash in the log says *the same* or *another*, and nothing else."""

from __future__ import annotations

import threading
from pathlib import Path

from steersman.dataplane import privacy


def test_equal_values_stay_equal_within_a_column_of_a_model_and_nowhere_else() -> None:
    key = bytes(32)
    one = privacy.hashed(key, "ops/m", "who", "N1")
    assert one == privacy.hashed(key, "ops/m", "who", "N1")
    others = [
        privacy.hashed(key, "ops/m", "who", "N2"),
        privacy.hashed(key, "ops/m", "whom", "N1"),
        privacy.hashed(key, "ops/n", "who", "N1"),
        privacy.hashed(b"1" * 32, "ops/m", "who", "N1"),
    ]
    assert len({one, *others}) == 5
    assert len(one) == 32


def test_the_key_is_made_once_whoever_asks_first_and_for_its_owner_only(tmp_path: Path) -> None:
    found: list[bytes] = []
    threads = [threading.Thread(target=lambda: found.append(privacy.load_key(tmp_path))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 1
    assert len(found[0]) == privacy.KEY_BYTES
    assert privacy.key_path(tmp_path).stat().st_mode & 0o777 == 0o600
    assert [path.name for path in (tmp_path / "keys").iterdir()] == ["inference-log.key"]

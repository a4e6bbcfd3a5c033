"""The sequences beside implementations that others wrote, in an environment of their own; with `make soak` only."""

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest

from steersman.stats.bounded import bounded_interval
from steersman.stats.shares import log_wealth_against

ROOT = Path(__file__).parents[3]
PEERS = ROOT / "bench" / "peers"
CONFSEQ = "confseq==0.0.11"

pytestmark = [pytest.mark.soak, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter that has savvi, and what confseq's Python modules import."""
    folder = tmp_path_factory.mktemp("others")
    uv = str(Path(sys.executable).with_name("uv"))
    subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, str(folder)], check=True)
    python = folder / "bin" / "python"
    subprocess.run(
        [uv, "pip", "install", "--quiet", "--python", str(python), "-r", str(PEERS / "sequences.txt")],
        check=True,
        env=dict(os.environ),
    )
    return python


@pytest.fixture(scope="module")
def confseq(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Confseq's source: its wheel does not build without Boost, and these tests need its Python modules only."""
    folder = tmp_path_factory.mktemp("confseq")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", "confseq", CONFSEQ]
    subprocess.run([*command, "--dest", str(folder)], check=True, env=dict(os.environ))
    archive = next(folder.glob("*.tar.gz"))
    with tarfile.open(archive) as source:
        for member in source:
            content, name = source.extractfile(member), Path(member.name)
            if content is not None and not name.is_absolute() and ".." not in name.parts:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes(content.read())
    return folder / archive.name.removesuffix(".tar.gz") / "src"


def test_ours_say_what_confseq_and_savvi_say(python: Path, confseq: Path) -> None:
    rng = np.random.default_rng(17)
    bounded = [rng.beta(2, 5, n).tolist() for n in (5, 50, 200)] + [(rng.random(150) < 0.05).astype(float).tolist()]
    shares = [([100, 910], [0.1, 0.9], 100.0), ([30, 40, 50], [0.25, 0.25, 0.5], 10_000.0)]
    cases = json.dumps({"bounded": bounded, "shares": shares})
    asked = [str(python), str(PEERS / "sequences_oracle.py"), str(confseq)]
    said = json.loads(subprocess.run(asked, input=cases, capture_output=True, text=True, check=True).stdout)
    for values, betting, bernstein in zip(bounded, said["betting"], said["bernstein"], strict=True):
        ours = bounded_interval(len(values), float(np.mean(values)), float(np.std(values, ddof=1)), low=0, high=1)
        for lower, upper in (betting, bernstein):
            assert ours.lower < upper
            assert ours.upper > lower
        # Theirs know the order of the values; ours has sums only, and is yet no wider than their empirical-Bernstein one by much.
        assert ours.upper - ours.lower < 1.3 * (bernstein[1] - bernstein[0])
    for (counts, meant, concentration), log_odds in zip(shares, said["shares"], strict=True):
        assert log_wealth_against(counts, meant, concentration=concentration) == pytest.approx(log_odds, abs=1e-6)

"""What every trainer keeps, whoever wrote it: inherit the suite and say how to make one.

    class TestMyTrainer(TrainerContract):
        def make_trainer(self, state): return MyTrainer(state)

`make_trainer` is called again with the same state to play the control server that comes after a crash. The suite's
commands are `python -c …`, so a trainer under test must be able to run Python.
"""

from __future__ import annotations

import json
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import pytest

from steersman.ports import JobState, Trainer, TrainingJob


class TrainerContract(ABC):
    """Starting, adopting, ending and explaining training runs."""

    ends_within_s: float = 60.0
    """How long a run of a few lines may take on a busy machine."""

    @abstractmethod
    def make_trainer(self, state: Path) -> Trainer: ...

    @pytest.fixture
    def state(self, tmp_path: Path) -> Path:
        state = tmp_path / "state"
        state.mkdir()
        return state

    @pytest.fixture
    def trainer(self, state: Path) -> Trainer:
        return self.make_trainer(state)

    def job(self, folder: Path, code: str, **changes: Any) -> TrainingJob:
        """A job whose `train.py` is `code`; its data is a small file."""
        source = folder / "source"
        source.mkdir(exist_ok=True)
        (source / "train.py").write_text(code)
        data = folder / "data.parquet"
        data.write_bytes(b"rows")
        wanted: dict[str, Any] = {
            "id": "op-1",
            "command": ("python", "train.py"),
            "source": source,
            "data": data,
            "environment": {"STEERSMAN_SEED": "7"},
            "timeout_s": 30.0,
            "memory_mb": 1024,
        }
        return TrainingJob(**{**wanted, **changes})

    def wait_ended(self, trainer: Trainer, job_id: str = "op-1") -> JobState:
        deadline = time.monotonic() + self.ends_within_s
        while (state := trainer.poll(job_id)).state == "running":
            assert time.monotonic() < deadline, f"the run goes on after {self.ends_within_s:.0f} s"
            time.sleep(0.05)
        return state

    def test_a_run_tells_what_it_made_and_is_told_what_it_used(self, trainer: Trainer, tmp_path: Path) -> None:
        code = (
            "import json, os\n"
            "assert open(os.environ['STEERSMAN_DATA']).read() == 'rows'\n"
            "record = {'version': 3, 'seed_seen': os.environ['STEERSMAN_SEED']}\n"
            "open(os.environ['STEERSMAN_RUN_RECORD'], 'w').write(json.dumps(record))\n"
        )
        trainer.ensure(self.job(tmp_path, code))
        state = self.wait_ended(trainer)
        assert state.state == "succeeded", state.because
        assert (state.record["version"], state.record["seed_seen"]) == (3, "7")
        for fact in ("code_digest", "data_digest", "log_digest", "python_version", "cpu_s", "memory_mb_peak"):
            assert state.record[fact]
        assert state.record["exit_code"] == 0
        assert state.record["seed"] == "7"

    def test_the_same_id_is_one_run(self, trainer: Trainer, state: Path, tmp_path: Path) -> None:
        job = self.job(tmp_path, "import time, uuid; print(uuid.uuid4(), flush=True); time.sleep(0.5)")
        trainer.ensure(job)
        trainer.ensure(job)
        self.make_trainer(state).ensure(job)
        self.wait_ended(trainer)
        trainer.ensure(job)
        assert len(trainer.logs("op-1").splitlines()) == 1

    def test_a_new_control_server_adopts_the_run(self, trainer: Trainer, state: Path, tmp_path: Path) -> None:
        job = self.job(tmp_path, "import time; time.sleep(0.8); print('done')")
        trainer.ensure(job)
        after = self.make_trainer(state)
        assert after.poll("op-1").state == "running"
        assert self.wait_ended(after).state == "succeeded"
        assert after.logs("op-1") == "done"

    def test_a_crash_is_explained_by_the_end_of_its_log(self, trainer: Trainer, tmp_path: Path) -> None:
        trainer.ensure(self.job(tmp_path, "print('loading'); raise ValueError('no rows in February')"))
        state = self.wait_ended(trainer)
        assert state.state == "failed"
        assert "exited with code 1" in state.because
        assert "ValueError: no rows in February" in state.because
        assert state.record["exit_code"] == 1

    def test_a_hanging_run_is_ended_at_its_time_out(self, trainer: Trainer, tmp_path: Path) -> None:
        trainer.ensure(self.job(tmp_path, "import time; time.sleep(600)", timeout_s=0.5))
        state = self.wait_ended(trainer)
        assert state.state == "failed"
        assert "time-out of 0.5 s" in state.because

    def test_the_run_uses_the_threads_it_was_given(self, trainer: Trainer, tmp_path: Path) -> None:
        trainer.ensure(self.job(tmp_path, "import os; print(os.environ['OMP_NUM_THREADS'])", threads=3))
        self.wait_ended(trainer)
        assert trainer.logs("op-1") == "3"

    def test_cancelling_ends_the_run(self, trainer: Trainer, tmp_path: Path) -> None:
        trainer.ensure(self.job(tmp_path, "import time; time.sleep(600)"))
        trainer.cancel("op-1")
        state = trainer.poll("op-1")
        assert state.state == "failed"
        assert "cancelled" in state.because

    def test_the_run_sees_only_what_it_was_given(
        self, trainer: Trainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("STEERSMAN_TOKEN", "st_admin_token_of_the_server")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "of-the-server")
        code = "import json, os; print(json.dumps(sorted(os.environ)))"
        trainer.ensure(self.job(tmp_path, code, environment={"MLFLOW_TRACKING_TOKEN": "st_run_token"}))
        self.wait_ended(trainer)
        seen = set(json.loads(trainer.logs("op-1")))
        assert {"MLFLOW_TRACKING_TOKEN", "STEERSMAN_DATA", "STEERSMAN_RUN_RECORD", "OMP_NUM_THREADS"} <= seen
        assert not seen & {"STEERSMAN_TOKEN", "AWS_SECRET_ACCESS_KEY"}

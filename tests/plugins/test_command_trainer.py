"""The trainer `command`: real processes, killed, hung, forked and left alone."""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from steersman.dataplane import priority
from steersman.domain.errors import BadRequest, LimitReached, NotFound
from steersman.plugins.trainers import command
from steersman.plugins.trainers.command import CommandTrainer
from steersman.ports import Trainer
from steersman.testing.trainer_contract import TrainerContract

SLEEPER = "[sys.executable, '-c', 'import time; time.sleep(600)']"


def until(look: Callable[[], Any]) -> Any:
    """What `look` returns as soon as it is true."""
    deadline = time.monotonic() + 30
    while not (found := look()):
        assert time.monotonic() < deadline, "it does not happen"
        time.sleep(0.02)
    return found


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


class TestCommandTrainer(TrainerContract):
    def make_trainer(self, state: Path) -> Trainer:
        return CommandTrainer(state)

    def pids(self, trainer: Trainer, count: int) -> list[int]:
        """Pids the run printed, one a line."""
        until(lambda: len(trainer.logs("op-1").split()) >= count)
        return [int(line) for line in trainer.logs("op-1").split()]

    def test_a_run_outlives_the_control_server_that_started_it(self, state: Path, tmp_path: Path) -> None:
        job = self.job(tmp_path, "import time; time.sleep(1.5); print('done')")
        script = tmp_path / "server.py"
        script.write_text(
            "import os, signal, sys\n"
            "from pathlib import Path\n"
            "import msgspec\n"
            "from steersman.plugins.trainers.command import CommandTrainer\n"
            "from steersman.ports import TrainingJob\n"
            "job = msgspec.json.decode(sys.argv[2], type=TrainingJob, dec_hook=lambda kind, value: kind(value))\n"
            "CommandTrainer(Path(sys.argv[1])).ensure(job)\n"
            "os.kill(os.getpid(), signal.SIGKILL)\n"
        )
        import msgspec

        asked = msgspec.json.encode(job, enc_hook=str).decode()
        died = subprocess.run([sys.executable, str(script), str(state), asked], timeout=60, check=False)
        assert died.returncode == -signal.SIGKILL
        trainer = self.make_trainer(state)
        assert trainer.poll("op-1").state == "running"
        trainer.ensure(job)
        assert self.wait_ended(trainer).state == "succeeded"
        assert trainer.logs("op-1") == "done"

    def test_a_run_leaves_the_processor_to_those_who_serve(self, trainer: Trainer, tmp_path: Path) -> None:
        """Its command leads a session, so the session has to step back with it (`steersman.dataplane.priority`)."""
        group = Path("/proc/self/autogroup")
        code = f"import os; print(os.nice(0), *(open({str(group)!r}).read().split()[2:] if {group.exists()} else ()))"
        trainer.ensure(self.job(tmp_path, code))
        assert self.wait_ended(trainer).state == "succeeded"
        assert trainer.logs("op-1") == " ".join([str(priority.NICE)] * (2 if group.exists() else 1))

    def test_cancelling_ends_grandchildren_even_in_sessions_of_their_own(
        self, trainer: Trainer, tmp_path: Path
    ) -> None:
        code = (
            "import os, subprocess, sys, time\n"
            f"print(subprocess.Popen({SLEEPER}).pid, flush=True)\n"
            f"print(subprocess.Popen({SLEEPER}, start_new_session=True).pid, flush=True)\n"
            "if os.fork() == 0:\n"
            "    os.setsid()\n"
            "    if os.fork() == 0:\n"
            "        print(os.getpid(), flush=True)\n"
            "        time.sleep(600)\n"
            "    os._exit(0)\n"
            "time.sleep(600)\n"
        )
        trainer.ensure(self.job(tmp_path, code))
        pids = self.pids(trainer, 3)
        trainer.cancel("op-1")
        assert [gone(pid) for pid in pids] == [True, True, True]

    def test_what_a_run_leaves_behind_ends_with_it(self, trainer: Trainer, tmp_path: Path) -> None:
        code = f"import subprocess, sys; print(subprocess.Popen({SLEEPER}, start_new_session=True).pid)"
        trainer.ensure(self.job(tmp_path, code))
        assert self.wait_ended(trainer).state == "succeeded"
        assert gone(int(trainer.logs("op-1")))

    def test_a_run_whose_supervision_was_killed_has_failed_and_nothing_of_it_lives(
        self, trainer: Trainer, state: Path, tmp_path: Path
    ) -> None:
        code = f"import os, subprocess, sys, time; print(os.getpid()); print(subprocess.Popen({SLEEPER}).pid); time.sleep(600)"
        trainer.ensure(self.job(tmp_path, code))
        pids = self.pids(trainer, 2)
        os.kill(json.loads((state / "jobs" / "op-1" / "supervisor.json").read_text())["pid"], signal.SIGKILL)
        ended = self.wait_ended(trainer)
        assert ended.state == "failed"
        assert "ended unseen" in ended.because
        assert all(until(lambda pid=pid: gone(pid)) for pid in pids)

    def test_a_run_that_needs_too_much_memory_is_ended(self, trainer: Trainer, tmp_path: Path) -> None:
        code = "import time\nrows = bytearray(200_000_000)\nrows[::4096] = b'x' * len(rows[::4096])\ntime.sleep(60)"
        trainer.ensure(self.job(tmp_path, code, memory_mb=100))
        assert "more than the limit of 100 MB" in self.wait_ended(trainer).because

    def test_an_absurd_allocation_fails_at_once(self, trainer: Trainer, tmp_path: Path) -> None:
        trainer.ensure(self.job(tmp_path, "bytearray(50_000_000_000)", memory_mb=200))
        assert "MemoryError" in self.wait_ended(trainer).because

    def test_a_run_that_spins_is_ended_at_its_cpu_limit(self, trainer: Trainer, tmp_path: Path) -> None:
        trainer.ensure(self.job(tmp_path, "while True: pass", cpu_s=0.5))
        ended = self.wait_ended(trainer)
        assert "was ended by signal" in ended.because
        assert 0.5 < float(str(ended.record["cpu_s"])) < 10

    def test_the_run_cannot_read_keys_or_change_the_state(self, trainer: Trainer, state: Path, tmp_path: Path) -> None:
        (state / "keys").mkdir()
        (state / "keys" / "ledger").write_text("private")
        code = (
            "import sys\n"
            f"for attempt in (lambda: open({str(state / 'keys' / 'ledger')!r}).read(),\n"
            f"                lambda: open({str(state / 'jobs' / 'op-1' / 'result.json')!r}, 'w'),\n"
            "                lambda: open(__file__, 'a')):\n"
            "    try:\n"
            "        attempt()\n"
            "        print('open')\n"
            "    except OSError as error:\n"
            "        print(type(error).__name__)\n"
        )
        trainer.ensure(self.job(tmp_path, code))
        self.wait_ended(trainer)
        if ctypes.CDLL(None).syscall(444, None, ctypes.c_size_t(0), ctypes.c_uint32(1)) < 1:
            pytest.skip("this kernel has no Landlock")
        assert trainer.logs("op-1").split() == ["PermissionError", "PermissionError", "open"]

    def test_a_secret_that_the_command_prints_is_not_in_the_log(self, trainer: Trainer, tmp_path: Path) -> None:
        code = "import os; print('token', os.environ['MLFLOW_TRACKING_TOKEN'])"
        trainer.ensure(self.job(tmp_path, code, environment={"MLFLOW_TRACKING_TOKEN": "st_0123456789"}))
        self.wait_ended(trainer)
        assert trainer.logs("op-1") == "token [secret]"

    def test_no_secret_is_in_any_file_of_the_run(self, trainer: Trainer, state: Path, tmp_path: Path) -> None:
        trainer.ensure(self.job(tmp_path, "print(1)", environment={"MLFLOW_TRACKING_TOKEN": "st_0123456789"}))
        self.wait_ended(trainer)
        for path in (state / "jobs").rglob("*"):
            assert not path.is_file() or b"st_0123456789" not in path.read_bytes(), path

    def test_the_code_that_ran_is_kept_though_its_folder_changes(
        self, trainer: Trainer, state: Path, tmp_path: Path
    ) -> None:
        job = self.job(tmp_path, "open('train.py', 'w').write('changed'); print('first')")
        trainer.ensure(job)
        (job.source / "train.py").write_text("print('second')")
        ended = self.wait_ended(trainer)
        assert trainer.logs("op-1") == "first"
        assert "print('first')" in (state / "jobs" / "op-1" / "source" / "train.py").read_text()
        assert str(ended.record["code_digest"]).startswith("sha256:")

    def test_the_digest_of_the_named_lock_file_is_kept(self, trainer: Trainer, tmp_path: Path) -> None:
        job = self.job(tmp_path, "", lock="pins.txt")
        with pytest.raises(BadRequest, match="is not in the source"):
            trainer.ensure(job)
        (job.source / "requirements.txt").write_text("lightgbm")
        (job.source / "pins.txt").write_text("lightgbm==4.6.0")
        trainer.ensure(job)
        pinned = hashlib.sha256(b"lightgbm==4.6.0").hexdigest()
        assert self.wait_ended(trainer).record["lock_digest"] == f"sha256:{pinned}"

    def test_a_source_with_a_link_that_leads_out_is_refused(self, trainer: Trainer, tmp_path: Path) -> None:
        job = self.job(tmp_path, "print(1)")
        (job.source / "passwords").symlink_to("/etc/passwd")
        with pytest.raises(BadRequest, match="passwords: a link that leads out"):
            trainer.ensure(job)

    def test_a_source_that_is_too_large_is_refused(
        self, trainer: Trainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(command, "SOURCE_BYTES_MAX", 10)
        with pytest.raises(LimitReached, match="keep data and models outside"):
            trainer.ensure(self.job(tmp_path, "print('more than ten bytes')"))

    def test_a_refused_source_can_be_corrected_and_asked_for_again(self, trainer: Trainer, tmp_path: Path) -> None:
        job = self.job(tmp_path, "print('now')")
        (job.source / "link").symlink_to("/etc/hostname")
        with pytest.raises(BadRequest):
            trainer.ensure(job)
        (job.source / "link").unlink()
        trainer.ensure(job)
        assert self.wait_ended(trainer).state == "succeeded"

    def test_a_command_that_does_not_exist_is_named(self, trainer: Trainer, tmp_path: Path) -> None:
        trainer.ensure(self.job(tmp_path, "", command=("no-such-command",)))
        assert "could not be started" in self.wait_ended(trainer).because
        assert "no-such-command" in trainer.poll("op-1").because

    def test_a_record_that_is_no_json_object_fails_the_run(self, trainer: Trainer, tmp_path: Path) -> None:
        trainer.ensure(self.job(tmp_path, "import os; open(os.environ['STEERSMAN_RUN_RECORD'], 'w').write('[1')"))
        ended = self.wait_ended(trainer)
        assert ended.state == "failed"
        assert "no JSON object" in ended.because

    def test_an_unknown_run_is_said_to_be_unknown(self, trainer: Trainer) -> None:
        with pytest.raises(NotFound):
            trainer.poll("op-9")

    def test_an_id_cannot_lead_out_of_the_jobs_folder(self, trainer: Trainer) -> None:
        with pytest.raises(BadRequest):
            trainer.poll("../keys")

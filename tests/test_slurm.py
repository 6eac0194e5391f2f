"""The SLURM script, with stand-ins for SLURM's commands and for torchrun."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.programs import write_command

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "slurm" / "pretrain.sbatch"
STANDINS = {
    # The job's own step runs what it is given; the one that signals is noted, and ends the job as main.py would.
    "srun": 'case "$*" in *pkill*) echo "$*" >> "$LOG/srun"; touch "$LOG/stop" ;; *) exec "$@" ;; esac',
    # Ends as it is told to, or when it is stopped.
    "torchrun": 'echo "$@" > "$LOG/torchrun"; case "$ENDS" in stopped) '
    "for i in $(seq 200); do [ -e \"$LOG/stop\" ] && exit 1; sleep 0.05; done; exit 9 ;; *) exit $ENDS ;; esac",
    "scontrol": 'case "$1" in show) printf "first\\nsecond\\n" ;; *) echo "$@" > "$LOG/scontrol" ;; esac',
}  # fmt: skip


def submit_with_standins(script, options, folder, *, ends=0, restarts=0):
    """Start a job's script as SLURM would, its commands replaced; returns (process, file of torchrun's arguments)."""
    for name, body in STANDINS.items():
        write_command(folder / "bin" / name, body)
    environment = {
        **os.environ, "PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "LOG": str(folder), "ENDS": str(ends),
        "SLURM_JOB_ID": "45001", "SLURM_JOB_NODELIST": "n[1-2]", "SLURM_NNODES": "2", "SLURM_NODEID": "1",
        "SLURM_GPUS_ON_NODE": "4", "SLURM_RESTART_COUNT": str(restarts),
    }  # fmt: skip
    job = subprocess.Popen(["bash", script, *options], env=environment, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    return job, folder / "torchrun"


@pytest.fixture
def submit(tmp_path):
    def start(ends, restarts=0):
        options = ["--d", "3", "--output", "a folder"]
        return submit_with_standins(SCRIPT, options, tmp_path, ends=ends, restarts=restarts)[0]

    return start


def test_a_finished_run_ends_and_its_options_arrive(submit, tmp_path):
    assert submit(0).wait(60) == 0
    words = (tmp_path / "torchrun").read_text()
    assert "--nnodes 2 --node_rank 1 --nproc_per_node 4 --master_addr first --master_port 25001 -- main.py" in words
    assert words.strip().endswith("--d 3 --output a folder --resume auto")
    assert not (tmp_path / "scontrol").exists()


def test_before_the_time_limit_the_run_is_stopped_and_requeued(submit, tmp_path):
    job = submit("stopped")
    deadline = time.monotonic() + 30
    while not (tmp_path / "torchrun").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    job.send_signal(signal.SIGUSR1)
    assert job.wait(60) == 1
    assert "pkill -USR1" in (tmp_path / "srun").read_text()
    assert (tmp_path / "scontrol").read_text().split() == ["requeue", "45001"]


def test_a_lost_node_requeues_but_not_for_ever(submit, tmp_path):
    assert submit(3).wait(60) == 3 and (tmp_path / "scontrol").exists()
    (tmp_path / "scontrol").unlink()
    assert submit(3, restarts=100).wait(60) == 3 and not (tmp_path / "scontrol").exists()


def test_a_job_from_another_folder_is_told_so_and_not_requeued(submit, tmp_path, monkeypatch):
    monkeypatch.setattr("tests.test_slurm.ROOT", tmp_path)
    job = submit(0)
    _, error = job.communicate(timeout=60)
    assert job.returncode == 2 and "expected main.py in" in error and len(error.splitlines()) == 1
    assert not (tmp_path / "scontrol").exists()

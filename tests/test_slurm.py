"""The SLURM script, with stand-ins for SLURM's commands and for torchrun."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
STANDINS = {
    # The job's own step runs what it is given; the one that signals is noted, and ends the job as main.py would.
    "srun": 'case "$*" in *pkill*) echo "$*" >> "$LOG/srun"; touch "$LOG/stop" ;; *) exec "$@" ;; esac',
    # Ends as it is told to, or when it is stopped.
    "torchrun": 'echo "$@" > "$LOG/torchrun"; case "$ENDS" in stopped) '
    "for i in $(seq 200); do [ -e \"$LOG/stop\" ] && exit 1; sleep 0.05; done; exit 9 ;; *) exit $ENDS ;; esac",
    "scontrol": 'case "$1" in show) printf "first\\nsecond\\n" ;; *) echo "$@" > "$LOG/scontrol" ;; esac',
}  # fmt: skip


@pytest.fixture
def submit(tmp_path):
    for name, body in STANDINS.items():
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/usr/bin/env bash\n{body}\n")
        path.chmod(0o755)

    def start(ends, restarts=0):
        environment = {
            **os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "LOG": str(tmp_path), "ENDS": str(ends),
            "SLURM_JOB_ID": "45001", "SLURM_JOB_NODELIST": "n[1-2]", "SLURM_NNODES": "2", "SLURM_NODEID": "1",
            "SLURM_GPUS_ON_NODE": "4", "SLURM_RESTART_COUNT": str(restarts),
        }  # fmt: skip
        command = ["bash", ROOT / "slurm" / "pretrain.sbatch", "--d", "3", "--output", "a folder"]
        return subprocess.Popen(command, env=environment, cwd=ROOT, stderr=subprocess.PIPE, text=True)

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

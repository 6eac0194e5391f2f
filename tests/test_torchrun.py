"""Several processes, as torchrun starts them: for real, over loopback."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.processes import free_port, run_together
from tests.scans import lung, write_scan

ROOT = Path(__file__).parent.parent
SIZES = ["--b", "4", "--ratio", "1.0", "--workers", "0", "--epochs", "2", "--log_every", "1", "--device", "cpu"]
NAME = "pcrlv2_luna_pretask_1.0_2.pt"


@pytest.fixture(scope="module")
def crops(tmp_path_factory):
    """Nine pairs: an uneven list, of which a batch of four drops one."""
    root = tmp_path_factory.mktemp("crops")
    (root / "subset0").mkdir()
    rng = np.random.default_rng(0)
    for i in range(9):
        np.save(root / "subset0" / f"scan_global_{i}.npy", rng.random((2, 8, 16, 8), dtype=np.float32))
        np.save(root / "subset0" / f"scan_local_{i}.npy", rng.random((6, 8, 8, 8), dtype=np.float32))
    return root


def command(script, *options, nodes=1, node=0, processes=2, port=None, restarts=0):
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(processes)]
    launcher += ["--nnodes", str(nodes), "--node_rank", str(node), "--max_restarts", str(restarts)]
    launcher += ["--master_addr", "127.0.0.1", "--master_port", port or free_port()]
    # "--" keeps torchrun from taking --d and --n for the beginnings of options of its own.
    return [*launcher, "--", ROOT / script, *map(str, options)]


def start(arguments):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True)


def finish(process):
    _, error = process.communicate(timeout=240)
    return process.returncode, error


def training(crops, output, *options):
    return ["--data", crops, "--output", output, "--lists", output / "lists", "--d", 3, "--n", "luna", *SIZES, *options]


def weights(output):
    return torch.load(output / NAME)["state_dict"]


def losses(output):
    """(epoch, loss) as recorded, of which a state holds the part of an epoch that is done."""
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return [(line["epoch"], line["total"]) for line in lines]


@pytest.fixture(scope="module")
def unbroken(crops, tmp_path_factory):
    """A run of two processes: (folder, what it printed)."""
    output = tmp_path_factory.mktemp("unbroken")
    status, error = finish(start(command("tests/narrow_main.py", *training(crops, output))))
    assert status == 0, error
    return output, error


def test_only_the_first_process_writes_and_prints(unbroken):
    output, error = unbroken
    assert [error.count(f"epoch {i}:") for i in range(3)] == [1, 1, 1]
    assert [json.loads(line)["epoch"] for line in (output / "metrics.jsonl").read_text().splitlines()] == [0, 1, 2]
    assert len(list((output / "tensorboard").iterdir())) == 1
    assert json.loads((output / "run.json").read_text())["status"] == "finished"
    assert all(value.isfinite().all() for value in weights(output).values())


def test_two_nodes_of_one_process_do_what_two_processes_do(crops, unbroken, tmp_path):
    port = free_port()
    nodes = [
        start(command("tests/narrow_main.py", *training(crops, tmp_path), nodes=2, node=node, processes=1, port=port))
        for node in range(2)
    ]
    assert [finish(node)[0] for node in nodes] == [0, 0]
    expected = weights(unbroken[0])
    for name, value in weights(tmp_path).items():
        torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-6)


def children(process):
    """The processes that a launcher started, by the kernel's own list."""
    found = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return [int(pid) for pid in found]


def test_a_killed_process_is_started_again_and_the_run_ends_alike(crops, unbroken, tmp_path):
    options = training(crops, tmp_path, "--resume", "auto", "--save_minutes", "0")
    process = start(command("tests/narrow_main.py", *options, restarts=2))
    deadline = time.monotonic() + 120
    while not (tmp_path / "state" / "previous.pt").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(children(process)[-1], signal.SIGKILL)
    assert not (tmp_path / NAME).exists(), "killed too late to tell anything"
    status, error = finish(process)
    assert status == 0, error
    expected = weights(unbroken[0])
    assert all(torch.equal(value, expected[name]) for name, value in weights(tmp_path).items())
    assert losses(tmp_path) == losses(unbroken[0])


def test_asked_to_stop_all_processes_leave_at_the_same_step_and_the_run_goes_on(crops, unbroken, tmp_path):
    process = start(command("tests/narrow_main.py", *training(crops, tmp_path)))
    deadline = time.monotonic() + 120
    while not (tmp_path / "state" / "last.pt").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    # A scheduler signals one process of many.
    os.kill(children(process)[-1], signal.SIGUSR1)
    status, error = finish(process)
    assert status != 0 and error.count("resume with --resume auto") == 1 and "exitcode  : 75" in error
    options = training(crops, tmp_path, "--resume", "auto")
    statuses, said = run_together(options, tmp_path, program="tests.narrow_main")
    assert statuses == [0, 0], said
    expected = weights(unbroken[0])
    assert all(torch.equal(value, expected[name]) for name, value in weights(tmp_path).items())
    assert losses(tmp_path) == losses(unbroken[0])


def test_a_batch_that_does_not_divide_is_one_line(crops, tmp_path):
    statuses, said = run_together([*training(crops, tmp_path), "--b", "5"], tmp_path)
    assert statuses == [1, 1]
    assert all("--b: expected a multiple of the 2 processes, got 5" in text for text in said)


def test_preprocessing_is_shared_out(tmp_path):
    for i in range(3):
        (tmp_path / "luna" / f"subset{i}").mkdir(parents=True)
        write_scan(tmp_path / "luna" / f"subset{i}" / f"{i}.mhd", lung((60, 110, 100), seed=i))
    options = ["--data", tmp_path / "luna", "--save", tmp_path / "crops", "--scale", 2, "--workers", 1]
    status, error = finish(start(command("luna_preprocess.py", *options)))
    assert status == 0, error
    manifest = json.loads((tmp_path / "crops" / "manifest.json").read_text())
    assert manifest["pairs"] == 6 and manifest["scans"] == 3

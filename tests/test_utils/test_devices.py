"""Which devices a run takes, on machines with any number of GPUs."""

import pytest
import torch

from utils.devices import choose_devices
from utils.errors import UsageError
from utils.world import World

ONE = World()


@pytest.fixture
def machine(monkeypatch):
    """Makes this machine have so many GPUs."""

    def have(count):
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)

    return have


def choose(device=None, gpus=None, world=ONE):
    return [str(chosen) for chosen in choose_devices(device=device, gpus=gpus, world=world)]


@pytest.mark.parametrize(("count", "expected"), [(1, 1), (3, 3), (4, 4), (8, 4)])
def test_of_0_1_2_3_those_that_exist_are_taken(machine, count, expected):
    machine(count)
    assert choose() == choose("cuda") == [f"cuda:{i}" for i in range(expected)]


def test_typed_indices_are_taken_in_their_order(machine):
    machine(8)
    assert choose(gpus=(5, 0, 7)) == ["cuda:5", "cuda:0", "cuda:7"]
    assert choose("cuda", (6,)) == ["cuda:6"]


def test_a_typed_index_that_is_not_there_is_an_error(machine):
    machine(2)
    with pytest.raises(UsageError, match="--gpus: expected indices from 0 to 1, the GPUs of this machine; got 2"):
        choose(gpus=(0, 2, 3))
    with pytest.raises(UsageError, match="--gpus: .* got -1"):
        choose(gpus=(-1,))
    assert UsageError.exit_status == 2


@pytest.mark.parametrize("gpus", [None, (0, 1, 2, 3), (5,)])
def test_with_no_gpu_at_all_the_cpu_is_taken_and_said(machine, capsys, gpus):
    machine(0)
    assert choose(gpus=gpus) == ["cpu"]
    err = capsys.readouterr().err
    assert "no GPU here: running on the CPU" in err and err.count("\n") == 1
    assert choose(gpus=gpus, world=World(1, 2, 1)) == ["cpu"]
    assert capsys.readouterr().err == "", "one process speaks for all"


def test_a_gpu_that_is_demanded_must_be_there(machine):
    machine(0)
    with pytest.raises(UsageError, match="--device cuda: expected a CUDA GPU, this machine has none; .* --device cpu"):
        choose("cuda")
    with pytest.raises(UsageError, match="--device cuda:0: this machine has 0 GPUs"):
        choose("cuda:0")
    machine(2)
    with pytest.raises(UsageError, match="--device cuda:2: this machine has 2 GPUs"):
        choose("cuda:2")


def test_a_named_device_is_taken(machine, capsys):
    machine(2)
    assert choose("cpu") == choose("cpu", (0, 1)) == choose("cpu", world=World(1, 2, 1)) == ["cpu"]
    assert choose("cuda:1") == ["cuda:1"]
    assert capsys.readouterr().err == "", "a CPU that was asked for needs no warning"


@pytest.mark.parametrize("name", ["gpu", "", "cuda:x", "cuda:-1", "meta", "mps", "cpu0"])
def test_other_devices_are_refused(machine, name):
    machine(2)
    with pytest.raises(UsageError, match=f"--device: expected cpu, cuda or cuda:INDEX, got '{name}'"):
        choose(name)


def test_under_torchrun_each_process_takes_one_gpu_by_its_local_rank(machine):
    machine(6)
    assert [choose(world=World(4 + i, 8, i)) for i in range(6)] == [[f"cuda:{i}"] for i in range(6)]
    assert [choose(gpus=(5, 2), world=World(i, 2, i)) for i in range(2)] == [["cuda:5"], ["cuda:2"]]


def test_more_processes_than_gpus_are_told(machine):
    machine(2)
    with pytest.raises(UsageError, match="torchrun started process 3 on this machine, which has 2 GPUs to use"):
        choose(world=World(2, 3, 2))
    with pytest.raises(UsageError, match="process 2 on this machine, which has 1 GPUs"):
        choose(gpus=(1,), world=World(5, 6, 1))


@pytest.mark.parametrize("device", ["cuda:0", "cuda:1"])
def test_one_gpu_for_all_processes_of_a_machine_is_refused(machine, device):
    machine(2)
    with pytest.raises(
        UsageError, match=f"--device {device}: expected a GPU for each process .* process 2 on this one"
    ):
        choose(device, world=World(1, 2, 1))
    # Two machines with one process each.
    assert choose(device, world=World(1, 2, 0)) == [device]
    assert choose("cuda", world=World(1, 2, 1)) == ["cuda:1"]

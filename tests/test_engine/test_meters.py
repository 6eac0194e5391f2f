"""Running means over the good steps and maxima: their values, after a reset, and after a resume."""

import math

import torch

from engine.meters import Meter, step_numbers

CPU = torch.device("cpu")
GOOD, BAD = torch.zeros(()), torch.ones(())


def add(meter, *values, bad=GOOD):
    for value in values:
        meter.add(step_numbers({"loss": torch.tensor(float(value)), "norm": torch.tensor(10.0 * value)}, bad))


def test_a_reset_forgets_all_steps_before():
    meter = Meter(CPU, maxima=["norm"])
    add(meter, 1, 3)
    assert meter.read() == {"loss": 2, "norm": 20, "norm_max": 30}
    meter.reset()
    add(meter, 7)
    assert meter.read() == {"loss": 7, "norm": 70, "norm_max": 70} and meter.read_steps() == (1, 0)
    meter.reset()
    assert meter.read() == {}


def test_bad_steps_and_numbers_that_are_not_finite_are_left_out():
    meter = Meter(CPU, maxima=["norm"])
    add(meter, 100, bad=BAD)
    assert meter.read() == {"loss": None, "norm": None, "norm_max": None}
    add(meter, 2, 4)
    meter.add(step_numbers({"loss": torch.tensor(math.nan), "norm": torch.tensor(90.0)}, GOOD))
    assert meter.read() == {"loss": 3, "norm": 50, "norm_max": 90} and meter.read_steps() == (3, 1)


def test_a_meter_continues_from_its_state():
    meter, other = Meter(CPU, maxima=["norm"]), Meter(CPU, maxima=["norm"])
    add(meter, 1, 2)
    other.load_state_dict(meter.state_dict())
    for each in (meter, other):
        add(each, 6)
    assert other.read() == meter.read() == {"loss": 3, "norm": 30, "norm_max": 60}

"""Does pre-training help: what is left out is left out, results are kept, the table is right."""

import dataclasses
import json
import math

import pytest
import torch

from benchmarks.transfer import run, tuning
from benchmarks.transfer.__main__ import claim, parse_arguments
from benchmarks.transfer.encoders import RANDOM, encoder_file
from benchmarks.transfer.jobs import Job, all_jobs, run_job
from benchmarks.transfer.kept import keep, read_lines
from benchmarks.transfer.networks import CLASSIFICATION, SEGMENTATION, Network
from benchmarks.transfer.phantoms import draw_phantoms
from benchmarks.transfer.pretraining import VARIANTS, WHOLE, build_optimizer, build_task
from benchmarks.transfer.report import mean_of, summarize, table
from benchmarks.transfer.settings import OPTIMIZERS, Settings
from benchmarks.transfer.supervised import SUPERVISED
from benchmarks.transfer.trials import Trial, all_trials, choose_factors
from benchmarks.transfer.tuning import FACTORS, augment, batches, fit, steps_of
from engine import precision
from models.pcrlv2_model import PCRLv2
from utils.errors import UsageError
from utils.records import RawImages


@pytest.fixture
def tiny(tmp_path):
    return Settings(
        tmp_path,
        images=4,
        epochs=0,
        batch=4,
        labels=8,
        valid=6,
        test=6,
        seeds=1,
        steps=2,
        percents=(50,),
        local_views=1,
        supervised=4,
        supervised_steps=2,
        amp=False,
    )


def test_what_a_phantom_shows_is_what_its_labels_say():
    phantoms = draw_phantoms(6, 64, "test of phantoms")
    assert phantoms.images.shape == (6, 1, 64, 64) and phantoms.images.dtype == torch.uint8
    assert phantoms.nodule[:, 0].tolist() == [0, 1] * 3
    assert (phantoms.masks[:, 1].amax(dim=(1, 2)) == phantoms.nodule[:, 0]).all()
    assert phantoms.masks[:, 0].amax(dim=(1, 2)).all()
    again = draw_phantoms(2, 64, "test of phantoms")
    assert torch.equal(again.images, phantoms.images[:2])
    assert not torch.equal(draw_phantoms(2, 64, "other").images, again.images)


def test_masks_move_with_their_images():
    phantoms = draw_phantoms(4, 64, "moved")
    marked = phantoms._replace(images=(phantoms.masks[:, :1] * 255).to(torch.uint8))
    moved = augment(marked, torch.Generator().manual_seed(0))
    assert torch.equal(moved.images[:, 0], moved.masks[:, 0] * 255)
    assert not torch.equal(moved.masks, phantoms.masks)


def test_few_labels_are_not_seen_too_often():
    settings = Settings(None, steps=240, passes=40)
    assert [steps_of("classification", count, settings) for count in (4, 20, 40, 400)] == [40, 50, 100, 240]
    assert [steps_of("segmentation", count, settings) for count in (4, 20, 40, 400)] == [40, 80, 80, 80]
    seen = torch.cat(list(batches(20, 16, 50, torch.Generator().manual_seed(0))))
    assert seen.bincount().tolist() == [40] * 20


def gradients(variant, settings):
    """Which parts of the network a step of the variant moves, and the step's numbers."""
    torch.manual_seed(0)
    model = PCRLv2(encoder_weights=None)
    task = build_task(model, variant, settings, seed=0)
    images = draw_phantoms(4, 64, "ablation").images
    output = task.step(RawImages(images, torch.tensor([64, 64]).expand(4, 2)), 0, 0)
    output.total.backward()
    moved = {
        "restoration": [model.model.segmentation_head],
        "intermediate_restoration": [stage.deep_supervision_head for stage in model.stages],
        "comparison": [stage.predictor_head for stage in model.stages],
    }

    def any_gradient(modules):
        return any(p.grad is not None and p.grad.abs().sum() > 0 for m in modules for p in m.parameters())

    return {name for name, part in moved.items() if any_gradient(part)}, output.numbers


def test_both_optimizers_are_what_they_are_called(tiny):
    model = torch.nn.Linear(1, 1)
    kinds = {name: type(build_optimizer(model, dataclasses.replace(tiny, optimizer=name))) for name in OPTIMIZERS}
    assert kinds == {"adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}


def test_each_part_that_is_left_out_moves_nothing(tiny):
    everything = {"restoration", "intermediate_restoration", "comparison"}
    expected = {
        "whole method": everything, "no restoration": {"comparison"},
        "no intermediate restoration": {"restoration", "comparison"},
        "no comparison": {"restoration", "intermediate_restoration"}, "no local views": everything,
    }  # fmt: skip
    found = {variant: gradients(variant, tiny) for variant in VARIANTS}
    assert {variant: moved for variant, (moved, _) in found.items()} == expected
    whole = found[WHOLE][1]
    assert whole["total"].item() == pytest.approx(sum(v.item() for k, v in whole.items() if k not in (
        "total", "projection_spread")), rel=1e-4)  # fmt: skip
    local = found["no local views"][1]
    assert local["local_similarity"] == 0 != whole["local_similarity"]
    assert local["total"].item() == pytest.approx(whole["total"].item() - whole["local_similarity"].item(), rel=1e-3)


def test_a_tiny_run_of_every_kind_of_arm_is_kept(tiny):
    made = [encoder_file(encoder, 0, tiny) for encoder in (RANDOM, SUPERVISED, WHOLE)]
    assert made[0] is None and [file.exists() for file in made[1:]] == [True, True]
    times = [file.stat().st_mtime_ns for file in made[1:]]
    wanted = [job for job in all_jobs(tiny) if job.encoder in (RANDOM, SUPERVISED, WHOLE)]
    assert len(wanted) == 12
    for job in wanted:
        keep(tiny.out / run.RESULTS, job, run_job(job, 1.0, tiny))
    assert [file.stat().st_mtime_ns for file in made[1:]] == times
    found = read_lines(tiny.out / run.RESULTS, Job)
    assert set(found) == set(wanted)
    assert all(0 <= value <= 1 for numbers in found.values() for value in numbers.values())
    assert {n for numbers in found.values() for n in numbers} == {"nodule AUROC", "lung Dice", "nodule Dice"}


def test_the_control_learns_from_labels_of_its_own(tiny):
    """Its encoder moves as a whole, and its images are none of those that results are of."""
    before = weights_of(encoder_file(SUPERVISED, 0, dataclasses.replace(tiny, supervised_steps=1)))
    other = dataclasses.replace(tiny, out=tiny.out / "longer", supervised_steps=3)
    after = weights_of(encoder_file(SUPERVISED, 0, other))
    assert all(not torch.equal(after[name], before[name]) for name in before if name.endswith("conv1.weight"))
    its = draw_phantoms(4, 64, SUPERVISED).images
    for purpose in (("labelled", 0), ("validation",), ("held out",), ("unlabelled",)):
        assert not (draw_phantoms(4, 64, *purpose).images == its).flatten(1).all(dim=1).any()


def weights_of(file):
    return torch.load(file)["state_dict"]


@pytest.mark.parametrize("task", [CLASSIFICATION, SEGMENTATION])
def test_a_factor_slows_the_encoder_alone(task, tiny):
    """One step of Adam moves every weight by its rate, whatever the gradient."""
    train, valid = draw_phantoms(4, 64, "slow"), draw_phantoms(4, 64, "judge")
    moved = {}
    for factor in (1.0, 0.1):
        torch.manual_seed(0)
        network = Network(task, tiny.precision)
        before = {name: p.detach().clone() for name, p in network.named_parameters()}
        fit(network, train, valid, steps=1, factor=factor, seed=0)
        moved[factor] = {n: (p.detach() - before[n]).abs().max().item() for n, p in network.named_parameters()}
    for name, distance in moved[1.0].items():
        # The last bias begins at the regions' shares, not where it was.
        if name != "head.0.bias" and distance > 1e-4:
            slower = 0.1 if name.startswith("encoder.") else 1.0
            assert moved[0.1][name] == pytest.approx(slower * distance, rel=0.02), name


def test_weights_are_judged_by_shapes_whatever_their_level(tiny, monkeypatch):
    """A network that marks every region exactly, but never above one half, as after a few steps."""
    phantoms = draw_phantoms(6, 64, "judge")
    monkeypatch.setattr(tuning, "predict", lambda network, images: 0.1 + 0.1 * phantoms.masks)
    verdict = tuning.judge(Network(SEGMENTATION, tiny.precision), phantoms)
    assert verdict.number == pytest.approx(1)
    assert all(0.1 <= level < 0.2 for level in verdict.thresholds.tolist())


def test_each_encoder_chooses_its_own_rate():
    numbers = {
        ("random", 1.0): 0.7, ("random", 0.1): 0.6, ("whole method", 1.0): 0.6, ("whole method", 0.1): 0.8
    }  # fmt: skip
    trials = {Trial(e, "segmentation", 5, f): {"validation": number} for (e, f), number in numbers.items()}
    trials[Trial("random", "segmentation", 10, 0.1)] = {"validation": 0.2}
    assert choose_factors(trials) == {
        ("random", "segmentation", 5): 1.0, ("random", "segmentation", 10): 0.1,
        ("whole method", "segmentation", 5): 0.1,
    }  # fmt: skip


class Here:
    """Jobs in this process."""

    def __init__(self, *_, **__): ...
    def __enter__(self):
        return self

    def __exit__(self, *_): ...

    def map(self, function, *arguments, chunksize=1):
        return map(function, *arguments)


def test_what_is_there_is_not_done_again(tiny, monkeypatch):
    done = []
    monkeypatch.setattr(run, "ProcessPoolExecutor", Here)
    monkeypatch.setattr(run, "encoder_file", lambda *_: None)
    monkeypatch.setattr(run, "run_trial", lambda trial, _: done.append(trial) or {"validation": trial.factor})
    monkeypatch.setattr(run, "run_job", lambda job, factor, _: done.append((job, factor)) or {"lung Dice": 0.5})
    trials, every = all_trials(tiny), all_jobs(tiny)
    assert len(trials) == 6 * len(FACTORS) and len(every) == 20
    keep(tiny.out / run.TRIALS, trials[0], {"validation": 0})
    keep(tiny.out / run.RESULTS, every[0], {"lung Dice": 0.25})
    with open(tiny.out / run.RESULTS, "a") as file:
        file.write('{"of": {"enc')  # as a kill leaves it
    found = run.run_all(tiny, 1)
    best = {(t.encoder, t.task): max(FACTORS) for t in trials[1:]} | {(trials[0].encoder, trials[0].task): FACTORS[1]}
    assert done == trials[1:] + [(job, best.get((job.encoder, job.task), 1.0)) for job in every[1:]]
    assert found[every[0]] == {"lung Dice": 0.25} and len(found) == 20
    assert read_lines(tiny.out / run.RESULTS, Job) == found
    run.run_all(tiny, 1)
    assert len(done) == len(trials) + len(every) - 2


def test_a_cpu_without_bf16_is_told_of_once(monkeypatch, capsys):
    monkeypatch.setattr(precision, "cpu_has_bf16", lambda: False)
    settings, _ = parse_arguments([])
    assert "computing in float32" in capsys.readouterr().err
    assert not settings.amp and settings.precision.dtype == torch.float32
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(precision, "cpu_has_bf16", lambda: True)
    assert parse_arguments([])[0].precision.dtype == torch.bfloat16
    assert not parse_arguments(["--no-amp"])[0].amp


def test_other_settings_are_not_mixed_in(tiny):
    claim(tiny)
    claim(tiny)
    with pytest.raises(UsageError, match="other settings"):
        claim(Settings(tiny.out))


def test_the_table_by_hand():
    numbers = {"random": (0.5, 0.6, 0.7), "whole method": (0.6, 0.7, 0.8)}
    results = {
        Job(encoder, "frozen", "classification", 5, seed): {"nodule AUROC": value}
        for encoder, values in numbers.items() for seed, value in enumerate(values)
    }  # fmt: skip
    random, whole = summarize(results, "random")
    # t(0.975, 2) = 4.3027, s = 0.1
    assert random.mean.value == pytest.approx(0.6)
    assert random.mean.half == pytest.approx(4.3027 * 0.1 / 3**0.5, abs=1e-4)
    assert (
        random.gain is None and whole.gain.value == pytest.approx(0.1) and whole.gain.half == pytest.approx(0, abs=1e-9)
    )
    lines = table([random, whole]).splitlines()
    assert lines[2] == "| nodule AUROC | random | frozen | 0.600 ± 0.248 |"
    assert lines[3] == "| nodule AUROC | whole method | frozen | 0.700 ± 0.248 (+0.100 ± 0.000) |"
    assert math.isnan(mean_of([0.5]).half) and json.dumps(whole.mean._asdict())

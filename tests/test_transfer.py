"""Does pre-training help: what is left out is left out, results are kept, the table is right."""

import json
import math

import pytest
import torch

from benchmarks.transfer import jobs
from benchmarks.transfer.__main__ import claim
from benchmarks.transfer.jobs import RANDOM, Job, all_jobs, keep, read_results
from benchmarks.transfer.phantoms import draw_phantoms
from benchmarks.transfer.pretraining import VARIANTS, WHOLE, build_task, pretrain
from benchmarks.transfer.report import mean_of, summarize, table
from benchmarks.transfer.settings import Settings
from benchmarks.transfer.tuning import augment, batches, steps_of
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
    assert [steps_of("segmentation", count, settings) for count in (4, 20, 40, 400)] == [40, 60, 60, 60]
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


def test_a_tiny_run_of_every_kind_of_arm_is_kept(tiny, monkeypatch):
    file = pretrain(WHOLE, 0, tiny)
    monkeypatch.setattr(jobs, "pretrain", lambda variant, replicate, settings: file)
    wanted = {(j.encoder, j.method, j.task): j for j in all_jobs(tiny) if j.encoder in (RANDOM, WHOLE)}
    assert len(wanted) == 8
    for job in wanted.values():
        keep(tiny.out, job, jobs.run_job(job, tiny))
    found = read_results(tiny.out)
    assert set(found) == set(wanted.values())
    assert all(0 <= value <= 1 for numbers in found.values() for value in numbers.values())
    assert {n for numbers in found.values() for n in numbers} == {"nodule AUROC", "lung Dice", "nodule Dice"}


def test_what_is_there_is_not_done_again(tiny, monkeypatch):
    class Here:
        """Jobs in this process."""

        def __init__(self, *_, **__): ...
        def __enter__(self):
            return self

        def __exit__(self, *_): ...

        def map(self, function, *arguments, chunksize=1):
            return map(function, *arguments)

    done = []
    monkeypatch.setattr(jobs, "ProcessPoolExecutor", Here)
    monkeypatch.setattr(jobs, "pretrain", lambda *_: None)
    monkeypatch.setattr(jobs, "run_job", lambda job, _: done.append(job) or {"lung Dice": 0.5})
    every = all_jobs(tiny)
    keep(tiny.out, every[0], {"lung Dice": 0.25})
    with open(tiny.out / jobs.RESULTS, "a") as file:
        file.write('{"job": {"enc')  # as a kill leaves it
    found = jobs.run_all(tiny, 1)
    assert done == every[1:] and len(every) == 16 and found[every[0]] == {"lung Dice": 0.25}
    assert read_results(tiny.out) == found
    jobs.run_all(tiny, 1)
    assert len(done) == 15


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

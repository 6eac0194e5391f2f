"""The constants of the published program, as docs/reference.md has them: none can change unseen.

What is drawn is tested where it is drawn; a constant that only sounds right, and is not used, fails there.
"""

import math

import numpy as np
import pytest
import torch
from torch import nn

import downstream.finetune
import main
from data import crops, inputs, views2d
from data.catalog import scans, splits
from data.datasets import brats, candidates, lits, segmentation
from data.readers import geometry, volumes
from data.transforms import (
    affine3d,
    blur2d,
    blur3d,
    central_crop,
    cutout,
    hounsfield,
    intensity3d,
    jitter,
    resized_crop,
    rotation2d,
    swap3d,
)  # fmt: skip
from engine import finetune, guard
from engine.finetune import FinetuneTask
from losses import segmentation as segmentation_loss
from losses.segmentation import dice_and_cross_entropy
from models import classification, pcrlv2_model, pcrlv2_model_3d
from models.classification import Classifier
from models.pcrlv2_model_3d import PCRLv23d
from tests.programs import run
from utils import checkpoints, schedules
from utils.errors import UserError

# Where docs/reference.md has it, what it is, ours, published.
CONSTANTS = [
    ("views", "area of 2D global views", views2d.GLOBAL_AREA, (0.3, 1.0)),
    ("views", "area of 2D local views", views2d.LOCAL_AREA, (0.05, 0.3)),
    ("views", "aspect of 2D views", resized_crop.RATIO, (3 / 4, 4 / 3)),
    ("views", "tries of RandomResizedCrop", resized_crop.TRIES, 10),
    ("views", "sides of 2D views and local views of an image", vars(views2d.Views2d()),
     {"global_size": 224, "local_size": 96, "n_local": 6, "cutout_size": 32}),
    ("views", "rotation in 2D, degrees", rotation2d.DEGREES, 10),
    ("views", "blur in 2D: how often, σ in pixels", (blur2d.PROBABILITY, blur2d.SIGMA), (0.5, (0.1, 2.0))),
    ("views", "jitter of brightness and contrast", jitter.STRENGTH, 0.4),
    ("views", "squares cut out, and their side", (cutout.SQUARES, cutout.SIDE), (3, 32)),
    ("views", "ImageNet's mean", views2d.MEAN, (0.485, 0.456, 0.406)),
    ("views", "ImageNet's standard deviation", views2d.STD, (0.229, 0.224, 0.225)),
    ("views", "scale in 3D", affine3d.SCALES, (0.9, 1.1)),
    ("views", "rotation in 3D, degrees", affine3d.DEGREES, (-10, 10)),
    ("views", "largest σ of the blur in 3D, voxels", blur3d.LARGEST_SIGMA, 2),
    ("views", "largest σ of noise", intensity3d.LARGEST_NOISE, 0.25),
    ("views", "logarithm of gamma", intensity3d.LOG_GAMMA, 0.3),
    ("views", "swaps and their patches", (swap3d.SWAPS, swap3d.PATCH), (100, (8, 4, 4))),
    ("networks", "channels of the 2D decoder", pcrlv2_model.DECODER_CHANNELS, (256, 128, 64, 32, 16)),
    ("networks", "groups of GroupNorm", pcrlv2_model_3d.GROUPS, 8),
    ("loss", "epochs over which β fades", schedules.FADE_EPOCHS, 240),
    ("training", "largest loss, after which epoch", (guard.LARGEST_LOSS, guard.LARGEST_LOSS_AFTER_EPOCH), (1000, 10)),
    ("training", "when weights are written", (checkpoints.EVERY_EPOCHS, checkpoints.PUBLISHED_LAST_EPOCH), (100, 240)),
    ("crop pairs", "spacing, mm, and HU outside", (geometry.SPACING, volumes.OUTSIDE), (1, 0)),
    ("crop pairs", "HU that become 0 and 1", (hounsfield.LOWEST, hounsfield.HIGHEST), (-1000, 1000)),
    ("crop pairs", "global boxes", crops.GLOBAL_SIZES.tolist(),
     [[96, 96, 64], [96, 96, 96], [112, 112, 64], [64, 64, 32]]),
    ("crop pairs", "local boxes", crops.LOCAL_SIZES.tolist(), [[32, 32, 16], [16, 16, 16], [32, 32, 32], [8, 8, 8]]),
    ("crop pairs", "voxels of crops", (crops.SHAPE, crops.LOCAL_SHAPE, crops.N_LOCAL), ((64, 64, 32), (16, 16, 16), 6)),
    ("crop pairs", "voxels from the border", crops.BORDER.tolist(), [70, 70, 15]),
    ("crop pairs", "where x has no room, smaller by", crops.SMALLER.tolist(), [32, 32, 0]),
    ("crop pairs", "slices cut behind a box", crops.EXTRA_SLICES, 3),
    ("crop pairs", "least intersection over union", crops.LEAST_IOU, 0.3),
    ("crop pairs", "tissue: from which value, and at most", (crops.TISSUE, crops.MAX_TISSUE), (850 / 2000, 0.15)),
    ("crop pairs", "how far outside local crops may start", crops.LOCAL_MARGIN, 3),
    ("crop pairs", "subsets that validate", list(scans.VALID_SUBSETS), [7, 8, 9]),
    ("fine-tuning", "epochs after which the rate is halved", finetune.HALVED_EVERY, 50),
    ("fine-tuning", "dropout", classification.DROPOUT, 0.2),
    ("fine-tuning", "area of crops, RandomResizedCrop's own", inputs.AREA, (0.08, 1.0)),
    ("fine-tuning", "what evaluation resizes to for a side of 224", 224 * central_crop.MARGIN, 256),
    ("fine-tuning", "share of cross-entropy beside Dice", segmentation_loss.CROSS_ENTROPY_WEIGHT, 0.2),
    ("fine-tuning", "crops of BraTS", segmentation.CROPS["brats"], (112, 128, 112)),
    ("fine-tuning", "labels of BraTS's regions", {r.name: r.labels for r in brats.BRATS_REGIONS},
     {"WT": (1, 2, 4), "TC": (1, 4), "ET": (4,)}),
    ("fine-tuning", "channels of BraTS, in any order", sorted(brats.MODALITIES), ["flair", "t1", "t1ce", "t2"]),
    ("ours", "shares of patients that validate and test", (splits.VALID_SHARE, splits.TEST_SHARE), (0.1, 0.2)),
    ("ours", "labels of LiTS's liver", [r.labels for r in lits.LITS_REGIONS], [(1, 2)]),
    ("ours", "cubes about nodule candidates", candidates.CUBE, (48, 48, 32)),
]  # fmt: skip


@pytest.mark.parametrize(("ours", "published"), [c[2:] for c in CONSTANTS], ids=[f"{c[0]}: {c[1]}" for c in CONSTANTS])
def test_constants_are_the_published_ones(ours, published):
    assert ours == pytest.approx(published) if isinstance(published, float) else ours == published


def test_both_schedules_are_half_a_cosine():
    for epoch in (0, 1, 60, 119, 180, 239, 240):
        expected = 0.5 * (1 + math.cos(math.pi * epoch / 240))
        assert schedules.restoration_weight(epoch) == pytest.approx(expected, abs=1e-12)
        assert schedules.learning_rate(epoch, 240, 1e-2) == pytest.approx(1e-2 * expected, abs=1e-12)
    # The rate follows the last epoch of a run; β does not.
    assert schedules.learning_rate(50, 100, 1e-3) == pytest.approx(0.5e-3)


class Step(nn.Module):
    """As much of a fine-tuning step as the task asks for."""

    def __init__(self):
        super().__init__()
        self.model = nn.Linear(2, 1)


def test_the_rate_of_fine_tuning_is_halved_every_50_epochs():
    task = FinetuneTask(Step(), make_inputs=None, loss=None, validate=None, lr=1e-4, seed=0)
    expected = {0: 1.0, 1: 1.0, 7: 1.0, 49: 1.0, 50: 0.5, 99: 0.5, 100: 0.25, 149: 0.25, 150: 0.125}
    assert {epoch: task.learning_rate(epoch, 0.5) / 1e-4 for epoch in expected} == pytest.approx(expected)


class Ones(nn.Module):
    def forward(self, x):
        return [torch.ones(len(x), 512, 2, 2)]


def test_a_fifth_of_the_features_is_dropped_before_the_last_layer_and_in_training_alone():
    torch.manual_seed(0)
    model = Classifier(Ones(), 1)
    seen = []
    model.head.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    model.train()(torch.zeros(50, 1))
    model.eval()(torch.zeros(50, 1))
    trained, evaluated = seen
    # Five standard deviations of 25,600 draws.
    assert abs((trained == 0).double().mean().item() - 0.2) < 0.0125
    assert torch.equal(trained.unique(), torch.tensor([0, 1.25])) and (evaluated == 1).all()


def test_cross_entropy_counts_a_fifth_beside_dice():
    logits, masks = torch.tensor([[[2.0, -1.0]], [[0.5, 3.0]]]), torch.tensor([[[1, 0]], [[0, 1]]])
    p, t = logits.sigmoid().flatten(), masks.flatten().float()
    dice = 1 - (2 * (p * t).sum() + 1) / (p.sum() + t.sum() + 1)
    entropy = -(t * p.log() + (1 - t) * (1 - p).log()).mean()
    assert dice_and_cross_entropy(logits, masks).item() == pytest.approx((dice + 0.2 * entropy).item(), rel=1e-5)


def test_boxes_of_crop_pairs_keep_70_and_15_voxels_from_the_border_and_overlap_by_more_than_0_3():
    shape, rng = (300, 290, 170), np.random.default_rng(0)
    pairs = np.concatenate([crops.draw_pairs(crops.find_limits(shape), rng) for _ in range(150)])
    boxes = pairs.reshape(-1, 2, 3, 2)
    low, high = boxes[..., 0].min(axis=(0, 1)), boxes[..., 1].max(axis=(0, 1))
    # Three slices behind each box serve the count of tissue.
    assert (low >= [70, 70, 15]).all() and (low <= [72, 72, 17]).all()
    assert (high <= [230, 220, 152]).all() and (high >= [228, 218, 150]).all()
    overlap = (np.minimum(*boxes[..., 1].transpose(1, 0, 2)) - np.maximum(*boxes[..., 0].transpose(1, 0, 2))).prod(
        axis=1
    )
    volume = (boxes[..., 1] - boxes[..., 0]).prod(axis=2)
    shares = overlap / (volume.sum(axis=1) - overlap)
    assert 0.3 < shares.min() < 0.31


def test_local_crops_start_within_3_voxels_of_the_pair_and_have_all_sizes():
    pair, rng = np.array([[80, 176, 90, 186, 40, 104], [100, 164, 80, 144, 30, 62]]), np.random.default_rng(1)
    boxes = np.concatenate([crops.draw_locals(pair, (300, 300, 150), rng) for _ in range(800)]).reshape(-1, 3, 2)
    starts, sizes = boxes[..., 0], boxes[..., 1] - boxes[..., 0]
    assert (starts.min(axis=0) == [77, 77, 27]).all() and (starts.max(axis=0) == [178, 188, 106]).all()
    found, counts = np.unique(sizes, axis=0, return_counts=True)
    assert found.tolist() == [[8, 8, 8], [16, 16, 16], [32, 32, 16], [32, 32, 32]]
    # Six standard deviations of a fourth of 4,800.
    assert len(boxes) == 4800 and abs(counts / 4800 - 0.25).max() < 6 * (0.25 * 0.75 / 4800) ** 0.5


@pytest.mark.parametrize("box", [(64, 64, 32), (80, 80, 64)])
def test_15_percent_of_a_box_may_be_tissue_from_minus_150_hu_on(box):
    """As many voxels of the resized crop as 15 % of the box has, as drawn; −151 HU is no tissue."""
    x, y, z = box
    most = 0.15 * x * y * z / (64 * 64)  # slices of the resized crop, all of whose voxels are tissue
    for slices, kept in ((math.floor(most) - 1, True), (math.ceil(most) + 1, False)):
        volume = np.full((x, y, z + 3), -151, dtype=np.int16)
        volume[:, :, : round(slices * (z + 3) / 35)] = -149
        assert (crops.cut_global(volume, (0, x, 0, y, 0, z), (64, 64, 32)) is not None) == kept
    assert crops.cut_global(np.full((x, y, z + 3), -151, dtype=np.int16), (0, x, 0, y, 0, z), (64, 64, 32)) is not None


def test_the_3d_network_has_the_published_widths():
    widths = [stage.ops[1].conv1.out_channels for stage in list(PCRLv23d().children())[:4]]
    assert widths == [64, 128, 256, 512]
    assert sum(p.numel() for p in PCRLv23d().parameters()) / 1e6 == pytest.approx(17.11, abs=0.01)


@pytest.mark.parametrize("phase", ["pretask", "finetune"])
def test_pre_training_has_sgd_with_momentum_and_fine_tuning_adam(nih, tmp_path, monkeypatch, capsys, phase):
    made = []

    class NoTrainer:
        def __init__(self, task, *, optimizer, **rest):
            made.append((optimizer, [group["lr"] for group in optimizer.param_groups], rest["epochs"]))

        def fit(self, state):
            raise UserError("caught before the first step")

    for module in (main, downstream.finetune):
        monkeypatch.setattr(module, "Trainer", NoTrainer)
    data = ["--data", nih, "--output", tmp_path / "out", "--n", "chest", "--d", 2, "--b", 2, "--workers", 0]
    options = {
        "pretask": ["--encoder_weights", "none", "--lr", 1e-2, "--epochs", 240],
        "finetune": ["--phase", "finetune", "--weight", "none", "--ratio", 0, "--lr", 1e-4, "--epochs", 100],
    }[phase]
    status, error = run(monkeypatch, capsys, *data, *options)
    assert status == 1 and "caught before the first step" in error
    ((optimizer, rates, epochs),) = made
    (group,) = optimizer.param_groups
    if phase == "pretask":
        assert type(optimizer) is torch.optim.SGD and rates == [1e-2] and epochs == 240
        plain = {"momentum": 0.9, "weight_decay": 1e-4, "dampening": 0, "nesterov": False, "maximize": False}
    else:
        assert type(optimizer) is torch.optim.Adam and rates == [1e-4] and epochs == 100
        plain = {"betas": (0.9, 0.999), "weight_decay": 0, "amsgrad": False, "maximize": False}
    assert {name: group[name] for name in plain} == plain

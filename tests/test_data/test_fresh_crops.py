"""Whole volumes and the crops that epochs draw of them: the same rules, a function of seed, epoch and sample."""

import itertools
import json

import numpy as np
import pytest
import torch

import luna_preprocess
from data.catalog.list_folders import ListFolders
from data.crops import find_limits
from data.datasets.pretraining import open_dataset
from data.fresh_crops import FreshCrops
from data.loader import Loader
from data.pairs import CropSettings, make_pairs
from data.readers.volumes import load_resampled
from tests.narrow_main import NarrowPCRLv23d
from tests.programs import keep_state, run
from tests.scans import lung, write_scan
from utils.errors import UserError
from utils.seeding import numpy_generator

SMALL = ["--input_rows", "16", "--input_cols", "24", "--input_deps", "8", "--scale", "3", "--workers", "1"]
SPACING = (1.375, 1.25, 1.125)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("scans")
    for i in range(2):
        write_scan(root / f"scan {i}.mhd", lung((60 + 5 * i, 110, 100), seed=i), spacing=SPACING)
    write_scan(root / "short.mhd", lung((20, 110, 100)), spacing=SPACING)
    return root


def preprocess(data, save, *options):
    return luna_preprocess.main(["--data", str(data), "--save", str(save), *SMALL, *map(str, options)])


@pytest.fixture(scope="module")
def volumes(data, tmp_path_factory):
    save = tmp_path_factory.mktemp("volumes")
    assert preprocess(data, save, "--volumes") == 0
    return save


def open_fresh(save, lists, *, seed=5, **options):
    dataset = open_dataset(name="folder", root=save, lists=ListFolders.at(lists), ratio=1.0, seed=0, dim=3, **options)
    return FreshCrops(dataset, seed=seed)


def test_whole_volumes_are_kept_and_made_once(data, volumes, capsys):
    files = {f"{name}{end}" for name in ("scan 0", "scan 1", "short") for end in ("_volume.npy", ".json")}
    assert {path.name for path in volumes.iterdir()} == files | {"manifest.json"}
    for i in range(2):
        kept = np.load(volumes / f"scan {i}_volume.npy", mmap_mode="r")
        assert kept.dtype == np.int16 and np.array_equal(kept, load_resampled(data / f"scan {i}.mhd"))
        assert kept.flags.f_contiguous, "x is contiguous: several times as fast to cut"
    short = np.load(volumes / "short_volume.npy")
    assert short.shape[2] == 35 and (short[:, :, 23:] == -1000).all() and (short[:, 50:, 5] > -1000).any()
    assert preprocess(data, volumes, "--volumes") == 0
    error = capsys.readouterr().err
    assert "3 of 3 scans are finished already" in error and "9 pairs in an epoch of 3 scans" in error


def test_crops_are_those_of_the_rules_at_the_boxes_drawn(volumes, tmp_path):
    fresh = open_fresh(volumes, tmp_path)
    assert len(fresh) == 9 and fresh.name(4) == "scan 1 pair 1"
    volume = np.load(volumes / "scan 1_volume.npy")
    settings = CropSettings((16, 24, 8), (1, 1), 1, 0, "float32")
    rng = numpy_generator(5, "fresh crops", 7, "scan 1 pair 1")
    ((pair, local),) = make_pairs(volume, find_limits(volume.shape), settings, rng)
    drawn = fresh.draw(7, 4)
    assert np.array_equal(drawn[0], pair) and np.array_equal(drawn[1], local)
    assert pair.shape == (2, 16, 24, 8) and local.shape == (6, 16, 16, 16) and 0 <= pair.min() < pair.max() <= 1


def test_every_epoch_pair_and_seed_has_its_own_boxes_and_the_same_again(volumes, tmp_path):
    fresh, other = open_fresh(volumes, tmp_path), open_fresh(volumes, tmp_path, seed=6)
    drawn = [fresh.draw(epoch, index)[0] for epoch in (0, 1) for index in (0, 1, 3)] + [other.draw(0, 0)[0]]
    assert not any(torch.equal(one, another) for one, another in itertools.combinations(drawn, 2))
    assert torch.equal(open_fresh(volumes, tmp_path).draw(1, 3)[0], drawn[5])
    assert torch.equal(fresh[1][0], drawn[1])
    batches = [[batch.pair for batch in Loader(fresh, batch_size=4, workers=w, seed=1).batches(3)] for w in (0, 1)]
    assert len(batches[0]) == 2 and all(torch.equal(*pair) for pair in zip(*batches, strict=True))


def test_the_settings_of_preprocessing_hold(data, volumes, tmp_path):
    """Tissue, sizes and number of pairs come from the records; other ones are another list of samples."""
    save = tmp_path / "bone"
    save.mkdir()
    bone = np.full((60, 130, 120), 700, np.int16)
    bone[:, :2] = -1000
    write_scan(tmp_path / "bone.mhd", bone, spacing=SPACING)
    assert preprocess(tmp_path, save, "--volumes") == 1, "no pair has little enough tissue"
    assert not list(save.glob("*.npy"))
    assert preprocess(tmp_path, save, "--volumes", "--tissue", "none", "--scale", 5, "--exclude") == 0
    fresh = open_fresh(save, tmp_path / "lists")
    assert len(fresh) == 5 and fresh.draw(0, 0)[0].max() > 0.8
    assert fresh.settings[0].tissue is None and fresh.settings[0].volumes
    record = json.loads((save / "bone.json").read_text())
    record["settings"]["tissue"] = 0.15
    (save / "bone.json").write_text(json.dumps(record))
    other = open_fresh(save, tmp_path / "lists")
    assert other.fingerprint != fresh.fingerprint
    with pytest.raises(UserError, match=r"bone_volume.npy: expected a crop pair in epoch 2, found none"):
        other.draw(2, 0)


def test_luna16s_subsets_keep_their_splits_and_brats_its_patients(tmp_path, capsys):
    for folder in ("subset0", "subset8", "HGG/p1"):
        (tmp_path / "luna" / folder).mkdir(parents=True)
        write_scan(tmp_path / "luna" / folder / "a_t1.mhd", lung((60, 110, 100)), spacing=SPACING)
    (tmp_path / "luna" / "subset8" / "a_t1.mhd").rename(tmp_path / "luna" / "subset8" / "b.mhd")
    assert preprocess(tmp_path / "luna", tmp_path / "crops", "--volumes") == 0
    settings = {"root": tmp_path / "crops", "lists": ListFolders.at(tmp_path), "ratio": 1.0, "seed": 0}
    luna = open_dataset(name="luna", **settings)
    assert [volume.scan for volume in luna.volumes] == ["a_t1"]
    assert "1 scans in subset7 to subset9 are for validation" in capsys.readouterr().err
    assert FreshCrops(luna, seed=1).draw(0, 2)[0].shape == (2, 16, 24, 8)
    assert preprocess(tmp_path / "luna" / "HGG", tmp_path / "brats", "--volumes", "--exclude") == 0
    brats = open_dataset(name="brats", **settings | {"root": tmp_path / "brats"})
    assert [volume.scan for volume in brats.volumes] == ["p1"]


def test_wrong_folders_of_volumes_are_one_line(data, volumes, tmp_path):
    save = tmp_path / "save"
    assert preprocess(data, save, "--volumes", "--scale", 2) == 0
    (save / "short.json").rename(save / "elsewhere")
    with pytest.raises(UserError, match="short_volume.npy: expected a record beside it, found none; run luna_pre"):
        open_fresh(save, tmp_path / "lists")
    record = json.loads((volumes / "short.json").read_text())
    (save / "short.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match=r"short_volume.npy: expected 2 pairs of \(16, 24, 8\) .* has 3 of"):
        open_fresh(save, tmp_path / "lists")
    (save / "elsewhere").rename(save / "short.json")
    fresh = open_fresh(save, tmp_path / "lists")
    np.save(save / "scan 0_volume.npy", np.zeros((9, 9, 9)))
    with pytest.raises(UserError, match="scan 0_volume.npy: expected int16 voxels"):
        fresh.draw(0, 0)
    (save / "scan 0_volume.npy").write_bytes(b"cut")
    with pytest.raises(UserError, match="scan 0_volume.npy: expected an array of a volume"):
        fresh.draw(0, 0)
    # Crops where there were volumes replace them, scan by scan; until then both are there.
    np.save(save / "x_global_0.npy", np.zeros(3))
    with pytest.raises(UserError, match=r"holds both \(x_global_0.npy, scan 0_volume.npy\); give one"):
        open_fresh(save, tmp_path / "lists")
    (save / "x_global_0.npy").unlink()
    assert preprocess(data, save) == 0 and not list(save.glob("*_volume.npy")) and len(list(save.glob("*_0.npy"))) == 6
    assert preprocess(data, save, "--volumes") == 0 and len(list(save.glob("*.npy"))) == 3


def test_a_run_on_fresh_crops_that_is_killed_resumes_as_one_that_never_was(volumes, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("main.PCRLv23d", NarrowPCRLv23d)
    options = [
        "--data", volumes, "--n", "folder", "--d", 3, "--b", 4, "--ratio", 1.0, "--workers", 0, "--epochs", 1,
        "--swaps", 2, "--no-amp", "--lists", tmp_path / "lists", "--picture_every", 100, "--save_minutes", 0,
    ]  # fmt: skip
    middle = keep_state(monkeypatch, tmp_path / "middle.pt", at=(1, 1))
    assert run(monkeypatch, capsys, *options, "--output", tmp_path / "whole")[0] == 0
    assert run(monkeypatch, capsys, *options, "--output", tmp_path / "resumed", "--resume", middle)[0] == 0
    name = "pcrlv2_folder_pretask_1.0_1.pt"
    whole, resumed = (torch.load(tmp_path / run / name)["state_dict"] for run in ("whole", "resumed"))
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)
    status, error = run(monkeypatch, capsys, *options, "--output", tmp_path / "x", "--resume", middle, "--seed", 3)
    assert status == 2 and "seed" in error

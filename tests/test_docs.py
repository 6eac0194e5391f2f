"""What README and docs show is run as it is typed, on small made-up data, with options behind that make it small.

A command, a placeholder or a kind of code block that is not known here fails: add it to the tables below.
"""

import argparse
import contextlib
import json
import re
import shlex
import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from PIL import Image
from torch.distributed.run import parse_args as parse_torchrun

import luna_preprocess
from benchmarks.evidence.phantoms import PHANTOMS
from data.catalog.labels import CHEXPERT_FINDINGS
from data.datasets.brats import BRATS_SUFFIXES
from data.phantoms.dataset import make_ct, make_xrays
from data.preprocess import PRETRAINED, Preprocessing
from downstream.tuned import TunedNetwork
from models.pcrlv2_model import PCRLv2
from models.pcrlv2_model_3d import PCRLv23d
from tests.dicom_files import dicom_bytes
from tests.dicom_slices import write_series
from tests.masked_images import make_masked_images
from tests.narrow_main import NarrowPCRLv23d
from tests.processes import free_port, start
from tests.programs import replay, run_script
from tests.scans import lung
from tests.test_slurm import submit_with_standins
from utils.checkpoints import RECORD, save_checkpoint
from utils.installed import lacks

ROOT = Path(__file__).parent.parent
PAGES = [
    page
    for page in (
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        *ROOT.glob("docs/*.md"),
        *ROOT.glob("train_val_txt/*.md"),
    )
    if page.name != "CHANGELOG.md"
]
# First words of commands; code that begins with another word is no command.
COMMANDS = (
    "bash",
    "cd",
    "docker",
    "git",
    "pip",
    "python",
    "sbatch",
    "sh",
    "source",
    "srun",
    "tensorboard",
    "torchrun",
    "uv",
)
SHELL, PYTHON, TEXT = ("", "bash", "sh", "shell", "console"), ("python",), ("text", "bibtex", "yaml", "json")


# Reading the pages.


def blocks(page):
    """(language, content) of each fenced block."""
    return re.findall(r"^```(\w*)\n(.*?)^```", page.read_text("utf-8"), re.MULTILINE | re.DOTALL)


def words_of(line):
    """A line as a shell splits it, without prompt, comment and "..." for options that were shown before."""
    return [word for word in shlex.split(line.removeprefix("$ "), comments=True) if word != "..."]


def shown_commands():
    """Every command of every page, once: of blocks, and of code within a line that has arguments."""
    found = {}
    for page in PAGES:
        text = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
        lines = [code for code in re.findall(r"`([^`\n]+)`", text) if " " in code and code.split()[0] in COMMANDS]
        for language, content in blocks(page):
            if language in SHELL and not is_listing(content):
                lines += content.replace("\\\n", " ").splitlines()
        for line in lines:
            if words := words_of(line):
                found.setdefault(shlex.join(words), page.relative_to(ROOT))
    return [pytest.param(shlex.split(command), id=f"{page}: {command}") for command, page in found.items()]


def is_listing(content):
    """Whether a block shows the tree of files and not what to type."""
    first_words = {line.split()[0] for line in content.splitlines() if line.strip()}
    return "main.py" in first_words and not first_words & set(COMMANDS)


def snippets():
    return [
        pytest.param(content, id=f"{page.relative_to(ROOT)}: {content.strip().splitlines()[-1]}")
        for page in PAGES for language, content in blocks(page) if language in PYTHON and ".pt" in content
    ]  # fmt: skip


def test_pages_show_every_picture_and_no_other():
    shown = {
        (page.parent / name).resolve()
        for page in PAGES
        for name in re.findall(r"!\[[^\]]*\]\(([^):]+)\)", page.read_text("utf-8"))
    }
    assert shown == {picture.resolve() for picture in (ROOT / "docs").glob("*.png")}


def test_every_block_is_of_a_known_kind():
    for page in PAGES:
        for language, content in blocks(page):
            assert language in (*SHELL, *PYTHON, *TEXT), f"{page}: a block of {language!r}:\n{content}"
    assert len(shown_commands()) > 20 and len(snippets()) >= 3


# The data that placeholders stand for, each under its own name in one folder.

# Those with volumes smaller than the boxes of preprocessing.
TINY = ("DICOM_DIR", "MRI_DIR", "ABDOMEN_DIR", "NNUNET_DIR", "BRATS18", "BRATS20", "BRATS21", "BRATS23", "LITS17")


def write_chexpert(root):
    rng, rows = np.random.default_rng(0), []
    for patient in range(24):
        name = f"train/patient{patient:05}/study1/view1_frontal.jpg"
        (root / name).parent.mkdir(parents=True)
        Image.fromarray(rng.integers(0, 255, (50, 41), dtype=np.uint8)).save(root / name)
        labels = [("", "0.0", "1.0", "-1.0")[(patient + k) % 4] for k in range(len(CHEXPERT_FINDINGS))]
        rows.append(f"CheXpert-v1.0-small/{name},{','.join(labels)}")
    (root / "train.csv").write_text("\n".join([",".join(("Path", *CHEXPERT_FINDINGS)), *rows]) + "\n")


def write_own_xrays(folder):
    """X-rays in the layouts that docs/data.md shows for --n folder, MIMIC-CXR without its labels.csv."""
    pixels, rows = np.random.default_rng(0), {name: [] for name in ("xray", "padchest", "rsna", "chexpert", "metadata")}

    def write(path, kind):
        image = pixels.integers(0, 4000, (40, 37)).astype(np.uint16)
        extra = [(0x00185101, "CS", "PA"), (0x00100020, "LO", f"of {path.stem}")]
        path.parent.mkdir(parents=True, exist_ok=True)
        if kind == "dicom":
            path.write_bytes(dicom_bytes(image, stored=12, photometric="MONOCHROME1", extra=extra))
        else:
            Image.fromarray(image if kind == "deep" else (image // 16).astype(np.uint8)).save(path)

    for i in range(24):
        label, patient = i // 2 % 2, f"{i // 2:03}"
        ending = (".png", ".tif", ".jpeg", "")[i % 4]
        write(folder / "XRAY_DIR" / patient / f"IM{i}{ending}", "flat" if ending else "dicom")
        rows["xray"].append(f"IM{i},{'' if i % 5 == 0 else label},remark")
        write(folder / "PADCHEST_DIR" / str(i % 3) / f"{i}.png", "deep")
        rows["padchest"].append(f"{i}.png,{patient},{('PA', 'AP', 'L')[i % 3]},{label}")
        write(folder / "RSNA_DIR" / "stage_2_train_images" / f"r{i}.dcm", "dicom")
        rows["rsna"].append(f"r{i},{12.5 if label else ''},{label}")
        write(folder / "VINDR_DIR" / ("train" if i % 3 else "test") / f"v{i}.dicom", "dicom")
        write(folder / "MIMIC_DIR" / "files" / "p10" / f"p{patient}" / f"s{i}" / f"m{i}.jpg", "flat")
        rows["chexpert"].append(f"{patient},{i},{label}.0,-1.0,,0.0,1.0")
        rows["metadata"].append(f"m{i},{patient},{i},{('PA', 'AP', 'LATERAL')[i % 3]}")
    findings = "Atelectasis,Cardiomegaly,Edema,Pleural Effusion,Pneumothorax"
    for path, columns, kind in (
        ("XRAY_DIR/labels.csv", "file,ill,note", "xray"),
        ("PADCHEST_DIR/labels.csv", "file,patient,view,nodule", "padchest"),
        ("RSNA_DIR/labels.csv", "file,x,Target", "rsna"),
        ("MIMIC_DIR/mimic-cxr-2.0.0-chexpert.csv", f"subject_id,study_id,{findings}", "chexpert"),
        ("MIMIC_DIR/mimic-cxr-2.0.0-metadata.csv", "dicom_id,subject_id,study_id,ViewPosition", "metadata"),
    ):
        (folder / path).write_text("\n".join([columns, *rows[kind]]) + "\n")


def write_nifti(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(sitk.GetImageFromArray(array), str(path))


# By placeholder: the path of a channel's file of patient {i}, and the names of the channels and of the mask.
CLASSIC = ("t1", "t2", "flair", "t1ce", "seg")
BRATS = {
    "BRATS18": ("HGG/B{i}/B{i}_{kind}.nii.gz", CLASSIC),
    "BRATS20": ("BraTS20_Training_{i:03}/BraTS20_Training_{i:03}_{kind}.nii", CLASSIC),
    "BRATS21": ("BraTS2021_{i:05}/BraTS2021_{i:05}_{kind}.nii.gz", CLASSIC),
    "BRATS23": ("BraTS-GLI-{i:05}-000/BraTS-GLI-{i:05}-000-{kind}.nii.gz", ("t1n", "t2w", "t2f", "t1c", "seg")),
}


def write_segmentation(folder):
    """Five patients each, with a bright cube, in volumes of one window."""
    rng, label = np.random.default_rng(0), np.zeros((16, 16, 16), np.uint8)
    label[4:12, 3:13, 2:12], label[5:11, 4:12, 3:11], label[7:9, 6:11, 4:10] = 2, 1, 4
    for i in range(5):
        for year, (path, kinds) in BRATS.items():
            for kind in kinds[:-1]:
                image = (100 + 50 * label + rng.normal(0, 10, label.shape)).astype(np.int16)
                write_nifti(folder / year / path.format(i=i, kind=kind), image)
            mask = label if kinds is CLASSIC else np.where(label == 4, 3, label).astype(np.uint8)
            write_nifti(folder / year / path.format(i=i, kind="seg"), mask)
        scan = np.where(label > 0, 100, -1000) + rng.integers(0, 20, label.shape)
        lits = folder / "LITS17" / "train"
        write_nifti(lits / "CT" / f"volume{i}.nii.gz", scan.astype(np.int16))
        write_nifti(lits / "seg" / f"segmentation{i}.nii.gz", (label > 0).astype(np.uint8))


def write_nnunet(folder):
    """Five cases with masks and one without, of two channels and overlapping regions; and the first in PNG."""
    regions = {"background": 0, "organ": [1, 2], "tumour": 2}
    about = {"channel_names": {"0": "T1", "1": "T2"}, "labels": regions, "regions_class_order": [1, 2]}
    flat = {"channel_names": {"0": "grey"}, "labels": {"background": 0, "organ": 1}, "file_ending": ".png"}
    for i in range(6):
        scan, part = lung((16, 16, 16), seed=i), "imagesTs" if i == 5 else "imagesTr"
        mask = (scan > 0).astype(np.uint8)
        mask[..., :8] *= 2
        for channel in range(2):
            write_nifti(folder / "NNUNET_DIR" / part / f"case{i}_{channel:04}.nii.gz", scan)
        (folder / "NNUNET_2D" / "imagesTr").mkdir(parents=True, exist_ok=True)
        (folder / "NNUNET_2D" / "labelsTr").mkdir(exist_ok=True)
        Image.fromarray((scan[8] // 16 + 80).astype(np.uint8)).save(folder / f"NNUNET_2D/imagesTr/case{i}_0000.png")
        Image.fromarray((mask[8] > 0).astype(np.uint8)).save(folder / f"NNUNET_2D/labelsTr/case{i}.png")
        if part == "imagesTr":
            write_nifti(folder / "NNUNET_DIR" / "labelsTr" / f"case{i}.nii.gz", mask)
    (folder / "NNUNET_DIR" / "dataset.json").write_text(json.dumps(about))
    (folder / "NNUNET_2D" / "dataset.json").write_text(json.dumps(flat))


def write_own_volumes(folder):
    """Volumes in every layout of docs/data.md, and whole ones as preprocessing keeps them."""
    for i in range(2):
        write_series(folder / "DICOM_DIR" / f"P{i}", lung((40, 40, 30), seed=i).clip(-1000), uid=f"1.2.{i}")
        write_nifti(folder / "MRI_DIR" / f"sub-{i}" / "anat" / f"sub-{i}_T1w.nii.gz", lung((40, 40, 30), seed=i) + 1500)
        write_nifti(folder / "ABDOMEN_DIR" / f"{i}.nii.gz", lung((60, 60, 50), seed=i))
    command = ["--data", str(folder / "ABDOMEN_DIR"), "--save", str(folder / "VOLUMES"), "--volumes"]
    assert luna_preprocess.main([*command, *small_options("luna_preprocess", command), "--scale", "2"]) == 0


def write_labelled_volumes(folder):
    """Ten volumes with a table of labels, two of them DICOM series, and one with a table of points."""
    rows = ["file,ill"]
    for i in range(10):
        scan = lung((16, 20, 20), seed=i).clip(-1000)
        if i < 2:
            write_series(folder / "CT_LABELS" / f"disc{i}", scan, uid=f"1.2.{i}", extra=[(0x00100020, "LO", f"P{i}")])
        else:
            write_nifti(folder / "CT_LABELS" / f"disc{i}" / "scan.nii.gz", scan)
        rows.append(f"disc{i},{i // 2 % 2}")
    (folder / "CT_LABELS" / "labels.csv").write_text("\n".join(rows) + "\n")
    write_nifti(folder / "POINTS_DIR" / "P1" / "scan.nii.gz", lung((16, 20, 20)))
    table = "file,coordX,coordY,coordZ\nscan.nii.gz,9,8,7\nP1,4,5,6\n"
    (folder / "POINTS_DIR" / "candidates.csv").write_text(table)


def write_crops(folder):
    """Crop pairs as preprocessing leaves them, but for their sizes and the number of local crops."""
    rng = np.random.default_rng(1)
    for i in range(5):
        (folder / f"subset{i}").mkdir(parents=True)
        np.save(folder / f"subset{i}" / f"scan{i}_global_0.npy", rng.random((2, 16, 16, 8), dtype=np.float32))
        np.save(folder / f"subset{i}" / f"scan{i}_local_0.npy", rng.random((2, 8, 8, 8), dtype=np.float32))


WINDOWS = Preprocessing(3, (32, 32, 16), "minmax", whole=True)
TUNED = {
    "TUNED": TunedNetwork("classification", "folder", ("ill",), Preprocessing(2, (32, 32), "file")),
    "TUNED3D": TunedNetwork("classification", "folder", ("ill",), PRETRAINED[3]._replace(window=(32, 32, 16))),
    "NODULES": TunedNetwork("classification", "luna", ("nodule",), PRETRAINED[3]._replace(window=(16, 16, 16))),
    "TUNED_BRATS": TunedNetwork(
        "segmentation", "brats", ("WT", "TC", "ET"), WINDOWS, mask_values=(2, 1, 3), channels=4,
        suffixes=BRATS_SUFFIXES, norm="gn",
    ),
    "TUNED_NNUNET": TunedNetwork(
        "segmentation", "folder", ("organ", "tumour"), WINDOWS, mask_values=(1, 2), channels=2,
        suffixes=(("_0000",), ("_0001",)),
    ),
}  # fmt: skip


def write_weights(folder):
    torch.manual_seed(0)
    flat, solid = PCRLv2(encoder_weights=None).model.encoder.state_dict(), PCRLv23d().state_dict()
    for name, weights in (("pcrlv2_chest", flat), ("pcrlv2_luna", solid)):
        for ratio in ("0.8", "1.0"):
            save_checkpoint(folder / f"{name}_pretask_{ratio}_240.pt", {"state_dict": weights})
    for name, weights in (("chest", flat), ("luna", solid)):
        theirs = {"opt": argparse.Namespace(b=32), "state_dict": weights}
        torch.save(theirs, folder / f"simance_multi_crop_{name}_pretask_1.0_240.pt")
    for short, name in (("CHEST.pt", "pcrlv2_chest"), ("LUNA.pt", "pcrlv2_luna")):
        shutil.copy(folder / f"{name}_pretask_1.0_240.pt", folder / short)
    for name, tuned in TUNED.items():
        (folder / name).mkdir()
        content = {"state_dict": tuned.build().state_dict(), RECORD: tuned.as_record()}
        save_checkpoint(folder / name / "best.pt", content)


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """A folder of everything that placeholders name as something that is there."""
    folder = tmp_path_factory.mktemp("placeholders")
    make_xrays(folder / "NIH_DIR", 60, 3, size=64)
    write_chexpert(folder / "CHEXPERT_DIR")
    write_own_xrays(folder)
    run_snippet(next(code for page in PAGES for _, code in blocks(page) if "MIMIC_DIR/labels.csv" in code), folder)
    write_segmentation(folder)
    write_nnunet(folder)
    write_crops(folder / "CROPS")
    write_own_volumes(folder)
    write_labelled_volumes(folder)
    (folder / "DIR").mkdir()
    make_masked_images(folder / "DIR")
    names = make_ct(folder / "LUNA16_DIR", 5, seed=5, size=150).names
    (folder / "LUNA16").symlink_to("LUNA16_DIR")
    for i, name in enumerate(names[:2]):
        scan = sitk.ReadImage(str(folder / "LUNA16_DIR" / f"subset{i}" / f"{name}.mhd"))
        (folder / "CT_DIR").mkdir(exist_ok=True)
        sitk.WriteImage(scan, str(folder / "CT_DIR" / f"{name}.nii.gz"))
    write_weights(folder)
    return folder


@pytest.fixture(scope="session")
def earlier(made):
    """The same, and the folder of a pre-training that has ended."""
    with pytest.MonkeyPatch.context() as patch:
        options = "--data NIH_DIR --n chest --d 2 --ratio 0.8 --output OUT"
        run_python(patch, made, ["main.py", *options.split()])
    weights = made / "OUT" / "pcrlv2_chest_pretask_0.8_0.pt"
    weights.rename(weights.with_name("pcrlv2_chest_pretask_0.8_240.pt"))
    return made


# Options whose value is made by the command.
MADE_BY_IT = ("--output", "--save", "--out", "--cache")


def fill(folder, earlier, words):
    """Give a command the files that it names, and nothing else: a placeholder is a name in the folder of the command.

    Returns:
        The command, with --dim's weights for WEIGHTS.pt.
    """
    for before, word in pairwise(["", *words]):
        if before in MADE_BY_IT or word == "OUT":
            continue
        name = word.split("/")[0]
        if word == "WEIGHTS.pt":
            shutil.copy(earlier / ("CHEST.pt" if words[words.index("--dim") + 1] == "2" else "LUNA.pt"), folder / word)
        elif (earlier / name).exists() and not (folder / name).exists():
            copy = shutil.copytree if name == "OUT" else lambda source, target: target.symlink_to(source)
            copy(earlier / name, folder / name)
        else:
            known = word == "HOST" or not re.fullmatch(r"[A-Z][A-Z0-9_]{2,}(/\S+|\.pt)?", word)
            assert known or (folder / name).exists(), f"{' '.join(words)}: a placeholder that is not known: {word}"
    return words


# What makes commands small. Whatever is typed later counts, so that all that was typed is read.


def small_options(program, words):
    """Options behind a command of Python."""
    if program == "main":
        return small_training(words)
    if program == "luna_preprocess":
        small = ["--scale", "1", "--workers", "1", "--input_rows", "16", "--input_cols", "16", "--input_deps", "8"]
        # Boxes that fit into volumes smaller than a chest.
        return small + ["--crop_rows", "8", "--crop_cols", "8"] * any(Path(word).name in TINY for word in words)
    if program == "data.phantoms":
        flat = words[words.index("--d") + 1] == "2"
        return ["--count", "9", "--size", "64"] if flat else ["--count", "2", "--size", "150"]
    if program == "benchmarks.speed":
        return ["--quick", "--repeats", "1", "--only", "views3d"]
    if program == "benchmarks.evidence":
        # What is compared is tested elsewhere; here, that what is typed is read and that it ends with a report.
        few = "--arms random --readouts knn --labels 100 --draws 1 --steps 1 --workers 1"
        flat = "3" not in [after for before, after in pairwise(words) if before == "--d"]
        return [*few.split(), "--common", "--no-amp --workers 0 --b 4" + (" --global_size 32" if flat else "")]
    if program == "tests.torture":
        return ["--kills", "0"]
    assert program in ("models.pretrained", "models.export", "utils.option_table"), f"not known: {' '.join(words)}"
    return []


def small_training(words):
    """Options behind main.py: the smallest views, one epoch, one process, no network."""
    if "--help" in words:
        return []
    values = dict(pairwise(words))
    phase, flat = values.get("--phase", "pretask"), values.get("--d") == "2"
    if phase in ("predict", "features"):
        return small_extraction(phase, flat)
    candidates = values["--n"] == "luna" and phase != "pretask"
    options = ["--workers", "0", "--device", "cpu"]
    options += ["--epochs", "0"] if phase != "probe" else ["--probe_neighbours", "2"]
    options += ["--b", "8" if flat else "4" if phase == "pretask" else "2"] if not candidates else []
    options += ["--global_size", "32"] if flat else ["--crop", "16", "16", "16"] if phase != "pretask" else []
    options += ["--local_size", "32", "--encoder_weights", "none"] if phase == "pretask" and flat else []
    options += ["--image_size", "64"] if "--image_size" in values else []
    # Of so few scans, and of so few labelled images, the rest of the list would be none.
    options += ["--ratio", "0.2"] if candidates else []
    options += ["--ratio", "1", "--probe_neighbours", "2"] if "--probe_every" in values else []
    # Left out where a command shows only what is new in it.
    options += ["--output", "OUT"] if "--output" not in values else []
    return options + (["--lr", "1e-4"] if "--lr" not in values and phase != "probe" else [])


def small_extraction(phase, flat):
    """Options behind a prediction, which has all of its sizes from its weights, or behind an extraction of features."""
    sizes = ["--global_size", "32"] if flat else ["--crop", "16", "16", "16"]
    return ["--workers", "0", "--device", "cpu", "--b", "8", *(sizes if phase == "features" else [])]


# How each kind of command is run.


def run_python(monkeypatch, folder, words):
    for d, phantoms in PHANTOMS.items():
        monkeypatch.setitem(PHANTOMS, d, phantoms._replace(size=30 if d == 2 else 8))
    # Its states are not hundreds of MB each.
    monkeypatch.setattr("main.PCRLv23d", NarrowPCRLv23d)
    replay(monkeypatch, folder, words, lambda program: small_options(program, words))


def run_bash(monkeypatch, folder, words):
    """A script of the project, from another folder; what it would start is run here."""
    assert (ROOT / words[0]).exists(), f"bash {' '.join(words)}: no such script"
    status, printed, commands = run_script(ROOT / words[0], words[1:], folder)
    assert status == 0, printed
    if words[0] == "run_tests.sh":
        tools = [command[1] for _, command in commands]
        assert tools == ["ruff", "ruff", "mypy", "pytest"]
        assert commands[-1][1][2:] == ["-n", "2", "--dist", "loadfile", *words[1:]]
        assert all((ROOT / path).exists() for path in words[1:])
        return
    for where, command in commands:
        run_python(monkeypatch, where, command + (["--no-amp"] if command[0].endswith("main.py") else []))
    if len(words) == 1:
        check_demonstration(folder, words[0], printed, commands[-1][1])


def check_demonstration(folder, script, printed, options):
    """It leaves pictures and weights, and the last lines say where, and what to type next."""
    output = folder / "runs" / f"demo{script[3:5]}"
    assert all((output / name).stat().st_size > 1000 for name in ("restorations.png", "curves.png"))
    values = dict(pairwise(options))
    stem = f"{output}/pcrlv2_{values['--n']}_pretask_{values['--ratio']}"
    assert Path(f"{stem}_0.pt").exists()
    assert f"{output}/restorations.png" in printed and f"{stem}_{values['--epochs']}.pt" in printed
    assert printed.splitlines()[-1].startswith("With your own") and f'bash "{ROOT}/{script}"' in printed


def run_torchrun(monkeypatch, folder, words):
    """torchrun's own parser reads the command; two processes then stand for all of them."""
    typed = parse_torchrun(words)
    program = Path(typed.training_script).stem
    assert (ROOT / f"{program}.py").exists() and typed.training_script_args, words
    options = [*typed.training_script_args, *small_options(program, typed.training_script_args)]
    options += ["--no-amp"] if program == "main" else []
    meeting = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    absolute = [
        str(folder / word) if (folder / word).exists() or word in ("OUT", "CROPS") else word for word in options
    ]
    logs = [folder / f"{rank}.log" for rank in range(2)]
    module = "tests.narrow_main" if program == "main" else program
    processes = [
        start(module, absolute, log, RANK=str(rank), LOCAL_RANK=str(rank), **meeting) for rank, log in enumerate(logs)
    ]
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 0], [log.read_text() for log in logs]


def run_sbatch(monkeypatch, folder, words):
    """SLURM's stand-ins run the script; what it gives to torchrun is run as such."""
    script, *options = words
    job, logged = submit_with_standins(ROOT / script, options, folder)
    assert job.wait(60) == 0
    run_torchrun(monkeypatch, folder, fill(folder, folder, logged.read_text().split()))


def run_pip(monkeypatch, folder, words):
    """Nothing is installed; here all of it must be already, in the versions that the file asks for."""
    action, flag, requirements = words
    assert (action, flag) == ("install", "-r") and not list(lacks(ROOT / requirements))


RUN = {
    "python": run_python,
    "bash": run_bash,
    "torchrun": run_torchrun,
    "sbatch": run_sbatch,
    "pip": run_pip,
}


@pytest.mark.parametrize("words", shown_commands())
def test_command(words, earlier, tmp_path, monkeypatch):
    command = " ".join(words)
    assert words[0] in RUN, f"a command that this test does not know: {command}"
    RUN[words[0]](monkeypatch, tmp_path, fill(tmp_path, earlier, words[1:]))
    for before, word in pairwise(words):
        if before in MADE_BY_IT:
            found = tmp_path / word
            assert found.is_file() or any(found.iterdir()), f"{command}: no {word}"


def run_snippet(code, folder):
    """Run a snippet in a folder; returns its names."""
    names = {}
    with contextlib.chdir(folder):
        exec(compile(code, "snippet", "exec"), names)
    return names


def test_the_table_that_a_snippet_makes_of_others(made):
    rows = (made / "MIMIC_DIR" / "labels.csv").read_text().splitlines()
    assert rows[0] == "file,patient,view,Atelectasis,Cardiomegaly,Edema,Pleural Effusion,Pneumothorax"
    assert rows[3:5] == ["m2,001,LATERAL,1,,,0,1", "m3,001,PA,1,,,0,1"] and len(rows) == 25


@pytest.mark.parametrize("code", snippets())
def test_snippet(code, earlier, tmp_path):
    for name in re.findall(r'"([^"]+\.pt)"', code):
        shutil.copy(earlier / name, tmp_path)
    for name in re.findall(r'"([^"]+\.dcm)"', code):
        shutil.copy(earlier / "XRAY_DIR" / "001" / "IM3", tmp_path / name)
    # The clone that torch.hub loads from.
    (tmp_path / "PCRLv2").symlink_to(ROOT)
    names = run_snippet(code, tmp_path)
    network = names.get("model", names.get("encoder"))
    theirs = torch.load(next(tmp_path.glob("*.pt")), weights_only=False)["state_dict"]
    ours = {name.removeprefix("encoder."): value for name, value in network.state_dict().items()}
    loaded = [name for name in ours if name in theirs]
    assert len(loaded) > 40 and all(torch.equal(ours[name], theirs[name]) for name in loaded)

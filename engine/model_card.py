"""Write ``MODEL_CARD.md`` beside the weights of a finished run: what they are, what made them, how to load them."""

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from models.weight_facts import portable, read_run
from utils.atomic import whole_file
from utils.checkpoints import RECORD, read_checkpoint, weights_name
from utils.errors import UserError
from utils.fingerprint import fingerprint_of
from utils.options import DEFAULTS, FINETUNE, plain
from utils.records import LossTerms

CARD = "MODEL_CARD.md"
BEST, METRICS, RESULTS = "best.pt", "metrics.jsonl", "results.json"
# Settings that are shown even where they are the defaults.
ALWAYS = ("n", "d", "b", "epochs", "lr", "ratio", "seed")
COUNTS = {
    "samples": "samples to train on",
    "validation_samples": "samples to choose the epoch",
    "test_samples": "samples to test",
}
OF_EPOCH = (*LossTerms._fields, "projection_spread")
NETWORKS = {2: "ResNet18 of images", 3: "3D U-Net encoder of volumes"}
EXAMPLES = {2: "image.png", 3: "volume.nii.gz"}
ENCODER = """```python
from data.preprocess import preprocess, preprocessing_of
from models.pretrained import load_encoder

encoder = load_encoder("{weights}", dim={dim}).eval()
inputs = preprocess("{example}", preprocessing_of("{weights}", dim={dim}))
features = encoder(inputs)[-1]
```
"""
TUNED = """```
python main.py --phase predict --weight {weights} --data DIR --output OUT
```

```python
from data.preprocess import preprocess
from downstream.tuned import load_tuned, read_tuned

network = read_tuned("{weights}")
model = load_tuned(network, "{weights}").eval()
logits = model(preprocess("{example}", network.reading))  # of each window
probabilities = {combined}.sigmoid()
```
"""
# A volume's logits are the means of those of its windows; an X-ray is one window.
COMBINED = {"classification": "logits.mean(dim=0, keepdim=True)", "segmentation": "logits"}
CUBES = """```
python main.py --phase predict --weight {weights} --data DIR --output OUT
```

DIR holds volumes and `candidates.csv`, with `seriesuid` or `file` and `coordX`, `coordY`, `coordZ` in mm. One point:

```python
from pathlib import Path

import torch

from data.datasets.candidates import cut_cube
from data.transforms.intensity3d import z_normalize
from downstream.tuned import load_tuned, read_tuned

network = read_tuned("{weights}")
model = load_tuned(network, "{weights}").eval()
cube = torch.from_numpy(cut_cube(Path("{example}"), (0.0, 0.0, 0.0), network.reading.window))
probabilities = model(z_normalize(cube.unsqueeze(0)).unsqueeze(1)).sigmoid()
```
"""
# The files of a case are several, which :func:`data.preprocess.preprocess` does not read.
CHANNELS = """```
python main.py --phase predict --weight {weights} --data DIR --output OUT
```

```python
from downstream.tuned import load_tuned, read_tuned

model = load_tuned(read_tuned("{weights}"), "{weights}").eval()
```

The input has {channels} channels, each scaled from its least to its largest value.
"""
TO_FILL_IN = """## Licence and use

To be filled in by whoever passes the weights on:

- Licence of the weights:
- Licence and terms of the data that they were trained on:
- Consent or ethics approval of the data:
- Meant for:
- Not meant for: diagnosis, or anything else that has not been evaluated.
- Contact:
"""
# Last line of a card; a card whose text has another digest was changed by hand.
SEAL = "<!-- written by PCRLv2, digest {} -->\n"


def write_model_card(output: Path) -> bool:
    """Write the card of a run that has finished; return whether it was written.

    A card that a user has changed is kept, with a line on stderr.

    Raises:
        UserError: the run has not finished, or the folder cannot be written.
    """
    run = read_run(output)
    if run is None or run.get("status") != "finished":
        raise UserError(f"{output}: expected the folder of a finished run, its run.json does not say that it has ended")
    path = output / CARD
    if path.exists() and not _is_sealed(path):
        print(f"{path}: changed by hand and kept as it is; for a new one, move it away", file=sys.stderr)
        return False
    text = "\n".join(_sections(output, run))
    with whole_file(path, "w") as file:
        file.write(text + SEAL.format(fingerprint_of(text)))
    return True


def _is_sealed(path: Path) -> bool:
    text, start, digest = path.read_text("utf-8", errors="replace").rpartition(SEAL.partition("{")[0])
    return bool(start) and start + digest == SEAL.format(fingerprint_of(text))


def _sections(output: Path, run: Mapping[str, Any]) -> Iterator[str]:
    options = portable(run["options"])
    tuned, dim = options["phase"] == FINETUNE, options["d"]
    weights = BEST if tuned else _last_weights(options)
    record = read_checkpoint(output / weights).get(RECORD, {}) if tuned else {}
    revision = f" (git {run['git_revision']})" if run.get("git_revision") else ""
    yield f"# {weights}\n\n{_purpose(dim, record)} Made by PCRLv2 {run['version']}{revision}.\n"
    yield f"## Data\n\n{_bullets(_data(run, tuned))}"
    settings = {f"`--{n}`": v for n, v in options.items() if n in ALWAYS or plain(DEFAULTS.get(n)) != v}
    told = "Those that differ from the defaults, and the main ones; `run.json` has all."
    yield f"## Settings\n\n{told}\n\n{_table(settings)}"
    yield f"## Results\n\n{_results(output) if tuned else _last_epoch(output)}"
    channels = record.get("channels", 1)
    combined = COMBINED.get(record.get("task", ""))
    code = _code(record).format(
        weights=weights, dim=dim, example=EXAMPLES[dim], channels=channels, combined=combined
    )  # fmt: skip
    yield f"## Load\n\nIn a clone of the program, with its `requirements.txt`:\n\n{code}"
    yield TO_FILL_IN


def _code(record: Mapping[str, Any]) -> str:
    """How to load and use the weights, by the record of fine-tuned ones; those of pre-training have none."""
    if not record:
        return ENCODER
    if record.get("channels", 1) > 1:
        return CHANNELS
    return CUBES if (record["task"], record.get("dataset")) == ("classification", "luna") else TUNED


def _purpose(dim: int, record: Mapping[str, Any]) -> str:
    """What the network is, by the record of fine-tuned weights; those of pre-training have none."""
    if not record:
        return f"{NETWORKS[dim]}, pre-trained without labels by PCRLv2 (arXiv 2301.00772)."
    return f"Network of {dim}D {record['task']}; outputs: {', '.join(record['outputs'])}."


def _last_weights(options: Mapping[str, Any]) -> str:
    return weights_name(
        model=options["model"], dataset=options["n"], phase=options["phase"], ratio=options["ratio"],
        epoch=options["epochs"],
    )  # fmt: skip


def _data(run: Mapping[str, Any], tuned: bool) -> dict[str, Any]:
    found = {"data set (`--n`)": run["options"]["n"]}
    found |= {words: run[name] for name, words in COUNTS.items() if name in run}
    found |= {"hash of the list of samples": run["list"], "broken samples left out": len(run.get("bad_samples", {}))}
    return found | ({"test split": run["test"], "started from": _start(run)} if tuned else {})


def _start(run: Mapping[str, Any]) -> str:
    weight = portable(run["options"]).get("weight")
    return f"{weight}, {run['match']}" if weight not in (None, "none") else run["match"]


def _last_epoch(output: Path) -> str:
    """The numbers of the last epoch, as the recorder wrote them."""
    last = json.loads((output / METRICS).read_text("utf-8").splitlines()[-1])
    numbers = {name: value for name, value in last.items() if name in OF_EPOCH or name.startswith("probe/")}
    return f"Of the last epoch; losses of pre-training do not say how useful the features are.\n\n{_table(numbers)}"


def _results(output: Path) -> str:
    """Every number with an interval in results.json."""
    try:
        found = json.loads((output / RESULTS).read_text("utf-8"))
    except FileNotFoundError:
        return "The test split was not evaluated.\n"
    counts = f"{found['test_images']} images of {found['test_patients']} patients"
    note = f"Test split, {counts}, with 95 % intervals over patients; best epoch {found['best_epoch']}."
    return f"{note}\n\n{_table(dict(_intervals(found)))}"


def _intervals(entries: Mapping[str, Any], name: str = "") -> Iterator[tuple[str, str]]:
    for key, value in entries.items():
        if not isinstance(value, dict):
            continue
        if value.get("value") is None:
            yield from _intervals(value, f"{name}{key} ")
        else:
            bounds = [value[bound] for bound in ("low", "high") if value.get(bound) is not None]
            yield f"{name}{key}", f"{value['value']:.4f}" + (f" ({bounds[0]:.4f}–{bounds[1]:.4f})" if bounds else "")


def _bullets(entries: Mapping[str, Any]) -> str:
    return "".join(f"- {name}: {value}\n" for name, value in entries.items())


def _table(entries: Mapping[str, Any]) -> str:
    rows = (f"| {name} | {_shown(value)} |\n" for name, value in entries.items())
    return "| | |\n|---|---|\n" + "".join(rows)


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(map(_shown, value))
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return text.replace("|", "\\|").replace("\n", " ")

"""The story of a probe of frozen features, top to bottom."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from data.catalog.labels import CLASSES
from data.datasets.candidates import CUBE, open_candidates
from data.datasets.probe_subsets import eval_candidates, eval_images
from data.evaluation_loader import EvaluationLoader
from data.inputs import eval_cubes, eval_inputs
from downstream.classification import xray_splits
from downstream.tasks import RunContext, Split, broken_samples, describe_run, weight_file
from engine.finetune import ForwardStep
from engine.memory_format import memory_format
from engine.parallel import parallelize
from engine.precision import Precision
from engine.recorder import Recorder
from evaluation.epoch_probe import EpochProbe, require_labels
from evaluation.features import PooledFeatures, gather_features
from evaluation.predictions import predict
from evaluation.probe_report import claim_output, run_probes
from evaluation.probes import require_probes
from evaluation.results import write_results
from models.encoders import build_encoder
from models.pretrained import load_into
from utils.devices import choose_devices
from utils.distributed import init_process_group
from utils.errors import UserError
from utils.options import Options
from utils.output_lock import lock_output
from utils.seeding import seed_of
from utils.world import World


class ProbeData(NamedTuple):
    """What differs between data sets that are probed."""

    train: Split
    valid: Split
    test: Split
    test_source: str
    classes: Sequence[str]
    make_inputs: Callable[[Any], tuple[Tensor, Tensor]]


def xray_probe(options: Options) -> ProbeData:
    """14 findings of chest X-rays."""
    parts = xray_splits(options, options.ratio)
    # Fine-tuning trains on random boxes of whole images; a probe learns from what it is judged by, the centre.
    train = eval_images(parts.train, options.global_size)
    return ProbeData(train, parts.valid, parts.test, parts.test_source, CLASSES[options.n], eval_inputs)


def candidate_probe(options: Options) -> ProbeData:
    """Nodules of chest CT against false positives, of which training has at most ten to a nodule."""
    parts = open_candidates(
        root=options.data, lists=options.lists, ratio=options.ratio, seed=options.seed, cube=options.crop or CUBE
    )
    return ProbeData(eval_candidates(parts.train), parts.valid, parts.test, parts.test_source, ("nodule",), eval_cubes)


PROBED: dict[str, Callable[[Options], ProbeData]] = {
    "chest": xray_probe,
    "chexpert": xray_probe,
    "luna": candidate_probe,
}


def build_frozen(options: Options, world: World) -> PooledFeatures:
    """The encoder, from pre-trained or random weights, the latter those that fine-tuning from scratch starts from."""
    torch.manual_seed(seed_of(options.seed, "weights"))
    channels = 3 if options.d == 2 else 1
    model = PooledFeatures(build_encoder(options.d, channels))
    weights = weight_file(options)
    model.match = None if weights is None else load_into(model.encoder, weights, channels)
    if world.is_main:
        print(f"--weight {options.weight}: {model.match or 'random'}", file=sys.stderr)
    if options.compile:
        model.compile()
    return model


def probe(options: Options, world: World) -> None:
    """Labelled samples -> features of a frozen encoder -> two simple classifiers -> one look at the test part."""
    require_probes("--phase probe")
    devices = choose_devices(device=options.device, gpus=options.gpus, world=world)
    init_process_group(world, devices[0])
    output = Path(options.output)
    lock_output(output, world)
    claim_output(output, writes=world.is_main)

    data = PROBED[options.n](options)
    parts: dict[str, Split] = {"train": data.train, "valid": data.valid, "test": data.test}
    if world.is_main:
        print(
            f"--ratio {options.ratio:g}: {len(data.train)} samples to learn from, {len(data.valid)} to choose the "
            f"regularisation, {len(data.test)} to test ({data.test_source})", file=sys.stderr
        )  # fmt: skip
    layout = memory_format(options.d, devices[0])
    precision = Precision.choose(devices[0], amp=options.amp, says=world.is_main)
    model = build_frozen(options, world).to(memory_format=layout)
    # Nothing is trained: every process has a copy of its own, and a share of the samples.
    module = parallelize(ForwardStep(model, precision, layout), devices, World())
    place, features, broken = RunContext(options, world, devices[0]), {}, {}
    for name, part in parts.items():
        batches = place.every(part, max(1, options.b // world.size))
        features[name] = gather_features(predict(module, batches, data.make_inputs, devices[0]), part=name)
        broken.update(broken_samples(batches))
    if not world.is_main:
        return
    found = run_probes(
        features, data.classes, {name: part.patients for name, part in parts.items()},
        neighbours=options.probe_neighbours, name=data.test.name, seed=options.seed, output=output,
    )  # fmt: skip
    Recorder(output, about=describe_run(options, data, model, devices)).update_run(status="finished")
    about = {"data_set": options.n, "weights": options.weight, "test_part": data.test_source, "broken_images": broken}
    write_results(output, {**about, **found})


def prepare_epoch_probe(options: Options, device: torch.device) -> Callable[..., EpochProbe]:
    """What makes the probe of pre-training of an encoder, its precision and its memory format.

    It looks at the parts that fine-tuning trains on and chooses the epoch by, with ``--ratio 1`` those of the whole
    list; never at the test part.

    Raises:
        UserError: there are no labels, or scikit-learn is not installed.
    """
    require_probes("--probe_every")
    try:
        parts = xray_splits(options, options.ratio if options.ratio < 1 else 0.0)
    except UserError as error:
        raise UserError(f"--probe_every: {error}") from None
    judging = options.probe_images // 4
    train, valid = (
        eval_images(part, options.global_size, at_most=count, seed=options.seed)
        for part, count in ((parts.train, options.probe_images - judging), (parts.valid, judging))
    )
    require_labels(train.labels.numpy(), valid.labels.numpy())
    # Broken images are left out: how many there may be is for the run itself to say.
    learning, judged = (
        EvaluationLoader(part, batch_size=options.b, workers=options.workers, max_bad=1.0) for part in (train, valid)
    )

    def make(encoder: nn.Module, precision: Precision, layout: torch.memory_format) -> EpochProbe:
        return EpochProbe(
            ForwardStep(PooledFeatures(encoder), precision, layout), train=learning, valid=judged,
            make_inputs=eval_inputs, device=device, classes=CLASSES[options.n], patients=valid.patients,
            neighbours=options.probe_neighbours, every=options.probe_every, epochs=options.epochs,
        )  # fmt: skip

    return make

"""How long the pre-training of a comparison takes on this device, by one measured step."""

import time
from pathlib import Path

from benchmarks.evidence.jobs import Pretraining, all_jobs, is_done, pretraining_options, samples_of
from benchmarks.evidence.settings import Settings
from benchmarks.speed.training import SIZES, Sizes, build_views, make_trainer, raw_batch
from utils.devices import choose_devices
from utils.options import Options
from utils.world import World

# A CPU is measured with so few samples, since a published step takes it a minute.
SAMPLES_ON_CPU = 4


def describe_hours(settings: Settings) -> str:
    """Number of pre-trainings to be done, their steps, and their hours one after the other; empty without any."""
    jobs = [job for job in all_jobs(settings) if isinstance(job, Pretraining) and not is_done(job, settings)]
    if not jobs:
        return ""
    samples = steps = 0
    for job in jobs:
        options = pretraining_options(job, settings)
        in_epoch = max(1, samples_of(settings, job.ratio) // options.b)
        steps += in_epoch * (options.epochs + 1)
        samples += in_epoch * (options.epochs + 1) * options.b
    hours = samples * seconds_per_sample(pretraining_options(jobs[0], settings), settings.out) / 3600
    return (
        f"{len(jobs)} pre-trainings of {steps:,} steps together: about {hours:,.1f} hours on this device by one "
        "measured step; probes and fine-tuning come on top"
    )


def seconds_per_sample(options: Options, folder: Path) -> float:
    """The time of one step of pre-training, without reading files, divided by its samples."""
    device = choose_devices(device=options.device, gpus=options.gpus, world=World())[0]
    flat = Sizes(3, (options.global_size,) * 2, (options.local_size,) * 2)
    sizes = flat if options.d == 2 else SIZES[3]
    batch = options.b if device.type == "cuda" else min(options.b, SAMPLES_ON_CPU)
    trainer = make_trainer(options.d, device, folder, build_views(options.d, sizes), amp=options.amp)
    raw = raw_batch(options.d, sizes, batch, device)
    for step in range(2):  # the first one also sets up what later ones reuse
        started = time.perf_counter()
        trainer.train_step(raw, 0, step)
        trainer.epoch_meter.read()  # waits for the device
    return (time.perf_counter() - started) / batch

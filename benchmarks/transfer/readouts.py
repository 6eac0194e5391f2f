"""Ways to read an encoder out: as it is, or fine-tuned."""

from functools import lru_cache
from typing import NamedTuple

from benchmarks.transfer.encoders import encoder_file
from benchmarks.transfer.frozen import Seen, see
from benchmarks.transfer.networks import Network, build_network
from benchmarks.transfer.phantoms import Phantoms, draw_phantoms
from benchmarks.transfer.settings import Settings
from benchmarks.transfer.tuning import Verdict, fit, steps_of
from utils.seeding import seed_of

CALIBRATION = 256


@lru_cache(maxsize=8)
def drawn(count: int, size: int, *purpose: int | str) -> Phantoms:
    """Phantoms, kept for the next job: drawing them takes longer than a linear readout."""
    return draw_phantoms(count, size, *purpose)


def labelled(seed: int, percent: float, settings: Settings) -> Phantoms:
    """A seed's labelled images, so many of them."""
    count = max(2, round(settings.labels * percent / 100))
    # All of them are drawn: the next job wants more.
    phantoms = drawn(settings.labels, settings.size, "labelled", seed).take(slice(count))
    return phantoms.to(settings.torch_device)


def held_out(settings: Settings) -> tuple[Phantoms, Phantoms]:
    """The validation and the test part, the same for every job."""
    device = settings.torch_device
    # Other test images than those that this benchmark's own settings were once chosen on.
    valid, test = drawn(settings.valid, settings.size, "validation"), drawn(settings.test, settings.size, "held out")
    return valid.to(device), test.to(device)


def network_of(encoder: str, task: str, seed: int, settings: Settings) -> Network:
    """A task's network on an encoder, a pre-trained or a random one."""
    file = encoder_file(encoder, seed % settings.replicates, settings)
    unlabelled = drawn(min(CALIBRATION, settings.images), settings.size, "unlabelled").images
    return build_network(task, file, unlabelled.to(settings.torch_device), seed, precision=settings.precision)


class Frozen(NamedTuple):
    """A network that is left as it is, and what it sees in the held-out parts."""

    network: Network
    valid: Seen
    test: Seen


@lru_cache(maxsize=1)
def prepared(encoder: str, task: str, seed: int, settings: Settings) -> Frozen:
    """Kept for the next job, which differs in the number of labels."""
    network = network_of(encoder, task, seed, settings)
    return Frozen(network, *(see(network, part) for part in held_out(settings)))


def fine_tuned(
    encoder: str, task: str, percent: float, seed: int, factor: float, settings: Settings
) -> tuple[Network, Verdict]:
    """A fine-tuned network and what the validation part says of it."""
    network, train = network_of(encoder, task, seed, settings), labelled(seed, percent, settings)
    valid, _ = held_out(settings)
    steps = steps_of(task, len(train.images), settings)
    order = seed_of("transfer", seed, task)
    return network, fit(network, train, valid, steps=steps, factor=factor, seed=order)

"""The encoders that are compared, each a file that is made once."""

from pathlib import Path

from benchmarks.transfer.pretraining import VARIANTS, WHOLE, pretrain
from benchmarks.transfer.settings import Settings
from benchmarks.transfer.supervised import SUPERVISED, train_supervised
from utils.checkpoints import save_checkpoint

RANDOM = "random"
ENCODERS = (RANDOM, SUPERVISED, *VARIANTS)
# Fine-tuning takes long: of the random encoder, which is training from scratch, of the control and of the whole method.
FINE_TUNED_ENCODERS = (RANDOM, SUPERVISED, WHOLE)


def encoder_file(encoder: str, replicate: int, settings: Settings) -> Path | None:
    """The file of an encoder of ENCODERS, made unless it is there; None for the random one, which needs none."""
    if encoder == RANDOM:
        return None
    folder = settings.out / "pretraining" / f"{encoder.replace(' ', '_')}_{replicate}"
    file = folder / "encoder.pt"
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        control = encoder == SUPERVISED
        trained = train_supervised(replicate, settings) if control else pretrain(encoder, replicate, settings, folder)
        save_checkpoint(file, {"state_dict": trained.state_dict()})
    return file

"""Features of a frozen encoder: what probes look at."""

from torch import Tensor, nn

from evaluation.predictions import Predictions, gather_predictions
from models.pretrained import Match
from utils.errors import UserError


class PooledFeatures(nn.Module):
    """Encoder → average pool, B C *S to B F: what a classifier's last layer sees when it is fine-tuned.

    Args:
        encoder: maps B C *S to the list of its stages' features, shallowest first.
    """

    match: Match | None = None
    """How many of the encoder's entries the weights had; None where they are random."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, x: Tensor) -> Tensor:
        return self.encoder(x)[-1].flatten(2).mean(dim=2)


def gather_features(own: Predictions, *, part: str) -> Predictions:
    """Those of all processes; every process must call it.

    Args:
        own: this process's.
        part: which part they are of, for the error.

    Raises:
        UserError: there are none, or some are not finite.
    """
    everything = gather_predictions(own)
    if not everything.usable():
        what = "values that are not finite" if everything.indices else "no readable sample"
        raise UserError(f"expected features of the {part} part, got {what}; check --weight and --data")
    return everything

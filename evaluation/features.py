"""Features of a frozen encoder, the input of probes."""

from torch import Tensor, nn


class PooledFeatures(nn.Module):
    """Encoder → average pool, B C *S to B F: the input of the last layer of a fine-tuned classifier.

    Args:
        encoder: maps B C *S to the list of its stages' features, shallowest first.
    """

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, x: Tensor) -> Tensor:
        return self.encoder(x)[-1].flatten(2).mean(dim=2)

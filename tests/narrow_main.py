"""main.py with a 3D network an eighth as wide, for tests of what processes say to each other.

All its weights are exchanged in every step and written in every state, which takes most of a tiny run's time.
"""

from torch import nn

import main as program
from models.pcrlv2_model_3d import DownTransition, OutputTransition, PCRLv23d, UpTransition
from utils.errors import run_command

KIND = {"act": "relu", "norm": "bn"}


class NarrowPCRLv23d(PCRLv23d):
    """All parts of the network, by the same names."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.down_tr64 = DownTransition(1, 4, 8, pool=True, **KIND)
        self.down_tr128 = DownTransition(8, 8, 16, pool=True, **KIND)
        self.down_tr256 = DownTransition(16, 16, 32, pool=True, **KIND)
        self.down_tr512 = DownTransition(32, 32, 64, pool=False, **KIND)
        self.up_tr256 = UpTransition(64, 32, n_class=1, **KIND)
        self.up_tr128 = UpTransition(32, 16, n_class=1, **KIND)
        self.up_tr64 = UpTransition(16, 8, n_class=1, **KIND)
        self.out_tr = OutputTransition(8, 1)


def main() -> int:
    program.PCRLv23d = NarrowPCRLv23d  # type: ignore
    return program.main()


if __name__ == "__main__":
    run_command(main)

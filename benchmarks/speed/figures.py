"""What a benchmark gives: figures, each beside its yardstick and its target."""

from pathlib import Path
from typing import NamedTuple


class BenchmarkSettings(NamedTuple):
    """How a stage is measured."""

    folder: Path
    """For files that are made up; of the stage alone."""
    repeats: int
    quick: bool
    """Tiny inputs, to see that everything runs; the figures mean nothing."""


class Measurement(NamedTuple):
    """One thing measured, in a unit of which less is better, and at most one target."""

    stage: str
    what: str
    unit: str
    ours: float
    yardstick: str | None = None
    theirs: float | None = None
    """The yardstick in the same unit, measured in the same run."""
    at_least: float | None = None
    """How many times as fast as the yardstick ours should be."""
    at_most: float | None = None
    """How many times the yardstick ours may be; without a yardstick, how much in its own unit."""

    @property
    def faster(self) -> float | None:
        """The yardstick divided by ours."""
        return None if self.theirs is None else self.theirs / self.ours

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None without a target."""
        if self.at_least is not None and self.faster is not None:
            return self.faster >= self.at_least
        if self.at_most is None:
            return None
        return (self.ours if self.theirs is None else self.ours / self.theirs) <= self.at_most


class Skipped(NamedTuple):
    """One thing not measured, and why."""

    stage: str
    what: str
    why: str


Result = Measurement | Skipped

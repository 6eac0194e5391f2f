"""The settings and results of benchmarks; a result is a measurement with its yardstick and target."""

from pathlib import Path
from typing import NamedTuple


class BenchmarkSettings(NamedTuple):
    """Settings for measuring a stage."""

    folder: Path
    """A temporary folder for the stage's files."""
    repeats: int
    quick: bool
    """Tiny inputs, to test that everything runs; the numbers mean nothing."""


class Measurement(NamedTuple):
    """One measurement, where less is better, with at most one target."""

    stage: str
    what: str
    unit: str
    ours: float
    yardstick: str | None = None
    theirs: float | None = None
    """The yardstick in the same unit, measured in the same run."""
    at_least: float | None = None
    """Target: the yardstick divided by ours, at least."""
    at_most: float | None = None
    """Target: ours divided by the yardstick, at most; without a yardstick, ours in its unit."""

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
    """A measurement that was not possible, and why."""

    stage: str
    what: str
    why: str


Result = Measurement | Skipped

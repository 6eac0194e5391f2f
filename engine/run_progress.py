"""Progress of a run: on a terminal a bar for each epoch, elsewhere a line at the first step and about every minute."""

import time
from collections.abc import Mapping

from tqdm import tqdm

from utils.progress import LINE_SECONDS, duration, on_terminal, say

# The numbers shown in a bar, with shorter names.
SHOWN = {"total": "total", "learning_rate": "lr", "projection_spread": "spread"}


class RunProgress:
    """Prints bars or lines on stderr.

    The losses are those read last: nothing here synchronises with the device.

    Args:
        active: whether this is the main process; the others print nothing.
    """

    def __init__(self, *, active: bool) -> None:
        self.active, self.bar = active, None  # type: bool, tqdm | None
        self.losses: dict[str, float | None] = {}
        self.printed_at: float | None = None
        # Steps of this process, and when the first one ended, which includes the start of workers and compilation.
        self.steps_done, self.first_done = 0, 0.0

    @property
    def wants_losses(self) -> bool:
        """Whether the line of the first step, which needs the losses, is not printed yet."""
        return self.active and self.printed_at is None and not on_terminal()

    def start_epoch(self, epoch: int, epochs: int, steps: int, first_step: int, batch_size: int) -> None:
        """Start an epoch at ``first_step``; ``batch_size`` counts samples over all processes."""
        self.losses = {}  # those of the epoch before are not this one's
        self.epoch, self.epochs, self.steps, self.step, self.batch_size = epoch, epochs, steps, first_step, batch_size
        self.window_started, self.window_steps = time.monotonic(), 0
        if self.active and on_terminal():
            name = f"epoch {epoch}/{epochs}"
            self.bar = tqdm(total=steps, initial=first_step, desc=name, unit="step", dynamic_ncols=True)

    def show(self, losses: Mapping[str, float | None]) -> None:
        """Set the losses to display."""
        self.losses = dict(losses)
        if self.bar is not None:
            self.bar.set_postfix({s: format_number(losses[name]) for name, s in SHOWN.items() if name in losses})

    def advance(self) -> None:
        """Count one finished step, and print a line when it is due."""
        now = time.monotonic()
        self.step, self.steps_done, self.window_steps = self.step + 1, self.steps_done + 1, self.window_steps + 1
        if self.steps_done == 1:
            self.first_done = now
        if self.bar is not None:
            self.bar.update()
        elif self.active and (self.printed_at is None or now - self.printed_at >= LINE_SECONDS):
            say(self._line(now))
            self.printed_at = self.window_started = now
            self.window_steps = 0

    def _line(self, now: float) -> str:
        numbers: dict[str, float | None] = {
            **self.losses,
            "samples/s": self.window_steps * self.batch_size / max(now - self.window_started, 1e-9),
        }
        shown = "  ".join(f"{name} {format_number(number)}" for name, number in numbers.items())
        place = f"epoch {self.epoch}/{self.epochs}  step {self.step}/{self.steps}"
        return f"{place}: {shown}  left {duration(self._seconds_left(now))}"

    def _seconds_left(self, now: float) -> float:
        """Time left of the whole run, at the average speed of this process so far, pauses between epochs included."""
        seconds, steps = now - self.first_done, self.steps_done - 1
        if not steps:
            seconds, steps = now - self.window_started, 1
        return seconds / steps * ((self.epochs - self.epoch) * self.steps + self.steps - self.step)

    def end_epoch(self) -> None:
        """Close the bar of the epoch; it stays on the screen."""
        if self.bar is not None:
            self.bar.close()
            self.bar = None


def format_number(number: float | None) -> str:
    """A number with four digits, or ``none``."""
    return "none" if number is None else f"{number:.4g}"

"""What a run says of itself: progress on the terminal, TensorBoard, ``metrics.jsonl`` and ``run.json``."""

import contextlib
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from torchvision.transforms.functional import to_pil_image
from tqdm import tqdm

from utils.atomic import whole_file
from utils.errors import UserError

METRICS, RUN = "metrics.jsonl", "run.json"
SHOWN = {"learning_rate": "lr", "projection_spread": "spread", "samples_per_second": "samples/s"}


class Recorder:
    """Records for the main process; silent for every other.

    Args:
        output: the run's folder.
        about: what ``run.json`` says of the run: options, versions, lists.
        active: False for all processes but the main one.
    """

    def __init__(self, output: Path, *, about: Mapping[str, Any], active: bool = True) -> None:
        self.output, self.active = output, active
        self.about = dict(about)
        self.writer: SummaryWriter | None = None
        self.bar: tqdm | None = None

    def start(self, *, epoch: int, step: int) -> None:
        """Open the records; of a run that is resumed, lines that will be written again are taken out first."""
        if not self.active:
            return
        try:
            self.output.mkdir(parents=True, exist_ok=True)
            self.writer = SummaryWriter(str(self.output / "tensorboard"), purge_step=step)
        except OSError as error:
            raise UserError(f"--output: cannot write in {self.output}: {error.strerror or error}") from error
        kept = [line for line in self.metric_lines() if line["epoch"] < epoch]
        with whole_file(self.output / METRICS, "w") as file:
            file.writelines(json.dumps(line) + "\n" for line in kept)
        self.update_run(status="running")

    def metric_lines(self) -> list[dict[str, Any]]:
        """The lines of ``metrics.jsonl`` so far."""
        path = self.output / METRICS
        lines = []
        for text in path.read_text("utf-8", errors="replace").splitlines() if path.exists() else []:
            try:
                line = json.loads(text)
            except ValueError:  # a line that a kill cut short belongs to an epoch that will be run again
                break
            if not isinstance(line, dict) or not isinstance(line.get("epoch"), int):
                break
            lines.append(line)
        return lines

    def update_run(self, **facts: Any) -> None:
        """Write facts into ``run.json``."""
        self.about.update(facts)
        if self.active:
            with whole_file(self.output / RUN, "w") as file:
                json.dump(self.about, file, indent=1, default=str)
                file.write("\n")

    def start_epoch(self, epoch: int, epochs: int, steps: int, first_step: int) -> None:
        """Show a bar for the epoch, on a terminal only."""
        hidden = not self.active or not sys.stderr.isatty()
        self.bar = tqdm(
            total=steps,
            initial=first_step,
            desc=f"epoch {epoch}/{epochs}",
            unit="step",
            disable=hidden,
            dynamic_ncols=True,
        )

    def advance(self) -> None:
        """One step done."""
        if self.bar is not None:
            self.bar.update()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """TensorBoard's errors in one line; its thread raises them at a later write than the one that failed."""
        try:
            yield
        except OSError as error:
            raise UserError(f"cannot write {self.output / 'tensorboard'}: {error.strerror or error}") from error

    def scalars(self, group: str, numbers: Mapping[str, float], step: int) -> None:
        """Numbers into TensorBoard under ``group/``, those named ``GROUP/NAME`` as they are, and onto the bar."""
        if self.writer is not None:
            with self._writing():
                for name, value in numbers.items():
                    self.writer.add_scalar(name if "/" in name else f"{group}/{name}", value, step)
        if self.bar is not None:
            self.bar.set_postfix({SHOWN.get(k, k): f"{v:.3g}" for k, v in numbers.items() if k in ("total", *SHOWN)})

    def end_epoch(self, numbers: Mapping[str, Any], epoch: int) -> None:
        """One line into ``metrics.jsonl``, the same into TensorBoard, and one on the terminal where there is no bar."""
        if self.bar is not None:
            self.bar.close()
        if not self.active:
            return
        try:
            with open(self.output / METRICS, "a", encoding="utf-8") as file:
                file.write(json.dumps({"epoch": epoch, **numbers}) + "\n")
        except OSError as error:
            raise UserError(f"cannot write {self.output / METRICS}: {error.strerror or error}") from error
        self.scalars("epoch", {k: v for k, v in numbers.items() if isinstance(v, int | float)}, epoch)
        shown = "  ".join(f"{k} {v:.4g}" for k, v in numbers.items() if isinstance(v, int | float))
        print(f"epoch {epoch}: {shown}", file=sys.stderr, flush=True)

    def image(self, name: str, picture: Tensor, epoch: int) -> None:
        """A picture, 3 H W in 0..1, into TensorBoard, and the latest of its name into ``NAME.png``."""
        if self.writer is not None:
            with self._writing():
                self.writer.add_image(name, picture, epoch)
            with whole_file(self.output / f"{name}.png") as file:
                to_pil_image(picture).save(file, format="PNG")

    def close(self) -> None:
        """Flush everything."""
        if self.bar is not None:
            self.bar.close()
        if self.writer is not None:
            with self._writing():
                self.writer.close()

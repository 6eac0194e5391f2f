"""What a run says of itself: progress on stderr, TensorBoard, ``metrics.jsonl`` and ``run.json``."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from torch import Tensor
from torchvision.transforms.functional import to_pil_image

from engine.run_progress import RunProgress, format_number
from engine.tensorboard_log import TensorBoardLog
from utils.atomic import whole_file
from utils.errors import UserError
from utils.progress import say

METRICS, RUN, TENSORBOARD = "metrics.jsonl", "run.json", "tensorboard"


class Recorder:
    """Records for the main process; silent for every other. As a context it is closed, however the block ends.

    Args:
        output: the run's folder.
        about: what ``run.json`` says of the run: options, versions, lists.
        active: False for all processes but the main one.
    """

    def __init__(self, output: Path, *, about: Mapping[str, Any], active: bool = True) -> None:
        self.output, self.active = output, active
        self.about = dict(about)
        self.tensorboard: TensorBoardLog | None = None
        self.progress = RunProgress(active=active)

    def start(self, *, epoch: int, step: int) -> None:
        """Open the records; of a run that is resumed, lines that will be written again are taken out first."""
        if not self.active:
            return
        try:
            self.output.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"--output: cannot write in {self.output}: {error.strerror or error}") from error
        kept = [line for line in self.metric_lines() if line["epoch"] < epoch]
        with whole_file(self.output / METRICS, "w") as file:
            file.writelines(json.dumps(line) + "\n" for line in kept)
        self.update_run(status="running")
        self.tensorboard = TensorBoardLog(self.output / TENSORBOARD, purge_step=step)

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

    def scalars(self, group: str, numbers: Mapping[str, float | None], step: int) -> None:
        """Finite numbers into TensorBoard under ``group/``, those named ``GROUP/NAME`` as they are."""
        if self.tensorboard is not None:
            named = {name if "/" in name else f"{group}/{name}": value for name, value in numbers.items()}
            self.tensorboard.scalars({n: v for n, v in named.items() if v is not None and math.isfinite(v)}, step)

    def end_epoch(self, numbers: Mapping[str, Any], epoch: int) -> None:
        """One line into ``metrics.jsonl``, where null is what is no finite number, into TensorBoard, and on stderr."""
        self.progress.end_epoch()
        if not self.active:
            return
        line = {n: None if isinstance(v, float) and not math.isfinite(v) else v for n, v in numbers.items()}
        try:
            with open(self.output / METRICS, "a", encoding="utf-8") as file:
                file.write(json.dumps({"epoch": epoch, **line}) + "\n")
        except OSError as error:
            raise UserError(f"cannot write {self.output / METRICS}: {error.strerror or error}") from error
        plain = {name: value for name, value in line.items() if value is None or isinstance(value, int | float)}
        self.scalars("epoch", plain, epoch)
        say(f"epoch {epoch}: " + "  ".join(f"{name} {format_number(value)}" for name, value in plain.items()))

    def image(self, name: str, picture: Tensor, epoch: int) -> None:
        """A picture, 3 H W in 0..1, into TensorBoard, and the latest of its name into ``NAME.png``."""
        if self.tensorboard is not None:
            self.tensorboard.image(name, picture, epoch)
            with whole_file(self.output / f"{name}.png") as file:
                to_pil_image(picture).save(file, format="PNG")

    def close(self) -> None:
        """Flush everything."""
        self.progress.end_epoch()
        if self.tensorboard is not None:
            self.tensorboard.close()

    def __enter__(self) -> "Recorder":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

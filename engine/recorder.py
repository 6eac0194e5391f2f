"""Records of a run: progress on stderr, TensorBoard, ``metrics.jsonl`` and ``run.json``."""

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
    """Writes the records in the main process and nothing in the others. A context manager that closes them.

    Args:
        output: the run's folder.
        about: content of ``run.json``: options, versions, lists.
        active: whether this is the main process.
    """

    def __init__(self, output: Path, *, about: Mapping[str, Any], active: bool = True) -> None:
        self.output, self.active = output, active
        self.about = dict(about)
        self.tensorboard: TensorBoardLog | None = None
        self.progress = RunProgress(active=active)

    def start(self, *, epoch: int, step: int) -> None:
        """Open the records; of a resumed run, remove the epochs that will be recorded again.

        Args:
            epoch: the first epoch of this process.
            step: the first step of this process, counted from the first epoch of the run.

        Raises:
            UserError: the folder cannot be written.
        """
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
            except ValueError:  # cut short by a kill; its epoch will be trained again
                break
            if not isinstance(line, dict) or not isinstance(line.get("epoch"), int):
                break
            lines.append(line)
        return lines

    def update_run(self, **facts: Any) -> None:
        """Add or replace entries of ``run.json``."""
        self.about.update(facts)
        if self.active:
            with whole_file(self.output / RUN, "w") as file:
                json.dump(self.about, file, indent=1, default=str)
                file.write("\n")

    def scalars(self, group: str, numbers: Mapping[str, float | None], step: int) -> None:
        """Write finite numbers to TensorBoard as ``group/NAME``; a name that contains a slash is not changed."""
        if self.tensorboard is not None:
            named = {name if "/" in name else f"{group}/{name}": value for name, value in numbers.items()}
            self.tensorboard.scalars({n: v for n, v in named.items() if v is not None and math.isfinite(v)}, step)

    def end_epoch(self, numbers: Mapping[str, Any], epoch: int) -> None:
        """Record an epoch in ``metrics.jsonl`` (null for values that are not finite), in TensorBoard and on stderr."""
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
        """Write a picture, 3 H W in 0..1, to TensorBoard and to ``NAME.png``, which holds the latest one."""
        if self.tensorboard is not None:
            self.tensorboard.image(name, picture, epoch)
            with whole_file(self.output / f"{name}.png") as file:
                to_pil_image(picture).save(file, format="PNG")

    def close(self) -> None:
        """Close the bar and TensorBoard's file."""
        self.progress.end_epoch()
        if self.tensorboard is not None:
            self.tensorboard.close()

    def __enter__(self) -> "Recorder":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

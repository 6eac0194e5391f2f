"""What prediction and features share: any files in a folder, a network's outputs for each, and what is left to do."""

import hashlib
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from data.catalog.any_files import FoundFiles, find_files
from data.datasets.raw import RawDataset
from data.evaluation_loader import EvaluationLoader
from engine.finetune import ForwardStep
from engine.memory_format import memory_format
from engine.precision import Precision
from engine.recorder import Recorder
from evaluation.prediction_log import PredictionLog, require_same_run
from evaluation.predictions import WINDOWS_AT_ONCE, mean_outputs
from utils.devices import choose_devices
from utils.distributed import gather, init_process_group
from utils.errors import UserError
from utils.options import Options
from utils.output_lock import lock_output
from utils.provenance import describe_program
from utils.world import World


class FilesRun(NamedTuple):
    """A run over all files in a folder: those that are left to do, and where finished ones are noted."""

    options: Options
    world: World
    device: torch.device
    files: FoundFiles
    left: list[int]
    """Indices of those that are not finished."""
    log: PredictionLog
    recorder: Recorder
    broken: dict[str, str]
    """Of this process: files that cannot be read, by name with the reason."""

    @classmethod
    def start(
        cls, options: Options, world: World, *, dim: int, settings: dict[str, Any], files: FoundFiles | None = None
    ) -> "FilesRun":  # fmt: skip
        """Find the files, and what is finished of them; every process must call it.

        Args:
            options, world: of the run.
            dim: 2 for images, 3 for volumes.
            settings: plain values, beside weights and data, that determine the results.
            files: what there is to do; None for all files in the folder.

        Raises:
            UserError: there are no files, or the output folder has a run with other settings.
        """
        device = choose_devices(device=options.device, gpus=options.gpus, world=world)[0]
        init_process_group(world, device)
        output = Path(options.output)
        lock_output(output, world)
        settings = {
            "phase": options.phase, "data": str(Path(options.data).resolve()),
            "weights": _digest(Path(str(options.weight))), **settings,
        }  # fmt: skip
        require_same_run(output, settings)
        about = {"options": options.as_dict(), "settings": settings, **describe_program()}
        recorder, log = Recorder(output, about=about, active=world.is_main), PredictionLog(output, world.rank)
        recorder.update_run(status="running")
        files = files or find_files(options.data, dim, verbose=world.is_main)
        # The first process decides for all, since the others may already have begun to write.
        finished = gather(set(log.read()) if world.is_main else None)[0]
        left = [i for i, name in enumerate(files.names) if name not in finished]
        if world.is_main and len(left) < len(files.names):
            print(f"{len(files.names) - len(left)} of {len(files.names)} are finished already", file=sys.stderr)
        return cls(options, world, device, files, left, log, recorder, {})

    def batches(self, dataset: RawDataset, batch_size: int) -> EvaluationLoader:
        """Return batches of this process's share of what is left, of a dataset of all files."""
        return EvaluationLoader(
            dataset, batch_size=batch_size, workers=self.options.workers, rank=self.world.rank,
            world_size=self.world.size, max_bad=self.options.max_bad, only=self.left,
        )  # fmt: skip

    def place(self, model: nn.Module, dim: int) -> ForwardStep:
        """Return the network on the device of this process, in evaluation mode."""
        precision = Precision.choose(self.device, amp=self.options.amp, verbose=self.world.is_main)
        tensor_format = memory_format(dim, self.device)
        model.to(self.device, memory_format=tensor_format)  # type: ignore[call-overload]
        if self.options.compile:
            model.compile()
        return ForwardStep(model, precision, tensor_format).eval()

    @property
    def batch_size(self) -> int:
        """This process's share of ``--b``."""
        return max(1, self.options.b // self.world.size)

    @torch.no_grad()
    def log_means(
        self, dataset: RawDataset, module: nn.Module, *, at_once: int, finish: Callable[[Tensor], Tensor]
    ) -> None:  # fmt: skip
        """Note the mean outputs over the windows of what is left to do, each with the name of its file.

        Args:
            dataset: of all files; its batches are (windows N C *S, how many each file has).
            module: maps windows to outputs, N F.
            at_once: files in a batch.
            finish: is applied to mean outputs, float64 B F.
        """
        batches, windows_at_once = self.batches(dataset, at_once), max(at_once, WINDOWS_AT_ONCE)
        for indices, (windows, counts) in batches:
            rows = finish(mean_outputs(module, windows, counts, self.device, at_once=windows_at_once))
            named = {self.files.names[i]: row for i, row in zip(indices, rows, strict=True)}
            self.log.add({name: row.tolist() for name, row in named.items() if row.isfinite().all()})
            self.note_not_finite([name for name, row in named.items() if not row.isfinite().all()])
        self.broken.update(batches.bad)

    def finish(self) -> dict[str, np.ndarray]:
        """Wait for all processes; name the files that are left out, and return the numbers of the others, by name.

        The main process alone returns them, the others nothing.

        Raises:
            UserError: no file has numbers.
        """
        broken = {name: reason for found in gather(self.broken) for name, reason in found.items()}
        if not self.world.is_main:
            return {}
        finished = self.log.read()
        rows = {name: finished[name] for name in self.files.names if name in finished}
        # Points in one damaged scan have the same reason.
        for line in dict.fromkeys((*broken.values(), *self.files.refused)):
            print(f"left out: {line}", file=sys.stderr)
        if not rows:
            raise UserError(f"--data: none of the {len(self.files.names)} files in {self.options.data} can be read")
        left_out = {"broken": broken, "refused": self.files.refused}
        self.recorder.update_run(status="finished", files=len(rows), left_out=left_out)
        return rows

    def note_not_finite(self, names: Iterable[str]) -> None:
        """Note files for which the network's outputs are not finite."""
        reason = "expected finite outputs of the network, got others; try without --amp"
        self.broken.update({name: f"{name}: {reason}" for name in names})


def _digest(path: Path) -> str:
    """Return a hash of a file's content."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        raise UserError(f"--weight: expected a checkpoint file, there is none at {path}") from None

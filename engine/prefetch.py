"""Copies each batch to the device during the step before."""

import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch

from utils.devices import to_device


class Fetched(NamedTuple):
    """A batch on the device, and the seconds spent waiting for the loader."""

    batch: Any
    waited: float


def prefetch(batches: Iterator[Any], device: torch.device) -> Iterator[Fetched]:
    """Yield batches on ``device``.

    On a GPU the next batch is copied on a separate stream while the current step is computed.
    """
    stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def fetch() -> Fetched | None:
        start = time.perf_counter()
        batch = next(batches, None)
        waited = time.perf_counter() - start
        if batch is None:
            return None
        with torch.cuda.stream(stream):
            return Fetched(to_device(batch, device), waited)

    ahead = fetch()
    while ahead is not None:
        if stream is not None:
            current = torch.cuda.current_stream(device)
            current.wait_stream(stream)
            for tensor in ahead.batch if isinstance(ahead.batch, tuple) else (ahead.batch,):
                tensor.record_stream(current)
        current_batch = ahead
        # On a GPU the next batch is fetched before this one is used, so that its copy overlaps with the step.
        if stream is not None:
            ahead = fetch()
            yield current_batch
        else:
            yield current_batch
            ahead = fetch()

"""The next batch, read while the device is busy with this one."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch

Batch = tuple[np.ndarray, np.ndarray]


class Ahead:
    """Batches by step, each read in a thread while the one before is used.

    What is read depends on the step alone, so that the batches are the same as without; a step out
    of turn (after a checkpoint was loaded) is simply read when it is asked for.

    Args:
        read: returns the batch of a step.
        pin: keep batches in memory that a GPU can copy from by itself. A copy may still be under
            way when the next batch is asked for, so the last ones are kept alive.
    """

    def __init__(self, read: Callable[[int], Batch], *, pin: bool) -> None:
        self.read, self.pin = read, pin
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="scaling-batches")
        self._next: tuple[int, Future[Batch]] | None = None
        self._kept: deque[Batch] = deque(maxlen=3)

    def take(self, step: int) -> Batch:
        """Return the batch of a step and begin to read the next."""
        if self._next is not None and self._next[0] == step:
            batch = self._next[1].result()
        else:
            batch = self._prepare(step)
        self._next = (step + 1, self._thread.submit(self._prepare, step + 1))
        self._kept.append(batch)
        return batch

    def _prepare(self, step: int) -> Batch:
        inputs, targets = self.read(step)
        if not self.pin:
            return inputs, targets
        # an array over pinned memory: whoever takes it need not know
        first, second = (
            torch.from_numpy(np.ascontiguousarray(part)).pin_memory().numpy()
            for part in (inputs, targets)
        )
        return first, second

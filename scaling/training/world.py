"""Processes that train one run together: who they are, how they meet, what they say, how they end.

The first process leads: it alone decides, reads data and writes. The others follow its orders, so
that nothing has to be agreed on: interrupts, checkpoints and divergence are the first one's word.
Orders and rows of tokens go over a gloo group of their own; gradients over nccl where there is CUDA.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import re
import signal
import time
from collections.abc import Iterator
from datetime import timedelta
from itertools import pairwise
from typing import Any

import torch
import torch.distributed as dist

from scaling.study.config import TrainConfig
from scaling.study.errors import FollowedError, ScalingError, TrainError
from scaling.training.place import Place, find_place

MEET = timedelta(minutes=5)  # for all processes to start; a queue that starts them apart needs less
WORK = timedelta(minutes=10)  # for a sum of gradients; torch's own default for nccl
ORDERS = timedelta(hours=1)  # for the next order; the first may be preparing text meanwhile
LISTEN = 0.25  # s between two looks for a notice that another process was given

_LOST = ("gloo", "connection", "nccl", "socket", "broken pipe", "timed out", "timeout", "peer")
_stores: dict[tuple, dist.Store] = {}  # one per meeting point: its server outlives a group
_meetings = 0  # of this process; keeps a second group's keys apart from the first one's


class World:
    """The processes of one run, seen from one of them.

    Args:
        place: which one this is.
        device: the kind of device that models are on, `cpu` or `cuda`.

    Raises:
        TrainError: the others do not come.
    """

    def __init__(self, place: Place, device: str) -> None:
        self.place, self.rank, self.size = place, place.rank, place.size
        self.device = torch.device("cpu")
        if device == "cuda":
            self.device = torch.device("cuda", place.local_rank % torch.cuda.device_count())
            torch.cuda.set_device(self.device)
        self.result: Any = None  # what the first process has to show in the end
        self._heard = 0.0
        self._over = False
        try:
            self.store = _meet(place)
            dist.init_process_group(
                "nccl" if device == "cuda" else "gloo", store=self.store, rank=self.rank, world_size=self.size,
                timeout=WORK, device_id=self.device if device == "cuda" else None,
            )  # fmt: skip
            self.orders = dist.new_group(backend="gloo", timeout=ORDERS)
        except (RuntimeError, ValueError) as error:
            raise TrainError(
                f"{self}: the {self.size} processes did not meet at {place.host}:{place.port} ({_first_line(error)}). "
                "Start all of them, or set MASTER_ADDR and MASTER_PORT to a host and port that all can reach."
            ) from error

    @property
    def first(self) -> bool:
        return self.rank == 0

    def __str__(self) -> str:
        """Return how messages name this process."""
        return f"process {self.rank} of {self.size}"

    def tell(self, order: str, *numbers: float, content: Any = None) -> None:
        """Give an order to all others; `content` is for what is said rarely."""
        packed = b"" if content is None else pickle.dumps(content)
        head = torch.zeros(8, dtype=torch.float64)
        head[0], head[1] = ORDER_NAMES.index(order), len(packed)
        head[2 : 2 + len(numbers)] = torch.tensor(numbers, dtype=torch.float64)
        with self.contact():
            dist.broadcast(head, 0, group=self.orders)
            if packed:
                body = torch.frombuffer(bytearray(packed), dtype=torch.uint8)
                dist.broadcast(body, 0, group=self.orders)

    def hear(self) -> tuple[str, list[float], Any]:
        """Wait for the next order; returns its name, its numbers and its content."""
        head = torch.zeros(8, dtype=torch.float64)
        with self.contact():
            dist.broadcast(head, 0, group=self.orders)
            content = None
            if head[1]:
                body = torch.empty(int(head[1]), dtype=torch.uint8)
                dist.broadcast(body, 0, group=self.orders)
                content = pickle.loads(body.numpy().tobytes())  # from the first process itself
        return ORDER_NAMES[int(head[0])], head[2:].tolist(), content

    def rows(self, total: int) -> list[slice]:
        """Return which of `total` rows each process has; they differ by one at most."""
        ends = [total * r // self.size for r in range(self.size + 1)]
        return [slice(a, b) for a, b in pairwise(ends)]

    def pass_on(self, number: int) -> None:
        """Let the first process know of a notice this one was given."""
        with contextlib.suppress(RuntimeError):  # it is gone: the next order says so
            self.store.set("notice", str(number))

    def notice(self) -> signal.Signals | None:
        """Return the notice that another process was given, if any; looks a few times a second."""
        now = time.monotonic()
        if now - self._heard < LISTEN:
            return None
        self._heard = now
        with self.contact():
            if not self.store.check(["notice"]):
                return None
            return signal.Signals(int(self.store.get("notice")))

    def complain(self, error: BaseException) -> None:
        """Leave word why this process ends, for the message of the first one."""
        with contextlib.suppress(RuntimeError):
            self.store.set("error", f"{self}: {_first_line(error)}")

    @contextlib.contextmanager
    def contact(self) -> Iterator[None]:
        """Say of a process that is gone what happened and what to do.

        Raises:
            TrainError: in place of the errors that gloo and nccl raise.
        """
        try:
            yield
        except (ScalingError, torch.OutOfMemoryError):
            raise
        except RuntimeError as error:
            text = str(error).lower()
            if not isinstance(error, dist.DistError) and not any(w in text for w in _LOST):
                raise
            self._over = True
            raise TrainError(
                f"{self}: another one is gone ({self._last_word() or _first_line(error)}). "
                "Start the same command again: the run goes on from its last checkpoint."
            ) from error

    def _last_word(self) -> str | None:
        with contextlib.suppress(RuntimeError):
            if self.store.check(["error"]):
                return self.store.get("error").decode()
        return None

    def leave(self) -> None:
        """End the group; of one that is broken only what does not wait for the others."""
        if self.device.type == "cuda" and self._over:
            return  # nccl would wait for the lost ones; the process ends anyway
        with contextlib.suppress(RuntimeError):
            dist.destroy_process_group()


# what the first process asks of the others
ORDER_NAMES = ("build", "learn", "score", "gather", "load", "finite", "end")


@contextlib.contextmanager
def join(train: TrainConfig) -> Iterator[World | None]:
    """Meet the processes launched with this one, for a `with` block; null if it is alone.

    However the block ends on the first process, the others are told, and end alike.
    """
    place = None if train.parallel == "none" else find_place()
    if place is None:
        yield None
        return
    cuda = train.device.startswith("cuda") or (train.device == "auto" and torch.cuda.is_available())
    world = World(place, "cuda" if cuda else "cpu")
    how: BaseException | None = None
    try:
        yield world
    except BaseException as error:
        how = error
        raise
    finally:
        with contextlib.suppress(TrainError):
            if world.first:
                world.tell("end", content=_ending(how, world.result))
            elif how is not None and not isinstance(how, SystemExit | KeyboardInterrupt):
                world.complain(how)
        world.leave()


def _ending(how: BaseException | None, result: Any) -> tuple[str, Any]:
    """What the others need to end as the first one does."""
    if isinstance(how, SystemExit):
        return "exit", how.code
    if isinstance(how, KeyboardInterrupt):
        return "interrupt", None
    return ("error", str(how)) if how is not None else ("done", result)


def end_alike(kind: str, value: Any) -> Any:
    """End a follower as the first process ended; returns what that one returned.

    Raises:
        SystemExit, KeyboardInterrupt, FollowedError: as there.
    """
    if kind == "exit":
        raise SystemExit(value)
    if kind == "interrupt":
        raise KeyboardInterrupt
    if kind == "error":
        raise FollowedError(value)
    return value


def _meet(place: Place) -> dist.Store:
    """Return the store of a new meeting; the server behind it is kept for later ones."""
    global _meetings
    key = (place.host, place.port)
    if key not in _stores:
        agent = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"  # torchrun serves it
        _stores[key] = dist.TCPStore(
            place.host, place.port, place.size, is_master=place.rank == 0 and not agent, timeout=MEET, wait_for_workers=False,
        )  # fmt: skip
    _meetings += 1
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return dist.PrefixStore(f"scaling/{attempt}/{_meetings}", _stores[key])


def _first_line(error: BaseException) -> str:
    """Return what an error says, without the place in the library's source that gloo begins with."""
    lines = re.sub(r"^\[[^\]]*/[^\]]*\]\s*", "", str(error).strip()).splitlines()
    return lines[0].split(". ")[0] if lines else type(error).__name__

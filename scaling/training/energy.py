"""Energy that the device reports while runs train: NVML on GPUs, RAPL on CPUs.

Counters of energy are read, not logs of power: nothing is lost between two readings. A thread reads
them every few seconds, since a counter of RAPL starts again at 0 after some minutes at full load.

What is shared is divided. A CPU package works for all processes of the machine: a process takes the
part that its CPU time is of the time all cores were busy. A GPU on which several processes compute
is divided by their number. So the parts of all processes add up to what was used, idle power included.

Sources: Linux kernel, Documentation/power/powercap; NVIDIA, NVML API reference,
nvmlDeviceGetTotalEnergyConsumption (Volta and newer) and nvmlDeviceGetPowerUsage.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch

POWERCAP = Path("/sys/class/powercap")
PROC_STAT = Path("/proc/stat")
# The smallest range seen of a RAPL counter is 2^16 J (documented energy unit 2^-16 J, 32 bits): at
# 1 kW it starts again after 65 s. Power read in place of energy is constant over so long, to a few %.
SAMPLE_SECONDS = 5.0
MICRO, MILLI = 1e-6, 1e-3  # RAPL counts microjoules, NVML millijoules and milliwatts


class Gauge(Protocol):
    """What reports energy."""

    source: str

    def read(self) -> float:
        """Return the energy [J] of this process since the last reading.

        Raises:
            OSError: it can no longer be read.
        """


class Meter:
    """Energy of this process, from a gauge that is read now and then and whenever asked.

    Args:
        gauge: what reports energy; every: time between readings [s].
    """

    def __init__(self, gauge: Gauge, *, every: float = SAMPLE_SECONDS) -> None:
        self.gauge, self.source = gauge, gauge.source
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._joules: float | None = 0.0
        self._sample()
        self.take()  # what was used before is not ours
        self._thread = threading.Thread(
            target=self._run, args=(every,), daemon=True, name="scaling-energy"
        )
        self._thread.start()

    def take(self) -> float | None:
        """Return the energy [J] since the last time it was taken; null if it could not be read."""
        self._sample()
        with self._lock:
            taken, self._joules = self._joules, 0.0
        return taken

    def close(self) -> None:
        """End the thread."""
        self._stop.set()
        self._thread.join()

    def _run(self, every: float) -> None:
        while not self._stop.wait(every):
            self._sample()

    def _sample(self) -> None:
        with self._lock:
            try:
                used = self.gauge.read()
            except (OSError, ValueError):  # a counter that is gone: this stretch is unknown
                self._joules = None
                return
            self._joules = None if self._joules is None else self._joules + used


class Rapl:
    """Energy of the CPU packages by the kernel's powercap tree, this process's part.

    Args:
        zones: folders with `energy_uj` and `max_energy_range_uj`; stat: the file of the cores' times.
    """

    source = "rapl"

    def __init__(
        self, zones: Sequence[Path], *, stat: Path = PROC_STAT,
        own_seconds: Callable[[], float] = time.process_time,
    ) -> None:  # fmt: skip
        self._zones, self._stat, self._own = list(zones), stat, own_seconds
        self._ranges = [_number(zone / "max_energy_range_uj") for zone in self._zones]
        self._last = self._counts()
        self._times = self._own(), self._busy()

    def read(self) -> float:
        now, times = self._counts(), (self._own(), self._busy())
        used = sum(
            (new - old) % size if size else max(0.0, new - old)
            for new, old, size in zip(now, self._last, self._ranges, strict=True)
        )
        own, busy = (new - old for new, old in zip(times, self._times, strict=True))
        if busy < _TICK * 10:  # too short to tell whose it was: left for the next reading
            return 0.0
        self._last, self._times = now, times
        return used * MICRO * min(1.0, max(0.0, own / busy))

    def _counts(self) -> list[float]:
        return [_number(zone / "energy_uj") for zone in self._zones]

    def _busy(self) -> float:
        """Return the time [s] that all cores together have worked."""
        ticks = [float(x) for x in self._stat.read_text().split("\n", 1)[0].split()[1:9]]
        user, nice, system, _, _, irq, softirq, steal = ticks
        return (user + nice + system + irq + softirq + steal) * _TICK


_TICK = 1.0 / os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 0.01  # s


def find_zones(powercap: Path = POWERCAP) -> list[Path]:
    """Return the zones that add up to all that RAPL reports, each joule in one of them.

    Packages hold their cores; memory (`dram`) is beside the package on servers and is counted too.
    `psys` and zones below a package other than memory would count the same energy again.
    """
    zones: dict[str, Path] = {}
    # intel-rapl-mmio shows the packages of intel-rapl again
    folders = sorted(powercap.glob("*rapl*:*"), key=lambda f: ("mmio" in f.name, f.name))
    for folder in folders:
        with contextlib.suppress(OSError, ValueError):
            name = (folder / "name").read_text().strip()
            if not name.startswith(("package", "dram")):
                continue
            _number(folder / "energy_uj")  # root alone may read it on most systems
            key = name if name.startswith("package") else f"dram-{folder.name.split(':')[1]}"
            zones.setdefault(key, folder)
    has_package = any(key.startswith("package") for key in zones)
    return list(zones.values()) if has_package else []


def _number(path: Path) -> float:
    return float(path.read_text())


class Nvml:
    """Energy of GPU boards by NVIDIA's management library, this process's part.

    Args:
        nvml: the module `pynvml`, initialised; handles: of the boards.
    """

    source = "nvml"

    def __init__(
        self, nvml: Any, handles: Sequence[Any], *, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._nvml, self._handles, self._clock = nvml, list(handles), clock
        self._counts = not self._fails(nvml.nvmlDeviceGetTotalEnergyConsumption)
        if not self._counts:
            nvml.nvmlDeviceGetPowerUsage(self._handles[0])  # raises where there is neither
        self._last, self._time = self._values(), clock()

    def read(self) -> float:
        try:
            now, moment = self._values(), self._clock()
            share = [self._share(handle) for handle in self._handles]
        except self._nvml.NVMLError as error:
            raise OSError(str(error)) from None
        before, passed = self._last, moment - self._time
        self._last, self._time = now, moment
        if self._counts:
            used = [new - old for new, old in zip(now, before, strict=True)]
        else:  # trapezoid over the power at both ends
            used = [(new + old) / 2 * passed for new, old in zip(now, before, strict=True)]
        return MILLI * sum(u * s for u, s in zip(used, share, strict=True))

    def _values(self) -> list[float]:
        ask = (
            self._nvml.nvmlDeviceGetTotalEnergyConsumption
            if self._counts
            else self._nvml.nvmlDeviceGetPowerUsage
        )
        return [float(ask(handle)) for handle in self._handles]

    def _share(self, handle: Any) -> float:
        """Return the share of a board: one over the processes that compute on it."""
        return 1.0 / max(1, len(self._nvml.nvmlDeviceGetComputeRunningProcesses(handle)))

    def _fails(self, ask: Callable[[Any], Any]) -> bool:
        try:
            ask(self._handles[0])
        except self._nvml.NVMLError:
            return True
        return False


def open_meter(
    device: torch.device, *, devices: int = 1, powercap: Path = POWERCAP
) -> Meter | None:
    """Return what measures the energy of this process's device; null where nothing reports it.

    Args:
        device: that trains; devices: GPUs of this machine that this process speaks for.
        powercap: where the kernel shows RAPL.
    """
    try:
        if device.type == "cuda":
            own = torch.cuda.current_device() if device.index is None else device.index
            gauge: Gauge | None = _open_nvml(list(range(devices)) if devices > 1 else [own])
        else:
            zones = find_zones(powercap) if device.type == "cpu" and devices == 1 else []
            gauge = Rapl(zones) if zones else None
        return None if gauge is None else Meter(gauge)
    except (OSError, ValueError):  # no such file, no permission, no number
        return None


def _open_nvml(numbers: Sequence[int]) -> Nvml | None:
    """Return the gauge of GPUs by their numbers in torch; null without `nvidia-ml-py`."""
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
        # torch counts what CUDA_VISIBLE_DEVICES leaves; the UUID is the same for both
        uuids = [f"GPU-{torch.cuda.get_device_properties(i).uuid}" for i in numbers]
        return Nvml(pynvml, [pynvml.nvmlDeviceGetHandleByUUID(u) for u in uuids])
    except (pynvml.NVMLError, AttributeError):  # a slice of a GPU (MIG), an old driver or torch
        return None

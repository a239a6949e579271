"""How many runs go on at once on this machine, and on which core or GPU each of them.

One place is one process that trains: on a machine with GPUs a share of one GPU, else one core. There
are only as many as the memory holds together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf

from scaling.cli.jobs import find_programs
from scaling.study.errors import ConfigError, ScalingError
from scaling.study.plan import RunPlan
from scaling.study.units import format_bytes

# What a worker holds beyond the estimate of its run. Measured as peak of a process on Linux, torch 2.13
# (CPU build), 20k, 3M and 13M parameters: 0.34, 0.22 and 0.13 GB, as the estimate is on the safe side.
PROCESS_BYTES = 0.4e9
# What a process holds of a GPU besides its run: CUDA's context and cuBLAS's workspace. Assumed, on the
# high side of what nvidia-smi shows for an idle torch process; not measured here.
CONTEXT_BYTES = 0.7e9
KEEP_FREE = 0.1  # of the memory, for neighbours and what an estimate misses


@dataclass(frozen=True)
class Places:
    """Where runs train at once: a GPU's name per process, or null for a share of the cores.

    note: why there are fewer than asked for; empty if there are not.
    """

    gpus: tuple[str | None, ...]
    note: str = ""

    def __len__(self) -> int:
        return len(self.gpus)

    def describe(self, runs: int) -> str:
        """Say in a few words how so many runs train, and where."""
        gpus = sorted({g for g in self.gpus[:runs] if g is not None})
        count = min(runs, len(self))
        if not gpus:
            return f"{_runs(count)} at once on this machine's cores"
        each = f", at most {-(-count // len(gpus))} on each" if count > len(gpus) else ""
        return f"{_runs(count)} at once on GPU {', '.join(gpus)}{each}"


def local_workers(cfg: DictConfig) -> int | None:
    """How many runs the launcher trains at once on this machine, if it is one for that; else null."""
    launcher = OmegaConf.select(cfg, "hydra.launcher", default=None) or {}
    if launcher.get("n_jobs") is None:
        return None
    device = str(OmegaConf.select(cfg, "train.device", default="auto"))
    return len(find_places(launcher, [device]))


def find_places(launcher: Any, devices: Sequence[str]) -> Places:
    """Lay out the places of a launcher that trains several runs at once here.

    Args:
        launcher: its `n_jobs` (below 1: as many as there are cores or places on GPUs), `per_gpu` and
            `gpus` (null: those that are visible).
        devices: `train.device` of the runs.

    Raises:
        ConfigError: `per_gpu` is below 1, or `n_jobs` is 0.
    """
    per_gpu = launcher.get("per_gpu")  # not there in joblib's own launcher
    asked, per_gpu = int(launcher.get("n_jobs")), 1 if per_gpu is None else int(per_gpu)
    if asked == 0 or per_gpu < 1:
        name = "n_jobs" if asked == 0 else "per_gpu"
        raise ConfigError(
            f"hydra.launcher.{name}: at least 1 run has to go on at once; got {launcher.get(name)}. "
            "Leave it out, or set 1."
        )
    gpus = _gpus(launcher, set(devices))
    if not gpus:
        return Places((None,) * (asked if asked > 0 else count_cores()))
    names = [*gpus] * per_gpu  # each GPU once before any has two
    return Places(tuple(names[:asked] if asked > 0 else names))


def count_cores() -> int:
    """Return the cores that this process may use: by affinity and the limit of its container."""
    from joblib import cpu_count

    return int(cpu_count())


def _gpus(launcher: Any, devices: set[str]) -> list[str]:
    """The GPUs to spread runs over: none if runs are for the CPU, or name their GPU themselves."""
    if not devices & {"auto", "cuda"}:
        return []
    given = launcher.get("gpus")
    if given is not None:
        return [str(g) for g in given]
    from scaling.training.gpus import visible_gpus

    return visible_gpus()


def fit_places(places: Places, plans: Sequence[RunPlan]) -> Places:
    """Return as many of the places as the memory holds, with the reason if they are fewer.

    On the CPU the runs that need most are taken to go on together; on GPUs as many as share one.
    A run that does not fit alone is left to say so itself.
    """
    gpus = len({g for g in places.gpus if g is not None})
    if len(places) <= max(1, gpus):
        return places  # a run alone has its device, and chooses what fits
    from scaling.training.gpus import free_memory

    fit = _fit_gpus if gpus else _fit_cores
    return fit(places, plans, free=free_memory(gpus=bool(gpus)))


def _fit_cores(places: Places, plans: Sequence[RunPlan], *, free: float) -> Places:
    """Take places away until the largest runs fit beside each other."""
    asked = fewest = min(len(places), len(plans))
    while fewest > 1:
        needs = _needs(plans, workers=fewest)[:fewest]
        if sum(needs) + PROCESS_BYTES * len(needs) <= (1 - KEEP_FREE) * free:
            break
        fewest -= 1
    if fewest == asked:
        return places
    most = _needs(plans, workers=fewest)[0]
    return Places(
        places.gpus[:fewest],
        f"{_runs(fewest)} at once rather than {asked}: one holds up to {format_bytes(most + PROCESS_BYTES)}, and "
        f"{format_bytes(free)} of memory are free.",
    )


def _fit_gpus(places: Places, plans: Sequence[RunPlan], *, free: float) -> Places:
    """Put fewer runs on each GPU until they fit beside each other."""
    gpus = list(dict.fromkeys(places.gpus))
    each = -(-len(places) // len(gpus))
    most = max(_needs(plans, workers=len(places))) + CONTEXT_BYTES
    fewest = max(1, min(each, int((1 - KEEP_FREE) * free // most)))
    if fewest == each:
        return places
    kept = ([*gpus] * fewest)[: len(places)]
    return Places(
        tuple(kept),
        f"{_runs(fewest)} on a GPU rather than {each}: one holds up to {format_bytes(most)}, and "
        f"{format_bytes(free)} are free on it.",
    )


def _runs(count: int) -> str:
    return f"{count} run{'s' if count > 1 else ''}"


def _needs(plans: Sequence[RunPlan], *, workers: int) -> list[float]:
    """Bytes that each job is expected to hold, most first; 0 for one that will not fit anywhere here."""
    known: dict[str, float] = {}
    needs = []
    for trunks in find_programs(plans, workers):
        plan = trunks[0].parent
        key = repr((plan.shape, plan.batch_seqs, plan.config.train))
        if key not in known:
            known[key] = _need(plan)
        needs.append(known[key] * len(trunks))  # one model per trunk
    return sorted(needs, reverse=True)


def largest_job(plans: Sequence[RunPlan], *, workers: int) -> float:
    """Return the bytes that the largest job's process is expected to hold, `workers` at once."""
    return max(_needs(plans, workers=max(1, workers)), default=0.0) + PROCESS_BYTES


def _need(plan: RunPlan) -> float:
    from scaling.training.device import choose_engine

    try:
        engine = choose_engine(
            plan.shape, batch_seqs=plan.batch_seqs, train=plan.config.train, tokens=plan.tokens
        )
    except ScalingError:
        return 0.0  # the run says what is wrong
    return engine.memory(plan.shape).total

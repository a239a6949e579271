"""Launching a sweep: expand it, leave out what is finished, hand the rest to Hydra's launcher."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from scaling.cli.compose import Point, Sweep, expand, without_hydra
from scaling.cli.evaluate import unscored
from scaling.cli.followers import find_followers
from scaling.cli.handover import Queue, hand_over
from scaling.cli.jobs import Job
from scaling.cli.overrides import to_mapping
from scaling.cli.progress import Watch, say, sweep_progress
from scaling.cli.rounds import train_in_rounds
from scaling.cli.standing import (
    Standing,
    describe_spent,
    describe_standings,
    describe_strays,
    failures_before,
    find_standing,
    find_strays,
)
from scaling.cli.stopping import import_whole, stop_together
from scaling.cli.workers import local_workers
from scaling.study.config import RunConfig
from scaling.study.errors import ConfigError
from scaling.study.plan import RunPlan, make_plan
from scaling.study.record import FINISHED, check_writable, write_atomic
from scaling.study.trunks import describe_saving
from scaling.training.place import find_place, is_first

# said where runs train one after another in this process, and that turns out to be long
AT_ONCE = (
    "one run after another in this process. Several at once: stop this, and start it again with hydra/launcher=local "
    "(this machine's GPUs or cores), slurm or ray; runs go on where they are. `scaling train --help` shows a command for each."
)


def run_sweep(
    cfg: DictConfig, arguments: Sequence[str], launcher: Launcher, config_loader: Any
) -> list[Any]:
    """Train the missing runs of a sweep.

    Args:
        cfg: base configuration that Hydra composed; arguments: the task overrides.
        launcher: Hydra's launcher; config_loader: composes again where a config group is swept.

    Returns:
        Hydra's job results.
    """
    from scaling.cli.train import set_failed

    # 1. every run of the sweep, once
    parsed = OverridesParser.create(config_loader=config_loader).parse_overrides(list(arguments))
    plain = [o.input_line for o in parsed if not o.is_sweep_override() and o.input_line]
    base = without_hydra(cfg)

    def recompose(extra: list[str]) -> DictConfig:
        hydra = [str(o) for o in cfg.hydra.overrides.hydra]
        composed = config_loader.load_configuration(
            cfg.hydra.job.config_name, [*hydra, *plain, *extra], RunMode.RUN
        )
        return without_hydra(composed)

    sweep = expand(base, parsed, recompose)
    planned = unique_plans(sweep.points)

    # 2. those that are not finished; the dearest will be first, so that cores end together
    _check_launch(cfg, launcher)
    folder = Path(str(base.results)) / sweep.name
    runs = [*planned, *find_followers(planned)]
    before = failures_before(plan for _, plan in runs)
    standings = {p.run_id: find_standing(p, before=before.get(p.run_id, 0)) for _, p in runs}
    missing = [(point, plan) for point, plan in runs if standings[plan.run_id].open]
    done = sum(s.state in FINISHED for s in standings.values())
    if is_first():
        _say_standing(sweep.name, folder, runs, standings)
    if not missing:
        if is_first() and (hint := unscored(plan for _, plan in planned)):
            say(hint)
        set_failed(len(runs) - done)
        return []
    check_writable(folder)
    write_atomic(folder / "sweep.yaml", _sweep_text(sweep, len(planned)))

    saving = describe_saving([plan for _, plan in missing])
    if saving and is_first():
        say(f"{sweep.name}: {saving}", file=sys.stderr)
    plans = [plan for _, plan in missing]
    if isinstance(launcher, Queue):  # it takes jobs, and need not stay until they end
        _prepare_data(plans)
        set_failed(hand_over(sweep.name, folder, missing, launcher, done=done))
        return []
    workers, apart = prepare_launcher(launcher, plans, workers=local_workers(cfg))
    alone = _is_hydras_own(launcher) and find_place() is None and len(plans) > 1
    advice = AT_ONCE if alone else None
    show = sweep_progress(plans, done=done, hint=advice) if is_first() else nullcontext()
    with stop_together(plans) if apart else nullcontext():
        # 3. text once, before several processes ask for it at once
        if is_first():
            _prepare_data(plans)

        # 4. launch, watching the records
        def launch(jobs: Sequence[Job]) -> list[Any]:
            if _is_hydras_own(launcher) and not _is_asked_of_hydra(cfg):
                return [_train_here(job) for job in jobs]
            overrides = [[*plain, *job.overrides()] for job in jobs]
            return list(launcher.launch(overrides, initial_job_idx=0))

        with show as watch:
            results, failed = train_in_rounds(
                sweep.name, missing, launch, workers=workers, share=find_place() is None,
                before=before, follow=lambda: _new_followers(planned, standings, watch),
            )  # fmt: skip

    # 5. say what came out
    left = sum(not s.open and s.state not in FINISHED for s in standings.values())
    set_failed(failed + left)
    return results


def _train_here(job: Job) -> JobReturn:
    """Train a job in this process: Hydra would compose its plans again, a fifth of a second per run."""
    result = JobReturn(overrides=job.overrides())
    train_together = import_whole("scaling.training.trainer").train_together
    try:
        records = train_together(list(job.plans))
    except Exception as error:  # whatever ends a run, as in Hydra's own launcher: the others go on
        result.return_value, result.status = error, JobStatus.FAILED
    else:
        result.return_value = {r.run_id: r.to_dict() for r in records}
        result.status = JobStatus.COMPLETED
    return result


def _is_hydras_own(launcher: Launcher) -> bool:
    """Whether runs train one after another; the scan for plugins loads classes anew, so names are compared."""
    own = type(launcher)
    return (own.__module__, own.__name__) == (BasicLauncher.__module__, BasicLauncher.__name__)


def _is_asked_of_hydra(cfg: DictConfig) -> bool:
    """Whether each job needs what only Hydra does around it: callbacks, variables of the environment."""
    return bool(cfg.hydra.callbacks or cfg.hydra.job.env_set)


def _new_followers(
    planned: Sequence[tuple[Point, RunPlan]], standings: Mapping[str, Standing], watch: Watch | None
) -> list[tuple[Point, RunPlan]]:
    """Return, and show, the runs that follow those which diverged in this launch."""
    new = [(point, plan) for point, plan in find_followers(planned) if plan.run_id not in standings]
    if watch is not None:
        watch.join([plan for _, plan in new])
    return new


def _say_standing(
    name: str,
    folder: Path,
    runs: Sequence[tuple[Point, RunPlan]],
    standings: Mapping[str, Standing],
) -> None:
    """Say how a sweep that was launched before stands, and what was put right or is left alone."""
    found = list(standings.values())
    for text in (s.mended for s in found if s.mended):
        say(text, file=sys.stderr)
    if all(s.state in FINISHED for s in found):
        diverged = sum(s.state == "diverged" for s in found)
        note = f" ({diverged} diverged)" if diverged else ""
        say(
            f"{name}: all {len(found)} runs are finished{note}; nothing to train. Records: {folder}"
        )
    elif any(s.state != "waiting" for s in found):
        say(f"{name}: {describe_standings(found)}", file=sys.stderr)
    strays = 0 if name == RunConfig.sweep else find_strays(folder, [plan for _, plan in runs])
    for text in (describe_spent(standings), describe_strays(strays, folder)):
        if text:
            say(f"{name}: {text}", file=sys.stderr)


def prepare_launcher(
    launcher: Any, plans: Sequence[RunPlan], *, workers: int | None
) -> tuple[int | None, bool]:
    """Let a launcher of ours see what it is to train.

    Args:
        launcher: Hydra's. Ours have `prepare(plans)`, which returns how many train at once, and
            `apart`, whether the workers are this process's children.
        plans: what will be trained.
        workers: how many other launchers train at once here; null if that is not known.

    Returns:
        How many train at once, null if unknown, and whether in child processes.
    """
    if not hasattr(launcher, "prepare"):
        return workers, (workers or 1) > 1  # one worker is this process itself
    return launcher.prepare(plans), bool(launcher.apart)


def _check_launch(cfg: DictConfig, launcher: Launcher) -> None:
    """Refuse workers of workers: processes of torchrun or srun train one run at a time together."""
    if find_place() is not None and (local_workers(cfg) or isinstance(launcher, Queue)):
        raise ConfigError(
            "hydra/launcher: several runs at once do not go with torchrun or srun, whose processes train each run together. "
            "Leave out hydra/launcher, or start one process."
        )


def _prepare_data(plans: Sequence[RunPlan]) -> None:
    """Build the token stores that are not there yet, saying so."""
    from scaling.cli.progress import step_progress

    wanted = {repr(p.config.data): p for p in plans if p.config.data.source != "zipf_memory"}
    if not wanted:
        return
    text = import_whole("scaling.training.data")
    for plan in wanted.values():
        if text.describe(plan.config.data) is None:
            with step_progress(f"preparing text: {plan.config.data.source}") as on_progress:
                text.prepare(plan.config.data, context=plan.shape.context, on_progress=on_progress)


def unique_plans(points: Sequence[Point]) -> list[tuple[Point, RunPlan]]:
    """Plan each point; two points that are the same run are one."""
    planned: dict[str, tuple[Point, RunPlan]] = {}
    for point in points:
        plan = make_plan(point.config)
        planned.setdefault(plan.run_id, (point, plan))
    return list(planned.values())


def _sweep_text(sweep: Sweep, runs: int) -> str:
    """The sweep as it was launched, for whoever reads the folder later."""
    values = to_mapping(sweep.base) | {"runs": runs}
    return "# The sweep as last launched: base configuration and design.\n" + OmegaConf.to_yaml(
        OmegaConf.create(values)
    )

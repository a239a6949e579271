"""A mirror of metrics and record elsewhere (wandb); whatever goes wrong there, the run goes on."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from scaling.study.config import config_values
from scaling.study.plan import RunPlan
from scaling.study.record import RunRecord
from scaling.study.units import format_flops, format_quantity

TAG = 64  # characters: the longest tag that wandb takes


class Tracker:
    """Mirrors one run to wandb; the first failure is noted and ends the mirroring.

    One wandb run per run id, so that a resumed run goes on in the same place. Group is the sweep, the
    job type the role, tags say model, data, budget, objective and optimiser.
    """

    def __init__(self, run: Any, note: Callable[[str], None]) -> None:
        self._run, self._note = run, note

    def log(self, row: Mapping[str, Any]) -> None:
        """Mirror one metrics row."""
        self._try("log a row", lambda run: run.log(dict(row), step=int(row["step"])))

    def finish(self, record: RunRecord) -> None:
        """Mirror the final record as the run's summary, and close it."""
        values = {k: v for k, v in record.to_dict().items() if v is not None}
        self._try("write the summary", lambda run: run.summary.update(values))
        self._try("finish", lambda run: run.finish(exit_code=0 if record.status == "done" else 1))
        self._run = None

    def _try(self, what: str, act: Callable[[Any], object]) -> None:
        if self._run is None:
            return
        try:
            act(self._run)
        except Exception as error:  # wandb's failures have no common base; none may stop a run
            self._run = None
            self._note(
                f"tracker: wandb could not {what} ({_first_line(error)}); the run goes on without it"
            )


def open_tracker(
    plan: RunPlan, record: RunRecord, *, note: Callable[[str], None]
) -> Tracker | None:
    """Start mirroring a run as `tracker.*` asks; null (with a note) where that is not possible."""
    tracker = plan.config.tracker
    if tracker.name == "none" or tracker.mode == "disabled":
        return None
    try:
        import wandb
    except ImportError:
        note(
            "tracker: wandb is not installed; the run goes on without it. pip install wandb, or tracker.name=none"
        )
        return None
    except Exception as error:  # a broken installation raises anything; none may stop a run
        note(
            f"tracker: wandb cannot be imported ({_first_line(error)}); the run goes on without it"
        )
        return None
    if tracker.mode == "online" and not _has_key(wandb):
        note(
            "tracker: wandb has no API key, the run goes on without it. Run `wandb login`, or set tracker.mode=offline"
        )
        return None
    try:
        run = wandb.init(
            project=tracker.project, entity=tracker.entity, group=plan.config.sweep,
            mode="online" if tracker.mode == "online" else "offline",
            id=plan.run_id, name=plan.run_id, resume="allow", dir=str(plan.folder), job_type=plan.config.role,
            tags=list_tags(plan), config=flat_config(plan, record), settings=_settings(wandb),
        )  # fmt: skip
    except Exception as error:  # wandb's failures have no common base; none may stop a run
        note(f"tracker: wandb could not start ({_first_line(error)}); the run goes on without it")
        return None
    return Tracker(run, note)


def list_tags(plan: RunPlan) -> list[str]:
    """Return what runs are picked by: family, data, budget, objective, optimiser, and tracker.tags."""
    config = plan.config
    data = Path(config.data.path).name if config.data.path else config.data.source
    budget = (
        f"C={format_flops(config.budget.flops)}"
        if config.budget.flops
        else f"D={format_quantity(plan.tokens)}"
    )
    own = [tag.strip() for tag in (config.tracker.tags or "").split(",")]
    tags = [config.model.family, data, budget, plan.objective, config.optim.name, *own]
    return list(dict.fromkeys(tag[:TAG] for tag in tags if tag))


def flat_config(plan: RunPlan, record: RunRecord) -> dict[str, Any]:
    """Return every key under its dotted name, and what is known of the record as `record.NAME`."""
    asked = {key.name: value for key, value in config_values(plan.config)}
    known = {f"record.{k}": v for k, v in record.to_dict().items() if v is not None}
    return asked | known


def _settings(wandb: Any) -> Any:
    """Quiet, no console capture, no machine statistics, and no minutes spent on a dead server."""
    return wandb.Settings(
        console="off", silent=True, x_disable_stats=True, x_disable_meta=True, init_timeout=20,
    )  # fmt: skip


def _has_key(wandb: Any) -> bool:
    """Whether a key is set or stored; without one an online start would wait or ask."""
    return bool(os.environ.get("WANDB_API_KEY") or wandb.api.api_key)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]

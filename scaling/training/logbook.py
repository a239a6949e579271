"""What a run writes about itself: `config.yaml`, `run.json`, `metrics.jsonl`, and notes."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import socket
import time
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import yaml

from scaling.study.config import RunConfig
from scaling.study.cost import device_seconds
from scaling.study.errors import DamagedError
from scaling.study.plan import RunPlan, read_keys
from scaling.study.record import (
    COPY,
    FINISHED,
    NUMBERS_VERSION,
    RunRecord,
    read_record,
    salvage_metrics,
    write_atomic,
    write_record,
)
from scaling.study.retries import failures_of, settings_hash
from scaling.study.trunks import trunk_hash
from scaling.training.data import TokenData
from scaling.training.device import Engine
from scaling.training.environment import earlier_lives, find_environment, find_software
from scaling.training.evaluate import Evaluation
from scaling.training.finetuning import count_trained
from scaling.training.tracker import Tracker, open_tracker

RECORD_SECONDS = 1.0  # run.json is renewed at most this often: each time costs an fsync
LAST_ROWS = 10  # the record's train_loss is a mean over so many rows (of 200 by default: 5 %)

# keys of `optim` that the record holds under their own names; null where nothing reads them
OPTIM_FIELDS = (
    "cooldown", "cooldown_shape", "final_lr", "horizon", "beta1", "beta2", "eps", "clip", "base_width", "base_depth",
)  # fmt: skip

log = logging.getLogger("scaling")
OnProgress = Callable[[dict[str, Any]], None]


def finished_record(folder: Path) -> RunRecord | None:
    """Return the record of a run that is done or diverged; null if there is something to train.

    Raises:
        RecordError: `run.json` cannot be read, or is of another version.
    """
    if not (folder / "run.json").exists():
        return None
    try:
        record = read_record(folder)
    except DamagedError:
        return None
    return record if record.status in FINISHED else None


class Logbook:
    """The written side of one run; every write goes to disk first and to the tracker second."""

    def __init__(self, plan: RunPlan, *, on_progress: OnProgress | None = None) -> None:
        self.plan, self.folder, self.on_progress = plan, plan.folder, on_progress
        self.rows: list[dict[str, Any]] = []
        self.tracker: Tracker | None = None
        self.opened = False
        self._written = 0.0
        self._left_at: str | None = None  # when an earlier process was last heard of
        self.record = _planned_record(plan)
        if (self.folder / "run.json").exists():
            before = read_record(self.folder)
            self._left_at = before.updated_at
            self.record = self.record.replace(
                started_at=before.started_at, resumes=before.resumes, seconds=before.seconds,
                attempts=(before.attempts or 0) + 1, failures=failures_of(before),
                parent=before.parent, parent_tokens=before.parent_tokens, parent_seconds=before.parent_seconds,
                parent_joules=before.parent_joules, energy_source=before.energy_source,
                lives=before.lives, software=before.software, environment=before.environment,
            )  # fmt: skip
        (self.folder / COPY).unlink(missing_ok=True)  # of a run whose run.json was deleted
        self._write_config()
        self.refresh(now=True)

    def describe(self, engine: Engine, data: TokenData) -> None:
        """Add what is known once device and data are: the rest of the static record."""
        self.record = self.record.replace(
            unique_tokens=data.unique_tokens,
            order_seed=self.plan.order_seed,
            bytes_per_token=data.bytes_per_token,
            entropy_rate=data.entropy_rate,
            data_hash=data.data_hash,
            source_hash=data.source_hash,
            tokenizer=data.tokenizer,
            device=engine.name(),
            devices=engine.devices,
            parallel=engine.parallel,
            recompute=engine.recompute,
            threads=engine.threads if engine.device.type == "cpu" else None,
            precision=engine.precision,
            attention=engine.attention,
            compiled=engine.compile,
        )

    def go_on_from(self, step: int) -> None:
        """Cut the rows that a resumed run will write again, and start the tracker.

        A run that just left a trunk in this process has its rows and tracker already.
        """
        if self.opened and not (self.rows and self.rows[-1]["step"] > step):
            return
        self.opened = True
        rows, damaged = salvage_metrics(self.folder)
        self.rows = [row for row in rows if row["step"] <= step]
        self._write_rows()
        if damaged:
            self.warn(f"metrics.jsonl: {damaged} damaged lines are left out")
        self._begin_life(step)
        if step:
            self.record = self.record.replace(resumes=self.record.resumes + 1)
            self.note(f"continued from step {step} of {self.plan.steps}")
        else:
            self.refresh(parent=None, parent_tokens=None, parent_seconds=None, parent_joules=None)
        self.tracker = open_tracker(self.plan, self.record, note=self.note)
        self.refresh(now=True)

    def measured_by(self, source: str | None, *, again: bool) -> None:
        """Say what measures the energy from here on, beside what did in earlier lives."""
        before = (self.record.energy_source or "").split(", ") if again else []
        sources = dict.fromkeys(filter(None, [*before, source]))
        self.record = self.record.replace(energy_source=", ".join(sources) or None)

    def _begin_life(self, step: int) -> None:
        """Say with what the run is trained from here on, and keep what it was until now."""
        now = {"software": find_software(), "environment": find_environment()}
        lives = earlier_lives(self.record, now, step=step, at=self._left_at) if step else None
        self.record = self.record.replace(lives=lives, **now)

    def add(self, row: Mapping[str, Any]) -> None:
        """Append a metrics row; what is null or not finite is left out."""
        row = {k: v for k, v in row.items() if v is not None and math.isfinite(v)}
        self.rows.append(row)
        path = self.folder / "metrics.jsonl"
        if path.exists():
            with open(path, "a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        else:
            self._write_again()
        if self.tracker:
            self.tracker.log(row)
        self.refresh(step=row["step"], tokens=row["tokens"], seconds=row["seconds"])
        if self.on_progress:
            self.on_progress(self._progress())

    def refresh(self, *, now: bool = False, step: int | None = None, **changes: Any) -> None:
        """Take changes into the record and renew `run.json` if it is time (or `now`)."""
        changes = changes | ({"steps": step} if step is not None else {})
        self.record = self.record.replace(**changes)
        if now or time.monotonic() - self._written >= RECORD_SECONDS:
            self.record = self.record.replace(updated_at=utc_now())
            write_record(self.folder, self.record)
            self._written = time.monotonic()

    def note(self, text: str) -> None:
        """Keep a remark of soft trouble: in `notes.log` beside the record, and as a log message."""
        log.info("%s: %s", self.plan.run_id, text)
        self._keep(text)

    def warn(self, *texts: str) -> None:
        """Keep remarks that whoever watches should see."""
        for text in texts:
            log.warning("%s: %s", self.plan.run_id, text)
            self._keep(text)

    def sync(self) -> None:
        """Bring the rows to disk, so that a power cut leaves none missing before a checkpoint."""
        with (
            contextlib.suppress(FileNotFoundError),
            open(self.folder / "metrics.jsonl", "rb") as file,
        ):
            os.fsync(file.fileno())

    def _keep(self, text: str) -> None:
        with open(self.folder / "notes.log", "a", encoding="utf-8") as file:
            file.write(f"{utc_now()} {text}\n")

    def _write_config(self) -> None:
        text = yaml.safe_dump(self.plan.config.to_dict(), sort_keys=False, allow_unicode=True)
        write_atomic(self.folder / "config.yaml", text)

    def _write_rows(self) -> None:
        text = "".join(json.dumps(row) + "\n" for row in self.rows)
        write_atomic(self.folder / "metrics.jsonl", text)

    def _write_again(self) -> None:
        """Write all that is known, after somebody has deleted the folder under the run."""
        self._write_rows()
        self._write_config()
        self.refresh(now=True)
        self.warn("its files were deleted while it trained; they are written again from memory")

    def evaluated(self, result: Evaluation) -> None:
        """Take the final evaluation into the record."""
        finite = math.isfinite(result.loss)
        self.record = self.record.replace(
            val_loss=result.loss if finite else None,
            val_loss_se=_finite(result.loss_se),
            val_groups=result.groups,
            val_tokens=result.tokens,
            val_perplexity=_finite(result.perplexity),
            val_pseudo_perplexity=_finite(result.pseudo_perplexity),
            val_bits_per_byte=_finite(result.bits_per_byte),
            true_loss=result.true_loss,
            val_excess=_finite(result.excess),
            val_excess_se=_finite(result.excess_se),
        )

    def end(self, status: str, reason: str | None = None) -> RunRecord:
        """Write the last word on a run and return it."""
        losses = [row["train_loss"] for row in self.rows if "train_loss" in row][-LAST_ROWS:]
        finished = None if status == "running" else utc_now()
        tokens, flops = self.record.tokens or 0, self.plan.flops
        cost = self.plan.config.cost
        self.refresh(
            now=True, status=status, reason=reason, finished_at=finished,
            train_loss=sum(losses) / len(losses) if losses else None, epochs=self._epochs(tokens),
            flops_counted=float(flops.counted * tokens), flops_attention=float(flops.attention * tokens),
            flops_head=float(flops.head * tokens),
            device_seconds=device_seconds(self.record.seconds, self.record.devices, cost.per_device),
            energy_source=None if self.record.energy_joules is None else self.record.energy_source,
        )  # fmt: skip
        if self.tracker:
            self.tracker.finish(self.record)
        return self.record

    def fail(self, error: Exception) -> RunRecord:
        """Keep what ended this attempt, beside what ended those before it."""
        reason = f"{type(error).__name__}: {error}"
        failure = {
            "at": utc_now(), "host": socket.gethostname(), "step": self.record.steps,
            "error": type(error).__name__, "reason": reason, "settings": settings_hash(self.plan.config),
        }  # fmt: skip
        self.record = self.record.replace(failures=[*self.record.failures, failure])
        return self.end("failed", reason)

    def _epochs(self, tokens: int) -> float | None:
        unique = self.record.unique_tokens
        return tokens / unique if unique else None

    def _progress(self) -> dict[str, Any]:
        """What a progress line shows: the newest value of each."""
        values: dict[str, Any] = {
            "step": self.record.steps,
            "steps": self.plan.steps,
            "tokens": self.record.tokens,
        }
        for key in ("train_loss", "val_loss", "tokens_per_second"):
            values[key] = next((row[key] for row in reversed(self.rows) if key in row), None)
        return values


def utc_now() -> str:
    """Return the time as records hold it."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def _planned_record(plan: RunPlan) -> RunRecord:
    """Everything of a record that follows from the plan alone."""
    s, config = plan.shape, plan.config
    return RunRecord(
        run_id=plan.run_id, status="running", sweep=config.sweep, role=config.role, config_hash=plan.hash,
        setting_hash=plan.setting_hash, trunk_hash=trunk_hash(plan),
        init_from=plan.source.name if plan.source else None, init_hash=plan.source.hash if plan.source else None,
        pretrain_tokens=plan.source.trained if plan.source else None,
        finetune=config.finetune.parts if plan.source else None, params_trained=count_trained(plan),
        started_at=utc_now(), attempts=1, retry_of=config.retry.of,
        params_target=plan.params_target, params_convention=config.model.params_convention,
        params_total=plan.counts.total, params_embedding=plan.counts.embedding, params_head=plan.counts.head,
        params_non_embedding=plan.counts.non_embedding, params_active=plan.counts.active,
        family=config.model.family, kind=s.kind, objective=plan.objective,
        encoder_layers=s.encoder_layers or None, layers=s.layers, width=s.width, heads=s.heads, kv_heads=s.kv_heads,
        head_size=s.head_size, ffn=s.ffn, context=s.context, vocab=s.vocab,
        tokens=0, tokens_target=plan.tokens_target, steps=0, steps_planned=plan.steps, batch_tokens=plan.batch_tokens,
        optimizer=config.optim.name, parametrization=config.optim.parametrization, lr=plan.lr, weight_decay=plan.weight_decay, schedule=config.optim.schedule,
        warmup_steps=plan.warmup_steps, cooldown_steps=plan.cooldown_steps, seed=config.seed,
        **_optim_fields(config),
        order_seed=plan.order_seed, data_source=config.data.source, cost=config.cost.stated(),
        numbers_version=NUMBERS_VERSION, software=find_software(), environment=find_environment(),
    )  # fmt: skip


def _optim_fields(config: RunConfig) -> dict[str, Any]:
    read = read_keys(config)
    return {name: read.get(f"optim.{name}") for name in OPTIM_FIELDS}


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None

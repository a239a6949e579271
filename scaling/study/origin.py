"""Weights named by the sweep that trained them: `sweep:pretrain` is its run of the asked shape.

A sweep over sizes can so start each of its runs from the pre-trained model of that size, without
naming one of them.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

from scaling.study.config import RunConfig
from scaling.study.errors import CheckpointError, ConfigError, RecordError
from scaling.study.pretrained import PARTS, RUN_WEIGHTS, SIZES, run_shape
from scaling.study.record import RunRecord, read_record
from scaling.study.shape import ModelShape
from scaling.study.units import format_quantity, parse_quantity

MARK = "sweep:"
KEY = "model.init_from"
SAME_TOKENS = 0.01  # relative: a budget is rounded to whole steps


def names_sweep(init_from: str) -> bool:
    """Whether weights are named by a sweep."""
    return init_from.startswith(MARK)


@dataclass(frozen=True)
class Named:
    """`sweep:NAME` or `sweep:NAME@TOKENS`, read."""

    text: str
    sweep: str
    tokens: float | None

    @classmethod
    def read(cls, text: str) -> Named:
        """Read what was written.

        Raises:
            ConfigError: no name, or TOKENS is no number.
        """
        name, at, tokens = text.removeprefix(MARK).partition("@")
        if not name:
            raise ConfigError(
                f"{KEY}={text}: names no sweep. Write {MARK}NAME, the sweep's folder below `results`."
            )
        return cls(text, name, parse_quantity(tokens, key=f"{KEY}: tokens") if at else None)


def find_origin(config: RunConfig, shape: ModelShape | None) -> Path:
    """Return the folder of the finished run that a sweep has for a run.

    It is the one of the same shape; with TOKENS, of so many training tokens; of several seeds that of
    the run's own seed.

    Args:
        config: of the run, with `model.init_from` as sweep:NAME or sweep:NAME@TOKENS.
        shape: as asked for; null: of any shape.

    Raises:
        ConfigError: no finished run with weights fits, or several do; says what there is.
    """
    named = Named.read(str(config.model.init_from))
    folder = Path(config.results) / named.sweep
    finished = _finished(folder)
    if not finished:
        raise ConfigError(
            f"{KEY}={named.text}: {folder} has no finished run with weights. Train it first: scaling train {named.sweep}"
        )
    found = [(r, f) for r, f in finished if shape is None or _alike(f, r, shape)]
    if not found:
        sizes = ", ".join(sorted({_size(r, config) for r, _ in finished}))
        raise ConfigError(
            f"{KEY}={named.text}: no finished run of {folder} has the shape asked for. It has sizes {sizes} "
            f"({config.model.params_convention}). Train the size there first, or ask for one of these with the same parts."
        )
    if named.tokens is not None:
        budgets = ", ".join(sorted({format_quantity(r.tokens or 0) for r, _ in found}))
        found = [(r, f) for r, f in found if abs((r.tokens or 0) / named.tokens - 1) <= SAME_TOKENS]
        if not found:
            raise ConfigError(
                f"{KEY}={named.text}: no run of that shape in {folder} has so many training tokens. There are {budgets}."
            )
    if len(found) > 1:
        found = [(r, f) for r, f in found if r.seed == config.seed] or found
    if len(found) > 1:
        ids = " and ".join(r.run_id for r, _ in found[:2])
        raise ConfigError(
            f"{KEY}={named.text}: {len(found)} runs of {folder} fit, among them {ids}. "
            f"Name the tokens, {KEY}={MARK}{named.sweep}@2M, or one run by its id."
        )
    return found[0][1]


def _finished(folder: Path) -> list[tuple[RunRecord, Path]]:
    """Return the runs of a sweep that are done and whose weights were kept."""
    found = []
    for file in sorted(folder.glob("*/run.json")):
        if not (file.parent / RUN_WEIGHTS).is_file():
            continue
        try:
            record = _record_at(file.parent, file.stat().st_mtime_ns)
        except (RecordError, OSError):
            continue  # damaged: `scaling status` of that sweep says so
        if record.status == "done":
            found.append((record, file.parent))
    return found


def _alike(folder: Path, record: RunRecord, shape: ModelShape) -> bool:
    """Whether a run has the sizes and parts of a shape, its tables and context aside."""
    if any(getattr(record, key) != getattr(shape, key) for key in SIZES):
        return False
    try:
        other = _shape_at(folder, (folder / "config.yaml").stat().st_mtime_ns)
    except (OSError, CheckpointError):
        return False
    parts = (*PARTS, "encoder_layers")
    return all(getattr(other, key) == getattr(shape, key) for key in parts)


@functools.lru_cache(maxsize=4096)  # each plan of a sweep asks for all of them
def _record_at(folder: Path, _: int) -> RunRecord:
    return read_record(folder)


@functools.lru_cache(maxsize=256)
def _shape_at(folder: Path, _: int) -> ModelShape:
    return run_shape(folder)


def _size(record: RunRecord, config: RunConfig) -> str:
    return format_quantity(getattr(record, f"params_{config.model.params_convention}") or 0)

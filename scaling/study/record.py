"""The one record a run leaves: schema, atomic `run.json`, append-only `metrics.jsonl`.

Everything downstream (status, fit, plots, report) reads these two files and nothing else.
A value that is not known is null, never 0.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import math
import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scaling.study.errors import DamagedError, RecordError

SCHEMA_VERSION = 1
# of what training computes. Raised when a change of the code changes the numbers of a run on purpose:
# runs then get other names (see `RunPlan.hash`), and are not fitted together with older ones unasked
NUMBERS_VERSION = 1
STATUSES = ("running", "done", "diverged", "failed")
FINISHED = ("done", "diverged")  # not trained again
COPY = (
    "run.copy.json"  # a finished run's record once more, for a damaged file costs a day of training
)


def _f(unit: str, meaning: str, default: Any = None) -> Any:
    return field(default=default, metadata={"unit": unit, "meaning": meaning})


# fmt: off
@dataclass(frozen=True)
class RunRecord:
    """One run, flat: what was asked, what was trained, what came out."""

    run_id: str = field(metadata={"unit": "", "meaning": "readable slug and hash of what changes the numbers; the folder's name"})
    status: str = field(metadata={"unit": "", "meaning": "running, done, diverged or failed"})
    schema_version: int = _f("", "version of this schema", SCHEMA_VERSION)
    sweep: str | None = _f("", "sweep the run belongs to")
    role: str = _f("", "fit; or verify: held out from every fit", "fit")
    reason: str | None = _f("", "why a run diverged or failed")
    config_hash: str | None = _f("", "hash of what changes the numbers")
    setting_hash: str | None = _f("", "the same without seeds: runs with one differ in their seeds only")
    trunk_hash: str | None = _f("", "hash of the steps before the cooldown: runs with one share them; null: no wsd schedule")
    parent: str | None = _f("", "run whose trunk this run branches from")
    parent_tokens: int | None = _f("tokens", "training tokens of the trunk, shared with the parent and trained once")
    parent_seconds: float | None = _f("s", "part of seconds that was spent on the trunk, and is the parent's too")
    parent_joules: float | None = _f("J", "part of energy_joules that was spent on the trunk, and is the parent's too")
    stacked: int | None = _f("runs", "how many runs trained as one program; seconds is this run's share")
    init_from: str | None = _f("", "run or folder whose weights this run started from; null: fresh ones")
    init_hash: str | None = _f("", "hash of the content of those weights")
    pretrain_tokens: int | None = _f("tokens", "training tokens that those weights had seen, in all runs before; null: not known, or fresh weights")
    finetune: str | None = _f("", "which weights trained: all, last, head or lora; null: the run started from fresh weights")
    params_trained: int | None = _f("parameters", "parameters that trained; null in older records, where all did")
    started_at: str | None = _f("UTC", "first start")
    finished_at: str | None = _f("UTC", "end; null while running")
    updated_at: str | None = _f("UTC", "last time the run wrote this record")

    params_target: float | None = _f("parameters", "size asked for, in params_convention")
    params_convention: str | None = _f("", "convention the size was asked for in")
    params_total: int | None = _f("parameters", "all parameters")
    params_embedding: int | None = _f("parameters", "token and learned position tables")
    params_head: int | None = _f("parameters", "output head; 0 when tied to the embedding")
    params_non_embedding: int | None = _f("parameters", "blocks and norms: total - embedding - head")
    params_active: int | None = _f("parameters", "parameters a token passes through")
    family: str | None = _f("", "model preset")
    kind: str | None = _f("", "decoder, encoder or encoder_decoder; null in older records, which are decoders")
    objective: str | None = _f("", "what val_loss is the loss of: next_token, masked, masked+next_sentence, span_corruption, seq2seq or classify; null in older records: next_token")
    layers: int | None = _f("layers", "depth; of an encoder_decoder its decoder's")
    encoder_layers: int | None = _f("layers", "depth of an encoder_decoder's encoder; null: there is none")
    width: int | None = _f("channels", "model width d")
    heads: int | None = _f("heads", "query heads")
    kv_heads: int | None = _f("heads", "key and value heads")
    head_size: int | None = _f("channels", "width of a head")
    ffn: int | None = _f("channels", "hidden width of the feed-forward part")
    context: int | None = _f("tokens", "sequence length")
    vocab: int | None = _f("tokens", "vocabulary size")

    tokens: int | None = _f("tokens", "training tokens seen, D")
    tokens_target: float | None = _f("tokens", "training tokens asked for")
    unique_tokens: int | None = _f("tokens", "different training tokens there were to see")
    epochs: float | None = _f("epochs", "tokens / unique_tokens")
    steps: int | None = _f("steps", "optimiser steps done")
    steps_planned: int | None = _f("steps", "optimiser steps of the full budget")
    batch_tokens: int | None = _f("tokens/step", "global batch")
    flops_counted: float | None = _f("FLOPs", "training compute, every matrix product (attention over the full context, head), backward = 2 x forward")
    flops_attention: float | None = _f("FLOPs", "part of flops_counted in attention scores and values")
    flops_head: float | None = _f("FLOPs", "part of flops_counted in the output head")

    optimizer: str | None = _f("", "optimiser")
    parametrization: str | None = _f("", "how rates and initial sizes follow the shape: standard, mup or completep; null in older records, which are standard")
    lr: float | None = _f("1/step", "peak learning rate")
    weight_decay: float | None = _f("", "decoupled weight decay")
    schedule: str | None = _f("", "learning-rate schedule")
    warmup_steps: int | None = _f("steps", "linear warm-up")
    cooldown_steps: int | None = _f("steps", "last part in which the rate decays")
    cooldown: float | None = _f("share of steps", "share asked for; null: the schedule has none")
    cooldown_shape: str | None = _f("", "how the rate decays in the cooldown; null: the schedule has none")
    final_lr: float | None = _f("share of peak", "rate at the end; null: constant schedule")
    horizon: float | None = _f("tokens", "budget that the rules were read at; null: the run's own")
    beta1: float | None = _f("", "Adam's first moment")
    beta2: float | None = _f("", "Adam's second moment")
    eps: float | None = _f("", "Adam's epsilon")
    clip: float | None = _f("", "gradient norm is clipped to this; 0: never")
    base_width: int | None = _f("channels", "width at which rates are as given; null: standard parametrisation")
    base_depth: int | None = _f("layers", "depth at which rates are as given; null: only completep looks at depth")
    seed: int | None = _f("", "seed of the weights")
    order_seed: int | None = _f("", "seed of the token order")

    val_loss: float | None = _f("nats/token", "final validation loss: mean over the fixed held-out tokens")
    val_loss_se: float | None = _f("nats/token", "standard error of val_loss over held-out documents, or over blocks of sequences")
    val_groups: int | None = _f("", "documents or blocks that the standard errors are taken over")
    val_tokens: int | None = _f("tokens", "held-out tokens scored")
    val_perplexity: float | None = _f("", "exp(val_loss) of a next_token loss; other objectives have none")
    val_pseudo_perplexity: float | None = _f("", "exp(val_loss) of tokens predicted from both sides, many hidden at once: no perplexity, and lower than one would be")
    val_bits_per_byte: float | None = _f("bits/byte", "val_loss / ln 2 / bytes per token, of a next_token loss")
    true_loss: float | None = _f("nats/token", "loss of the true source on the same held-out tokens, where it is known")
    entropy_rate: float | None = _f("nats/token", "entropy rate of the true source, where it is known: the floor E")
    val_excess: float | None = _f("nats/token", "val_loss - true_loss on the same tokens")
    val_excess_se: float | None = _f("nats/token", "standard error of val_excess, over the same documents or blocks")
    val_sets: dict[str, dict] | None = _f("", "further held-out sets by name: loss, se [nats/token], tokens, groups, bits_per_byte, bits_per_character, perplexity, text, data_hash; of a known source true_loss, excess, excess_se; of a group of the data its label (group) and share of the training bytes")  # noqa: RUF009
    measures: dict[str, dict] | None = _f("", "what else the run was judged by, by name: value, se, n (examples), better (higher or lower); of a group of the data its label (group)")  # noqa: RUF009
    train_loss: float | None = _f("nats/token", "mean training loss over the last logged rows")
    bytes_per_token: float | None = _f("bytes/token", "on the held-out text")

    data_source: str | None = _f("", "text source")
    data_hash: str | None = _f("", "hash of the training and validation tokens")
    source_hash: str | None = _f("", "hash of a generated source's probability table")
    tokenizer: str | None = _f("", "tokenizer")

    seconds: float | None = _f("s", "time spent training, evaluation included, all lives of the run")
    device_seconds: float | None = _f("s", "seconds times devices, over the runs that shared a device (cost.per_device)")
    energy_joules: float | None = _f("J", "energy measured over `seconds`, this run's share where several ran at once; null: some of it was not measured")
    energy_source: str | None = _f("", "what measured it: nvml (GPU boards) or rapl (CPU packages, and memory where it is reported); null: nothing did")
    cost: dict[str, Any] | None = _f("", "rates stated when the run was trained, keys as in cost.*: watts, pue, rate, currency, carbon, carbon_source, per_device")  # noqa: RUF009
    tokens_per_second: float | None = _f("tokens/s", "training throughput, evaluation left out")
    mfu: float | None = _f("", "model-FLOPs utilisation: counted FLOPs/s over the device's peak")
    memory_bytes: int | None = _f("bytes", "peak memory of the process (CPU) or device")
    device: str | None = _f("", "device name")
    devices: int | None = _f("devices", "how many devices the run used")
    threads: int | None = _f("threads", "CPU threads")
    precision: str | None = _f("", "precision of matrix products")
    attention: str | None = _f("", "attention kernel")
    compiled: bool | None = _f("", "whether the model was compiled")
    parallel: str | None = _f("", "how processes shared the run: none (alone), ddp (each has the model), fsdp (divided)")
    recompute: bool | None = _f("", "whether blocks were computed again in the backward pass")
    resumes: int = _f("", "how often the run was continued after an interruption", 0)
    attempts: int | None = _f("", "how often a process set out to train the run; null in older records")
    failures: list[dict] = field(default_factory=list, metadata={"unit": "", "meaning": "every error that ended an attempt: at, host, step, error (its type), reason, settings (hash of what it was executed with)"})
    retry_of: str | None = _f("", "run that diverged, and that this one repeats at a lower rate")
    numbers_version: int | None = _f("", "version of what training computes; runs of different ones are not fitted together unless asked; null in older records")
    software: dict[str, str] = field(default_factory=dict, metadata={"unit": "", "meaning": "versions of this package, python, torch, cuda and numpy; code: a hash of the files that train; the git commit, and dirty: a hash of uncommitted changes to the code"})
    environment: dict[str, str] | None = _f("", "where the run was trained last: os, machine, cpu, gpu, cores, container, launcher, Slurm job")  # noqa: RUF009
    lives: list[dict] | None = _f("", "earlier lives of a run that went on with other software or on another kind of machine: until_step, until [UTC], software, environment")  # noqa: RUF009
# fmt: on

    def replace(self, **changes: Any) -> RunRecord:
        """Return a copy with fields changed."""
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Return the flat mapping that `run.json` holds."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], *, where: str = "record") -> RunRecord:
        """Check version and fields.

        Raises:
            RecordError: another schema version, a missing or unknown field, an unknown status, a value of
                another type than the field's.
        """
        version = values.get("schema_version")
        if version != SCHEMA_VERSION:
            raise RecordError(f"{where}: schema_version is {version!r}, this package reads {SCHEMA_VERSION}. Read it with the version that wrote it, or run it again.")
        known, required = _schema()
        unknown = [k for k in values if k not in known]
        missing = [n for n in required if n not in values]
        if unknown or missing:
            raise RecordError(f"{where}: unknown fields {unknown}, missing fields {missing}. The file was changed by hand or by another version; delete its folder to train the run again.")
        if values["status"] not in STATUSES:
            raise RecordError(f"{where}: status is {values['status']!r}, expected one of {', '.join(STATUSES)}.")
        for name, value in values.items():
            if not _fits(value, known[name][0]):
                raise RecordError(f"{where}: {name} is {value!r}, expected {known[name][1]}. The file was changed by hand; mend it, or delete its folder to train the run again.")
        record = object.__new__(cls)  # a frozen class sets a hundred fields one by one, which takes ten times as long
        vars(record).update({f.name: _default(f) for f in dataclasses.fields(cls) if f.name not in values} | dict(values))
        return record


_TYPES = {t.__name__: t for t in (str, int, float, bool, dict, list)} | {"None": type(None)}


@functools.cache
def _schema() -> tuple[dict[str, tuple[frozenset[type], str]], list[str]]:
    """Return types and annotation of every field, and the fields that must be there; asked for by each record."""
    fields = dataclasses.fields(RunRecord)
    known = {
        f.name: (frozenset(_TYPES[k.split("[")[0]] for k in str(f.type).split(" | ")), str(f.type))
        for f in fields
    }
    required = [f.name for f in fields if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING]
    return known, required


def _default(f: dataclasses.Field) -> Any:
    return f.default if f.default_factory is dataclasses.MISSING else f.default_factory()


def _fits(value: Any, types: frozenset[type]) -> bool:
    """Whether a value read from JSON is of one of the types of a field."""
    kind = type(value)
    if kind is float:  # JSON written elsewhere may say 4096.0
        return math.isfinite(value) and (float in types or (int in types and value.is_integer()))
    return kind in types or (kind is int and float in types)


def record_fields() -> Iterator[tuple[str, str, str]]:
    """Yield name, unit and meaning of every field of the record."""
    for f in dataclasses.fields(RunRecord):
        yield f.name, f.metadata["unit"], f.metadata["meaning"]


def record_types() -> Iterator[tuple[str, str]]:
    """Yield every field of the record with its type, without null: int, float, str, bool, dict or list."""
    for f in dataclasses.fields(RunRecord):
        kinds = [kind.split("[")[0] for kind in str(f.type).split(" | ") if kind != "None"]
        yield f.name, "float" if "float" in kinds else kinds[0]


# Training-curve rows: a row has `train_loss` or `val_loss` beside the common keys.
METRIC_FIELDS = {
    "step": ("steps", "optimiser steps done"),
    "tokens": ("tokens", "training tokens seen"),
    "seconds": ("s", "training time so far"),
    "train_loss": ("nats/token", "mean training loss since the last row"),
    "lr": ("1/step", "learning rate of the step"),
    "grad_norm": ("", "gradient norm before clipping"),
    "tokens_per_second": ("tokens/s", "throughput since the last row"),
    "val_loss": ("nats/token", "validation loss on the fixed held-out tokens"),
    "val_excess": ("nats/token", "val_loss minus the true source's loss, where known"),
    "val_loss/NAME": ("nats/token", "loss on the validation set NAME; in a row of its own at the end"),
}


def write_record(folder: Path, record: RunRecord) -> None:
    """Write `run.json` atomically: readers see the old record or the new one, never a part.

    The last word on a run is written twice, so that a damaged file costs nothing.
    """
    text = json.dumps(record.to_dict(), indent=1, allow_nan=False) + "\n"
    write_atomic(folder / "run.json", text)
    if record.status in FINISHED:
        write_atomic(folder / COPY, text)


def read_record(folder: Path, *, copy: bool = True) -> RunRecord:
    """Read `run.json` of a run's folder.

    Args:
        folder: the run's.
        copy: whether the copy, which finished runs have, stands in for a damaged file.

    Raises:
        DamagedError: cut off, or not JSON, and no copy stands in.
        RecordError: missing, not to be read, or of another schema version.
    """
    path = folder / "run.json"
    try:
        return RunRecord.from_dict(_read_mapping(path), where=str(path))
    except DamagedError:
        with contextlib.suppress(RecordError):
            if copy:
                return RunRecord.from_dict(_read_mapping(folder / COPY), where=str(folder / COPY))
        raise


def mend_record(folder: Path) -> str | None:
    """Put a damaged `run.json` right: from its copy, or aside, so that the run is trained on.

    Returns:
        What was done, in a sentence; null if nothing was wrong.

    Raises:
        RecordError: it cannot be read, or is of another schema version; it is left alone.
    """
    path = folder / "run.json"
    if not path.exists():
        return None
    try:
        _read_mapping(path)
        return None
    except DamagedError:
        aside = path.with_name("run.json.damaged")
    with contextlib.suppress(RecordError):
        record = RunRecord.from_dict(_read_mapping(folder / COPY), where=str(folder / COPY))
        write_record(folder, record)
        return f"{path}: damaged, restored from its copy"
    os.replace(path, aside)
    return f"{path}: damaged, set aside as {aside.name}; the run goes on from its last checkpoint"


def _read_mapping(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise RecordError(f"{path}: not there. The run never started; train it, or delete the folder.") from None
    except ValueError as error:  # not JSON, not UTF-8
        raise DamagedError(f"{path}: damaged ({error}). Delete the folder to train the run again.") from None
    except OSError as error:
        raise RecordError(f"{path}: cannot be read ({error.strerror}). Free it, or delete the folder to train the run again.") from None
    except RecursionError:
        raise DamagedError(f"{path}: damaged (brackets without end). Delete the folder to train the run again.") from None
    if not isinstance(values, dict):
        raise DamagedError(f"{path}: damaged (not a mapping). Delete the folder to train the run again.")
    return values


def is_finished(folder: Path) -> bool:
    """Whether a run has a readable record that says done or diverged."""
    try:
        return read_record(folder).status in FINISHED
    except RecordError:
        return False


def read_metrics(folder: Path) -> list[dict[str, float]]:
    """Read the training curve; a last line cut off by a kill is left out.

    Raises:
        RecordError: another line is damaged, or the file cannot be read.
    """
    rows, damaged = _split_rows(folder)
    if damaged:
        raise RecordError(f"{folder / 'metrics.jsonl'}: line {damaged[0]} is damaged. Mend or delete that line; the run's result is in run.json and stays.")
    return rows


def salvage_metrics(folder: Path) -> tuple[list[dict[str, float]], int]:
    """Return the whole rows of a training curve that say their step, and how many lines are damaged."""
    rows, damaged = _split_rows(folder)
    whole = [row for row in rows if isinstance(row.get("step"), int)]
    return whole, len(damaged) + len(rows) - len(whole)


def _split_rows(folder: Path) -> tuple[list[dict[str, float]], list[int]]:
    """Read a training curve; returns its rows and the numbers of damaged lines before the last."""
    path = folder / "metrics.jsonl"
    try:
        lines = path.read_bytes().splitlines()
    except (FileNotFoundError, NotADirectoryError):
        return [], []
    except OSError as error:
        raise RecordError(f"{path}: cannot be read ({error.strerror}). Free it, or delete the folder to train the run again.") from None
    rows, damaged = [], []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except ValueError:  # not JSON, or not UTF-8
            row = None
        if isinstance(row, dict):
            rows.append(row)
        elif number < len(lines):
            damaged.append(number)
    return rows, damaged


def write_atomic(path: Path, text: str | bytes) -> None:
    """Write a file so that a crash or a full disk leaves the old content whole."""
    data = text.encode() if isinstance(text, str) else text
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException as error:
        if isinstance(error, OSError):
            error.filename = str(path)  # a full disk does not say which file it refused
        Path(name).unlink(missing_ok=True)
        raise


def check_writable(folder: Path) -> None:
    """Create the folder and try to write into it, before hours of training.

    Raises:
        RecordError: it cannot be written.
    """
    probe = folder / f".writable.{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_text("")
        probe.unlink()
    except OSError as error:
        raise RecordError(
            f"{folder}: cannot be written ({error.strerror}). Set results=FOLDER to one that can, or free it."
        ) from None

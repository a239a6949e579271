"""Score the kept weights of a finished run on further texts, and add them to its record."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from scaling.study.config import RunConfig
from scaling.study.errors import ConfigError, DataError, RecordError
from scaling.study.plan import RunPlan, make_plan
from scaling.study.record import RunRecord, read_record, write_record
from scaling.training.checkpoint import load_weights
from scaling.training.choices import read_questions, score_choices
from scaling.training.claim import Claim
from scaling.training.data import HeldOut, TokenData, describe, prepare, prepared_folder
from scaling.training.data.validation import READABLE, check_sets, prepare_sets
from scaling.training.device import Engine, choose_engine
from scaling.training.evaluate import evaluate_sets
from scaling.training.measures import find_tokenizer, group_measures, take_all
from scaling.training.model import Transformer, build_model
from scaling.training.objectives import build_objective
from scaling.training.samples import judge_samples


def score_run(
    folder: str | Path,
    sets: Mapping[str, str],
    *,
    tokens: float | None = None,
    text_key: str | None = None,
    changes: Mapping[str, Any] | None = None,
) -> RunRecord:
    """Score a finished run on further held-out texts and return its renewed record.

    The run's own tokenizer and precision are used. A set that the record has already, with the same
    tokens, is not scored again; one of the same name with other tokens is replaced.

    Args:
        folder: the run's, with its kept weights.
        sets: {name: text}, texts as `data.path` takes them.
        tokens: most tokens of each set; null: the run's `data.val_tokens`.
        text_key: column of .jsonl, .parquet and datasets; null: the run's.
        changes: other keys that are no part of the run's numbers, e.g. {"train.device": "cuda"}.

    Raises:
        RecordError: the run is not finished, or its record or configuration is damaged.
        CheckpointError: its weights were not kept, or are damaged.
        DataError: a text cannot be read, or the tokenizer's training text is another one now.
        TrainError: another process works on the run.
    """
    folder = Path(folder)
    record = _finished(folder)
    config = read_config(folder).replace(**(changes or {}))
    config = config.replace(**{"data.validation": dict(sets), "train.compile": False})
    if record.precision in ("float32", "bfloat16"):
        config = config.replace(**{"train.precision": record.precision})
    texts = _open(config, record, folder, tokens=tokens, text_key=text_key)
    new = [t for t in texts if not _has(record, t)]
    if not new:
        return record
    scores = _score(config, folder, new)
    with Claim(folder):  # nobody else writes it between reading and writing
        record = _finished(folder)
        record = record.replace(val_sets={**(record.val_sets or {}), **scores})
        write_record(folder, record)
    return record


def judge_run(
    folder: str | Path,
    *,
    choices: Mapping[str, str] | None = None,
    samples: bool = False,
    changes: Mapping[str, Any] | None = None,
) -> RunRecord:
    """Take the measures of a finished run's objective on its held-out text, and return its renewed record.

    Args:
        folder: the run's, with its kept weights.
        choices: {name: .jsonl file} of multiple-choice questions, which become the measures
            NAME_accuracy and NAME_accuracy_norm; null: the measures of the objective.
        samples: judge the text that the run writes, see `judge_samples`, instead.
        changes: other keys that are no part of the run's numbers.

    Raises:
        MissingScores: a library that scores texts is not installed.
        ConfigError, and the errors of `score_run`.
    """
    folder = Path(folder)
    record, config = _finished(folder), read_config(folder).replace(**(changes or {}))
    config = config.replace(**{"train.compile": False})
    plan, engine, model = _load(config, folder)
    found: dict[str, dict] = {}
    if samples:
        with engine.autocast():
            found = judge_samples(model.eval(), _own_data(config, record, folder), plan)
    elif choices is None:
        data = _own_data(config, record, folder)
        found = take_all(model, data, plan, autocast=engine.autocast)
    for name, path in (choices or {}).items():
        questions = read_questions(path)
        if config.data.source not in READABLE:
            raise ConfigError(
                f"{folder}: data.source={config.data.source} is no text, so no question can be asked. Take a run of text."
            )
        with engine.autocast():
            scores = score_choices(model, questions, plan, find_tokenizer(config.data))
        found |= {f"{name}_{measure}": value for measure, value in scores.items()}
    with Claim(folder):  # nobody else writes it between reading and writing
        record = _finished(folder)
        record = record.replace(measures={**(record.measures or {}), **found} or None)
        write_record(folder, record)
    return record


def score_groups(
    folder: str | Path, key: str, *, changes: Mapping[str, Any] | None = None
) -> RunRecord:
    """Score a finished run on each group of its held-out text, and return its renewed record.

    Losses go to `val_sets`, and what the run is judged by (accuracy, BLEU) to `measures`, as NAME_GROUP.
    The training and held-out tokens stay as they are.

    Args:
        folder: the run's, with its kept weights.
        key: column of the run's text that says the group.
        changes: other keys that are no part of the run's numbers.

    Raises:
        ConfigError: the column names no groups, or the source has no columns.
        DataError: the text is another one now.
        RecordError, CheckpointError, TrainError, MissingScores: as for `score_run` and `judge_run`.
    """
    folder = Path(folder)
    record, config = _finished(folder), read_config(folder)
    config = config.replace(**{"data.validation": None, "train.compile": False, **(changes or {})})
    config = config.replace(**{"data.group_key": key})
    if record.precision in ("float32", "bfloat16"):
        config = config.replace(**{"train.precision": record.precision})
    data = _own_data(config, record, folder)
    if all(_has(record, s) for s in data.sets):
        return record
    plan, engine, model = _load(config, folder)
    scores = evaluate_sets(
        model, data.sets, context=plan.shape.context, objective=build_objective(plan), autocast=engine.autocast
    )  # fmt: skip
    found = group_measures(model, data.sets, plan, autocast=engine.autocast)
    with Claim(folder):  # nobody else writes it between reading and writing
        record = _finished(folder)
        record = record.replace(
            val_sets={**(record.val_sets or {}), **scores},
            measures={**(record.measures or {}), **found} or None,
        )
        write_record(folder, record)
    return record


def _own_data(config: RunConfig, record: RunRecord, folder: Path) -> TokenData:
    """Return the run's own tokens."""
    data = prepare(config.data, context=config.model.context)
    if data.data_hash != record.data_hash:
        raise DataError(
            f"{folder}: its held-out text is not there any more (tokens {record.data_hash}, now {data.data_hash}). "
            "Bring the text back, or train the run again."
        )
    return data


def read_config(folder: Path) -> RunConfig:
    """Return the configuration that a run was trained with.

    Raises:
        RecordError: it is missing or damaged.
    """
    path = folder / "config.yaml"
    try:
        return RunConfig.from_dict(yaml.safe_load(path.read_bytes()))
    except (OSError, yaml.YAMLError, UnicodeDecodeError, ConfigError) as error:
        raise RecordError(
            f"{path}: cannot be read ({error}). Bring the file back, or train the run again."
        ) from error


def _finished(folder: Path) -> RunRecord:
    record = read_record(folder)
    if record.status != "done":
        raise RecordError(
            f"{folder}: the run is {record.status}, so it has no final weights. Train it to its end first."
        )
    return record


def _open(
    config: RunConfig,
    record: RunRecord,
    folder: Path,
    *,
    tokens: float | None,
    text_key: str | None,
) -> tuple[HeldOut, ...]:
    """Return the sets in the run's tokens; a trained tokenizer is that of the very training text."""
    data = config.data
    check_sets(data)
    bare = dataclasses.replace(data, validation=None)
    if data.tokenizer == "bpe":
        prepare(bare, context=config.model.context)
        facts = describe(bare)
        if facts is None or facts.data_hash != record.data_hash:
            raise DataError(
                f"{folder}: its tokenizer was trained on a text that is not there any more (tokens {record.data_hash}, "
                f"now {facts.data_hash if facts else 'none'}). Bring the text back, or train the run again."
            )
    asked = dataclasses.replace(
        data, val_tokens=tokens or data.val_tokens, text_key=text_key or data.text_key
    )
    base = prepared_folder(bare)
    return prepare_sets(asked, base, context=config.model.context, on_progress=lambda *_: None)


def _has(record: RunRecord, held_out: HeldOut) -> bool:
    scored = (record.val_sets or {}).get(held_out.name)
    return scored is not None and scored.get("data_hash") == held_out.data_hash


def _load(config: RunConfig, folder: Path) -> tuple[RunPlan, Engine, Transformer]:
    plan = make_plan(config)
    engine = choose_engine(plan.shape, batch_seqs=1, train=config.train)
    model = build_model(plan.shape, attention=engine.attention).to(engine.device)
    load_weights(folder, model)
    return plan, engine, model


def _score(config: RunConfig, folder: Path, sets: list[HeldOut]) -> dict[str, dict[str, Any]]:
    plan, engine, model = _load(config, folder)
    return evaluate_sets(
        model, sets, context=plan.shape.context, objective=build_objective(plan), autocast=engine.autocast
    )  # fmt: skip

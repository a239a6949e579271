"""What training would refuse, seen from a plan: from names and sizes, before any text is read."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

from scaling.study.config import DataConfig
from scaling.study.errors import DataError, ScalingError
from scaling.study.objective import PAIRS
from scaling.study.plan import RunPlan
from scaling.training.data import DataFacts, describe
from scaling.training.data.store import token_dtype
from scaling.training.data.texts import is_streamed, text_files, text_identity

STDLIB_BYTES = 12e6  # of Python's own sources; 3.10 to 3.13 have 10 to 12 million


def foresee(plans: Iterable[RunPlan]) -> dict[str, list[RunPlan]]:
    """Return why runs would be refused for their data, as far as that is known without reading it.

    Args:
        plans: runs that are to be trained.

    Returns:
        For each data set or run that is refused the message, with the runs it stands for.
    """
    refused: dict[str, list[RunPlan]] = {}
    known: dict[str, int | DataFacts | str | None] = {}
    for plan in plans:
        data = plan.config.data
        key = repr((data, plan.shape.context))
        if key not in known:
            known[key] = _look(data, plan.shape.context)
        found = known[key]
        reason = found if isinstance(found, str) else _judge(plan, found)
        if reason:
            refused.setdefault(reason, []).append(plan)
    return refused


def store_bytes(data: DataConfig) -> float | None:
    """Return the disk that a data set's tokens will take at most [bytes]; 0 where they are there already.

    Null where it cannot be known without reading: compressed files, streams.

    Raises:
        ScalingError: the text is not there.
    """
    if data.source == "zipf_memory" or describe(data) is not None:
        return 0.0
    text = data.unique_tokens if data.source == "text" else data.size
    most = STDLIB_BYTES if data.source == "stdlib" else _most_tokens(data) or text
    return (most + data.val_tokens) * token_dtype(data.vocab).itemsize if most else None


def _look(data: DataConfig, context: int) -> int | DataFacts | str | None:
    """Return facts where the data is prepared, else the most tokens it may have; or what is wrong."""
    if data.source == "zipf_memory":
        return None
    try:
        for name, text in (data.validation or {}).items():
            _look_for_set(name, text)
        return describe(data, context=context) or _most_tokens(
            data
        )  # either looks for the files of the text
    except ScalingError as error:
        return str(error)


def _look_for_set(name: str, text: str) -> None:
    try:
        text_identity(text, 0)
    except DataError as error:
        raise DataError(str(error).replace("data.path", f"data.validation.{name}")) from error


def _most_tokens(data: DataConfig) -> int | None:
    """Return a bound on the unique tokens of text that is not prepared; null where there is none."""
    if data.source in PAIRS:  # how many pairs there are is seen when they are read
        return None
    asked = [] if data.unique_tokens is None else [int(data.unique_tokens)]
    if data.source == "text" and data.path and not is_streamed(data.path):
        files = text_files(data.path)
        if all(file.suffix in (".txt", ".jsonl") for file in files):  # .parquet is compressed
            # no tokenizer makes more than a token of a byte, but for a mark at a document's end
            asked.append(sum(2 * Path(file).stat().st_size for file in files))
    elif data.source not in ("text", "stdlib"):
        asked.append(int(data.size))
    return min(asked, default=None)


def _judge(plan: RunPlan, found: int | DataFacts | None) -> str | None:
    try:
        if isinstance(found, DataFacts):
            check_data(plan, found)
        elif found is not None:
            _check_epochs(plan, found)
    except DataError as error:
        return str(error)
    return None


def check_data(plan: RunPlan, data: DataFacts) -> None:
    """Refuse data that does not suit the plan.

    Raises:
        DataError: another vocabulary, or more epochs than `data.max_epochs`.
    """
    if data.vocab != plan.config.data.vocab:
        raise DataError(
            f"data.vocab: the tokenizer has {data.vocab} tokens, the plan {plan.config.data.vocab}. Set data.vocab={data.vocab}."
        )
    _check_epochs(plan, data.unique_tokens)


def _check_epochs(plan: RunPlan, unique_tokens: int) -> None:
    epochs, most = plan.tokens / unique_tokens, plan.config.data.max_epochs
    if epochs > most:
        raise DataError(
            f"data.max_epochs: {plan.run_id} would see its {unique_tokens:,} unique tokens {epochs:.6g} times and "
            f"{most:g} are allowed. Set data.max_epochs={math.ceil(epochs)}, a smaller budget, or a larger source."
        )

"""Which page of the documentation explains an error or a warning, and where that page is."""

from __future__ import annotations

import os
import re
from pathlib import Path

from scaling.study.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    FitError,
    RecordError,
    ScalingError,
    TrainError,
)

WARNINGS = "docs/fitting.md#warnings"

# Where an error arose, as its message begins, and the page; the first that fits.
PLACES = (
    (r"there is no sweep|sweep file|design\b|sweeps?:", "docs/configuration.md#sweep-files"),
    (r"hydra/launcher=slurm", "docs/cluster.md#what-to-set"),
    (r"hydra/launcher=ray|hydra\.launcher: Ray|hydra\.launcher\.address|Ray ", "docs/launchers.md#ray"),
    (r"hydra[./]launcher", "docs/launchers.md"),
    (r"data\.validation", "docs/evaluation.md"),
    (r"data\.(tokenizer|vocab)", "docs/data.md#tokenizers"),
    (r"data\.(path|text_key|group_key)|data[=:]", "docs/data.md#your-own-text"),
    (r"finetune\b", "docs/transfer.md#what-trains"),
    (r"model\.init_from=sweep:", "docs/transfer.md#weights-to-start-from"),
    (r"model\.init_from", "docs/huggingface.md#starting-from-weights"),
    (r"objective\b|data\.(classes|target)", "docs/tasks.md"),
    (r"(budget|model)\b", "docs/configuration.md#n-and-d"),
    (r"optim\b", "docs/hyperparameters.md"),
    (r"(columns|units|where)\b", "docs/loading.md#names-and-units"),
    (r"(train\.parallel|torchrun|srun)\b", "docs/distributed.md"),
    (r"(price|cost)\b", "docs/cost.md"),
    (r"simulate\b", "docs/designing.md#how-sure-the-answer-will-be"),
    (r"(auto|target|limits|allowance)\b", "docs/next.md"),
    (r"law\b", "docs/laws.md"),
    (r"intervals\b|resamples\b|level\b", "docs/fitting.md#the-intervals"),
    (r"mixed\b", "docs/loading.md#runs-that-do-not-belong-in-one-fit"),
    (r"(tracker|wandb)\b", "docs/configuration.md#weights-biases"),
)  # fmt: skip

# What is said anywhere in a message that begins with a run or a file.
WORDS = (
    (r"Train the sweep first", "docs/start.md"),
    (r"does not fit|fits? in(to)? memory|GiB|out of memory", "docs/distributed.md#memory"),
    (r"mixed=", "docs/loading.md#runs-that-do-not-belong-in-one-fit"),
    (r"no column|columns\.|units\.", "docs/loading.md#names-and-units"),
    (
        r"Leave these rows out|Check the column",
        "docs/loading.md#what-is-refused-and-what-is-doubted",
    ),
)

# A slip of the finger, which the message itself corrects.
SLIPS = ("Did you mean", "must be above", "must be at ", "expected true or false", "expected a ", "ratio above", "no key before the =")  # fmt: skip

# Else the page of its kind; the first that fits.
KINDS: tuple[tuple[type[ScalingError], str], ...] = (
    (DataError, "docs/data.md"),
    (RecordError, "docs/loading.md#what-is-refused-and-what-is-doubted"),
    (CheckpointError, "docs/resuming.md#what-can-happen"),
    (TrainError, "docs/resuming.md#what-can-happen"),
    (FitError, "docs/fitting.md"),
    (ConfigError, "docs/configuration.md"),
)

_ROOT = Path(__file__).resolve().parents[2]


def find_page(error: ScalingError) -> str | None:
    """Return the page that explains an error, as `docs/data.md#tokenizers`; null where its message is the cure."""
    if error.page:
        return error.page
    text = str(error)
    if any(word in text for word in SLIPS):
        return None
    for place, page in PLACES:
        if re.match(place, text):
            return page
    for word, page in WORDS:
        if re.search(word, text):
            return page
    return next((page for kind, page in KINDS if isinstance(error, kind)), None)


def more_on(error: ScalingError) -> str:
    """Return the line that leads to an error's page, or an empty text."""
    page = find_page(error)
    return f"More: {locate(page)}" if page else ""


def more_on_warnings(text: str) -> str:
    """Return the line that leads to the page of warnings, where a text has the code of one; else an empty text."""
    return f"More: {locate(WARNINGS)}" if re.search(r"\bW-[A-Z]+\b", text) else ""


def locate(page: str, *, root: Path = _ROOT) -> str:
    """Return where a page is: a file where the documentation lies beside the package, else as the repository has it."""
    name, mark, anchor = page.partition("#")
    path = root / name
    if path.is_file():
        here = os.path.relpath(path)
        return f"{path if here.startswith('..') else here}{mark}{anchor}"
    return f"{address()}{page}"


def address() -> str:
    """Return what stands before a page's name on the project's site, where its metadata tell one."""
    from importlib import metadata

    try:
        urls = metadata.metadata("scaling-lab").get_all("Project-URL") or []
    except metadata.PackageNotFoundError:
        urls = []
    named = dict(u.split(", ", 1) for u in urls if ", " in u)
    found = named.get("Repository") or named.get("Source")
    return f"{found.rstrip('/')}/" if found else ""

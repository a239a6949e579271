"""The pages people read, their blocks, and the folders that the blocks' lines read."""

from __future__ import annotations

import csv
import json
import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

ROOT = Path(__file__).parent.parent
SAMPLE = ROOT / "results" / "sample"
README = ROOT / "README.md"
PAGES = [
    *sorted(ROOT.glob("README*.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted(ROOT.glob("results/**/README.md")),
    ROOT / "benchmarks" / "README.md",
]
# a block that cannot run, or takes its time, says why on the line above it
BLOCK = re.compile(r"(?:^<!-- ((?:not run|slow): .+?) -->\n)?^```([\w-]*)\n(.*?)^```", re.M | re.S)


class Block(NamedTuple):
    """A block of a page: its language, its text, and why it is not run at once, if so."""

    language: str
    text: str
    reason: str


def all_blocks(page: Path) -> list[Block]:
    """Return every fenced block of a page."""
    return [Block(m[2], m[3], m[1] or "") for m in BLOCK.finditer(page.read_text("utf-8"))]


def blocks(page: Path, language: str, *, slow: bool = False) -> list[str]:
    """Return the text of a page's blocks of a language that are to be run; `slow`: those too."""
    left_out = ("not run",) if slow else ("not run", "slow")
    return [
        b.text
        for b in all_blocks(page)
        if b.language == language and not b.reason.startswith(left_out)
    ]


def page_name(page: Path) -> str:
    """Return a page's name in a test's name."""
    return str(page.relative_to(ROOT).with_suffix("")).replace("/", "-")


def write_runs(folder: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a record per row: one of the sample, with the row's fields in the place of its own."""
    record = json.loads(next(iter(sorted(SAMPLE.glob("llama-*/run.json")))).read_text())
    for i, row in enumerate(rows):
        run = folder / f"llama-page-{i:03d}"
        run.mkdir(parents=True)
        (run / "run.json").write_text(json.dumps({**record, **row, "run_id": run.name}))


def _grid() -> list[dict[str, Any]]:
    """Return sizes and tokens of 16 runs."""
    N, D = np.geomspace(1e5, 3e6, 4), np.geomspace(2e6, 2e8, 4)
    return [{"params_non_embedding": int(n), "tokens": int(d)} for n in N for d in D]


def _loss(n: float, d: float, floor: float) -> float:
    return floor + 20 / n**0.3 + 60 / d**0.3


def _of_groups(folder: Path) -> None:
    """Runs with a loss per language, as the page on gaps reads them."""
    rows = []
    for row in _grid():
        losses = {"en": _loss(*row.values(), 1.0), "zh": _loss(*row.values(), 1.3)}
        sets = {
            k: {"loss": x, "se": 1e-3, "bits_per_byte": x / np.log(2)} for k, x in losses.items()
        }
        rows.append({**row, "val_loss": losses["en"], "val_sets": sets})
    write_runs(folder / "results" / "quickstart", rows)


def _of_rates(folder: Path) -> None:
    """The check of the learning rate, from the numbers beside its figure."""
    with open(ROOT / "docs" / "images" / "check_lr.csv", encoding="utf-8") as file:
        rows = [r for r in csv.DictReader(file) if r["series"] == "runs"]
    named = {"lr": "lr", "N": "params_non_embedding", "D": "tokens", "loss": "val_loss", "C": "flops_counted"}  # fmt: skip
    write_runs(
        folder / "results" / "check_lr",
        ({ours: float(row[theirs]) for theirs, ours in named.items()} for row in rows),
    )


def _of_scores(folder: Path) -> None:
    """Runs whose induction score rises in a step."""
    rows = []
    for i, row in enumerate(_grid()):
        score = 0.03 + 0.5 / (1 + (2e7 / row["tokens"]) ** 2)
        rows.append({**row, "trunk_hash": str(i // 4), "measures": {"induction_score": {"value": score, "se": 0.01}}})  # fmt: skip
    write_runs(folder / "results" / "induction", rows)


def _of_tables(folder: Path) -> None:
    """A table from elsewhere: two data sets, losses in bits per byte."""
    lines = ["n_params_M,seen,bpb,dataset,data_hash"]
    for row in _grid():
        for name, floor in (("c4", 1.0), ("code", 0.7)):
            loss = _loss(*row.values(), floor) / np.log(2) / 4.3
            cells = (
                row["params_non_embedding"] / 1e6,
                row["tokens"] / 1e9,
                loss,
                name,
                "b28656f38e90159d",
            )
            lines.append(",".join(map(str, cells)))
    (folder / "runs.csv").write_text("\n".join(lines) + "\n")


def _of_transfer(folder: Path) -> None:
    """Runs from trained weights beside runs from scratch: those that are kept."""
    shutil.copytree(ROOT / "results" / "transfer", folder / "results" / "transfer")


PREPARED = {
    "docs-fairness": _of_groups,
    "docs-hyperparameters": _of_rates,
    "docs-inside": _of_scores,
    "docs-loading": _of_tables,
    "docs-transfer": _of_transfer,
}


def prepare(page: Path, folder: Path) -> None:
    """Lay out what a page's lines read: the sample, and what the page says it has."""
    shutil.copytree(SAMPLE, folder / "results" / "sample")
    PREPARED.get(page_name(page), lambda folder: shutil.copytree(SAMPLE, folder / "results" / "quickstart"))(folder)  # fmt: skip

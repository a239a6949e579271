"""scaling gaps SWEEP or TABLE [key=value ...]: the law of each group, and whether scale closes the gaps.

  scaling gaps fairness group=val_share_zh              each share of the text alone
  scaling gaps fairness where.val_share_zh=0.02 target.flops=1e14
  scaling gaps mysweep reference=en groups=zh,sw        some groups, compared with one of them
  scaling gaps fairness group=val_share_zh measure=excess fixed.E=0      the floors are known here
  scaling gaps mysweep measure=bpc                      bits per character; bpb (bits per byte) by default
  scaling gaps mysweep loss=accuracy law=bounded fixed.L0=0.75      columns accuracy_GROUP, chance a quarter

Groups are a column of your documents (data.group_key=language), the languages of data.source=bilingual,
or sets of data.validation. measure: bpb, bpc, loss (nats/token), excess (nats/token above the true
source), or the beginning of other columns; loss=NAME says the same. Accuracy, BLEU and the like are fitted
as what lacks to the best, 1 - accuracy, so that above 0 the group is worse off. Verdict at target.flops (10 times the largest compute unless
given): closes, stays, widens, reverses, opens, no gap, not identified, or law misses it (its gap at
the largest run is not the measured one).
Writes gaps.csv and figures/gaps.png beside the records, or into out=FOLDER.
Other keys: law, level, params, flops, where, group, mixed, target.flops, resamples, seed, results,
columns, units, fixed and holdout_above, as for `scaling fit`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scaling.cli import split_sweep
from scaling.cli.analyse import read_runs, split_runs
from scaling.cli.compose import compose_fit
from scaling.study.config import FitConfig

OWN = ("reference", "groups", "measure")


def run_gaps(arguments: Sequence[str]) -> int:
    """Print the gaps, and write their table and figure."""
    from scaling.analysis.fits.disparity import gaps

    name, rest = split_sweep(arguments)
    own = {k: v for k, _, v in (a.partition("=") for a in rest) if k in (*OWN, "loss")}
    config = compose_fit(name, [a for a in rest if a.partition("=")[0] not in (*OWN, "loss")])
    options: dict[str, Any] = {
        "groups": own["groups"].strip("[]").split(",") if "groups" in own else None,
        "reference": own.get("reference"), "measure": own.get("measure", _measure(own.get("loss"))),
        "law": config.law, "target": config.target.flops, "level": config.level,
        "resamples": config.resamples, "seed": config.seed, "fixed": config.fixed,
    }  # fmt: skip
    folder, runs = read_runs(config)
    runs, _ = split_runs(runs, config.holdout_above)
    out = _out(config, folder)
    parts = list(runs.groups(config.group)) if config.group else [("", runs)]
    tables: list[Any] = []
    paths: list[Path] = []
    for label, part in parts:
        found = gaps(part, **options)
        said = f"{config.group}={label}" if config.group else ""
        print("\n".join([*([f"== {said}"] if said else []), found.groups_table().text(), "", found.summary().text(), ""]))  # fmt: skip
        tables.append(found.table.assign(**{config.group: label}) if config.group else found.table)
        paths += _draw(found, out, label, said)
    print("Saved: " + ", ".join(map(str, [_write(tables, out), *paths])))
    return 0


def _measure(loss: str | None) -> str | None:
    """Return the measure that a column of the mixture belongs to: bpb of val_bpb, accuracy of accuracy."""
    from scaling.analysis.data.groupcolumns import KINDS

    return next((kind for kind, column in KINDS.items() if column == loss), loss)


def _out(config: FitConfig, folder: Path) -> Path:
    from scaling.analysis.writing import make_folder

    if config.out:
        make_folder(config.out)
        return Path(config.out)
    return folder if folder.is_dir() else Path()


def _draw(found: Any, out: Path, label: str, title: str) -> list[Path]:
    from scaling.present.disparity import gaps
    from scaling.present.style import close, save

    stem = "gaps" + "".join(c if c.isalnum() or c in "-." else "_" for c in f"_{label}" if label)
    figure = gaps(found, title=title)
    paths = save(figure, out / "figures" / f"{stem}.png")
    close(figure)
    return paths


def _write(tables: Sequence[Any], out: Path) -> Path:
    import pandas as pd

    path = out / "gaps.csv"
    pd.concat(tables, ignore_index=True).to_csv(path, index=False)
    return path

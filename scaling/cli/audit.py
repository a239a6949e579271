"""scaling audit TABLE [key=value ...]: the whole multiverse on a table of runs, anybody's.

  scaling audit runs.csv                                 what is doubtful, what decisions owe to choices
  scaling audit runs.csv target.flops=1e24               at this budget
  scaling audit runs.csv claims=claims.yaml              and what is wrong with what was published
  scaling audit epoch_chinchilla.csv claims=hoffmann     hoffmann, epoch and llama3 are built in
  scaling audit runs.csv columns.size=params columns.seen=tokens columns.eval=val_loss

Prints the findings and writes audit.json, audit.md and audit.html. claims.yaml may read:

  law: chinchilla
  params: {E: "1.69", A: "406.4", B: "410.7", alpha: "0.34", beta: "0.28"}   # as printed, in quotes
  objective: huber_log
  intervals: {a: [0.454, 0.455]}
  level: 0.8
  optimum: {C: 5.76e23, N: 40e9}

Keys:
  claims         what was published: hoffmann, epoch, llama3 or a YAML file
  target.flops   budget of N*, D* and loss [FLOPs]; default that of the claims, else 10 x the largest run
  params         which N: non_embedding, total, body_head, given; default as the table has it
  flops          which C: 6nd, counted, given; default as the table has it
  loss           column that is fitted [nats/token]
  columns.MINE   what a column of the table is: params, tokens, flops or val_loss
  units.NAME     unit of a column: k, M, B, PF-days, bits/byte ...
  where.COLUMN   keep the rows that have this value there
  laws           of the multiverse, with commas; default chinchilla,chinchilla_k
  objectives     of the multiverse; default huber_log,l1_log,mse_log,mse
  outliers       of the multiverse; default none,residuals,highest,models
  tuned          true: keep the best run of each N and D, for sweeps of the learning rate; default false
  resamples      bootstrap resamples behind the reference fit; default 400
  level          of intervals; default 0.9
  seed           of the bootstrap; default 0
  out            folder of the three files; default audit/TABLE
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scaling.study.errors import ConfigError, did_you_mean
from scaling.study.units import parse_quantity

KEYS = ("claims", "target.flops", "params", "flops", "loss", "laws", "objectives", "outliers", "tuned", "resamples", "level", "seed", "out")  # fmt: skip


def run_audit(arguments: Sequence[str]) -> int:
    """Audit the table, print the findings, write the three files."""
    table, keys = _parse(arguments)
    from scaling.analysis.audits.auditing import audit

    found = audit(
        _runs(table, keys), keys.get("claims"), C=_number(keys, "target.flops"),
        **{k: tuple(keys[k].split(",")) for k in ("laws", "objectives", "outliers") if k in keys},  # type: ignore[arg-type]
        resamples=int(_number(keys, "resamples") or 400), level=_number(keys, "level") or 0.9, seed=int(_number(keys, "seed") or 0),
    )  # fmt: skip
    print(found.text())
    for path in save(found, Path(keys.get("out") or Path("audit") / _name(table, keys))):
        print(f"\nSaved: {path}" if path.suffix == ".json" else f"       {path}")
    return 0


def save(found: Any, folder: Path) -> list[Path]:
    """Write audit.json, audit.md and audit.html; returns their paths."""
    from scaling.present.audit_page import write_audit
    from scaling.study.record import write_atomic

    paths = [found.save(folder / "audit.json"), folder / "audit.md"]
    write_atomic(paths[1], found.markdown())
    return [*paths, write_audit(found, folder / "audit.html")]


def _parse(arguments: Sequence[str]) -> tuple[str, dict[str, str]]:
    """Split the table from key=value pairs and check the keys."""
    tables = [a for a in arguments if "=" not in a]
    if len(tables) != 1:
        raise ConfigError(
            f"name one table, e.g. scaling audit runs.csv; got {' '.join(tables) or 'none'}."
        )
    keys = dict(a.split("=", 1) for a in arguments if "=" in a)
    for name, value in keys.items():
        if name not in KEYS and not name.startswith(("columns.", "units.", "where.")):
            known = [*KEYS, "columns", "units", "where"]
            raise ConfigError(
                f"{name}: no such key.{did_you_mean(name, known)} `scaling audit --help` lists all of them."
            )
        if not value:
            raise ConfigError(f"{name}: no value after the =. Give one, or leave the key out.")
    return tables[0], keys


def _number(keys: dict[str, str], name: str) -> float | None:
    return parse_quantity(keys[name], key=name) if name in keys else None


def _runs(table: str, keys: dict[str, str]) -> Any:
    """Load the table in the conventions asked for, with the rows asked for."""
    from scaling.analysis.data.runs import load
    from scaling.analysis.data.tuning import best_runs

    path = Path(table) if Path(table).exists() else Path("results") / table
    columns, units = _below(keys, "columns."), _below(keys, "units.")
    runs = load(path if path.exists() else table, columns=columns, units=units)
    runs = runs.using(params=keys.get("params"), flops=keys.get("flops"), loss=keys.get("loss"))
    for column, value in _below(keys, "where.").items():
        runs = runs.where(**{column: value})
    return best_runs(runs) if keys.get("tuned", "false").lower() == "true" else runs


def _below(keys: dict[str, str], prefix: str) -> dict[str, str]:
    return {k.removeprefix(prefix): v for k, v in keys.items() if k.startswith(prefix)}


def _name(table: str, keys: dict[str, str]) -> str:
    claims = Path(keys["claims"]).stem if "claims" in keys else ""
    return "_".join(filter(None, [Path(table).stem, claims]))

"""Which column of a table from elsewhere is which, and in what unit."""

from __future__ import annotations

import difflib
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from scaling.analysis.data.quantities import convert, read_numbers
from scaling.study.errors import FitError, RecordError, did_you_mean

ALIASES = {
    "params": ("params", "N", "n", "n_params", "parameters", "model_size", "num_params",
               "num_parameters", "n_parameters", "param_count"),
    "tokens": ("tokens", "D", "d", "n_tokens", "num_tokens", "training_tokens", "train_tokens",
               "tokens_seen", "total_tokens"),
    "flops": ("flops", "C", "c", "compute", "n_flops", "training_flops", "train_flops", "total_flops"),
    "val_loss": ("val_loss", "loss", "L", "l", "final_loss", "validation_loss", "eval_loss",
                 "test_loss", "final_val_loss"),
}  # fmt: skip
# Words that only ever suggest a column, in tables that people keep in Chinese or with units in the name.
HINTS = {
    "params": ("param", "参数", "模型大小"),
    "tokens": ("token", "词元", "数据量"),
    "flops": ("flop", "算力", "计算量"),
    "val_loss": ("loss", "损失"),
}
# A unit at the end of a name: `tokens (B)`, `n_params_M`, `seen_billion`, `参数(亿)`.
_UNIT = re.compile(
    r"(?:[\s_]|[\s_]*[(\[（])(?P<unit>k|M|B|T|bn|mio|thousands?|millions?|billions?|trillions?|万|百万|亿|十亿)[)\]）]?$"
)
_FACTORS = {"bn": "B", "mio": "M", "万": "1e4", "百万": "1e6", "亿": "1e8", "十亿": "1e9"}
# Below this a column whose name ends in a unit holds that unit; whole counts of real runs lie above.
_WHOLE = 1e6
OWN_PARAMS = ("params_non_embedding", "params_total")  # N whose convention is known


@dataclass(frozen=True)
class ColumnMap:
    """How a table's columns become ours.

    Args:
        columns: {column of the table: our name}.
        units: {our name, or the table's: unit}, see `quantities.convert`.
        bytes_per_token: for losses per byte, where the table has no such column.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    units: Mapping[str, Any] = field(default_factory=dict)
    bytes_per_token: float | None = None

    @classmethod
    def beside(cls, path: Path) -> ColumnMap | None:
        """Return the map in `runs.columns.yaml` beside `runs.csv`, if there is one.

        Raises:
            RecordError: the file is not a mapping with columns, units and bytes_per_token.
        """
        file = path.with_name(f"{path.name.split('.')[0]}.columns.yaml")
        if not file.is_file():
            return None
        try:
            stored = cls(**(yaml.safe_load(file.read_text(encoding="utf-8")) or {}))
            return cls(dict(stored.columns), dict(stored.units), stored.bytes_per_token)
        except (yaml.YAMLError, TypeError, ValueError, OSError) as error:
            raise RecordError(
                f"{file}: not a column mapping ({' '.join(str(error).split())}). Write `columns:`, `units:` "
                "(both name: value) and `bytes_per_token:`."
            ) from None

    def over(self, stored: ColumnMap) -> ColumnMap:
        """Return both maps; where both say something, this one holds."""
        return ColumnMap(
            {**stored.columns, **self.columns},
            {**stored.units, **self.units},
            self.bytes_per_token or stored.bytes_per_token,
        )

    def apply(self, source: pd.DataFrame, where: str) -> pd.DataFrame:
        """Return the table with our names and units.

        Raises:
            FitError: two columns for one name, an unknown unit, a cell that is no number; a name that
                ends in a unit nobody stated, with numbers as small as if it held.
        """
        table = _strip_names(source, where)
        table = _rename_as_asked(table, self.columns, where)
        table = _rename_by_alias(table)
        for name in [*ALIASES, *OWN_PARAMS, "bytes_per_token", *self._units(table)]:
            if name in table:
                table[name] = read_numbers(table[name], where=f"{where}: column {name!r}")
        self._check_units(table, where)
        per_byte = table.get("bytes_per_token", self.bytes_per_token)
        for name, unit in self._units(table).items():
            table[name] = convert(table[name], unit, name=name, bytes_per_token=per_byte)
        return table

    def _units(self, table: pd.DataFrame) -> dict[str, Any]:
        """The units by our names, for the columns this table has."""
        named = {self.columns.get(k) or _canonical(k) or k: unit for k, unit in self.units.items()}
        return {name: unit for name, unit in named.items() if name in table}

    def _check_units(self, table: pd.DataFrame, where: str) -> None:
        """Refuse counts whose own name says that they are in millions or the like, where no unit was stated."""
        stated = self._units(table)
        for mine, ours in self.columns.items():
            found = _UNIT.search(mine)
            counts = ours in ("params", "tokens", "flops") and ours in table
            if not (found and counts) or ours in stated:
                continue
            most = float(np.nanmax(table[ours].to_numpy(float), initial=0))
            if most < _WHOLE:
                said = found["unit"]
                unit = _FACTORS.get(said, said.rstrip("s"))
                raise FitError(
                    f"{where}: column {mine!r} says {said}, its largest value is {most:.6g}, and no unit was stated. Say "
                    f"units={{{ours!r}: {unit!r}}}, on the command line units.{ours}={unit}; units.{ours}=1 where they are whole counts."
                )

    def check_used(self, sources: list[pd.DataFrame]) -> None:
        """Refuse names that no source has; a typing error would otherwise go unnoticed.

        Raises:
            FitError: a column of the mapping is in none of the tables.
        """
        have = [str(c).strip() for s in sources for c in s.columns]
        for name, given in (("columns", self.columns), ("units", self.units)):
            if not isinstance(given, Mapping) or not all(isinstance(k, str) for k in given):
                raise FitError(f"{name}: needs {{name: name}} in text, e.g. {{'nparams': 'N'}}; got {given!r:.60}.")  # fmt: skip
        for mine, ours in self.columns.items():
            if mine in have:
                continue
            turned = (
                f" Write it the other way round: {{{ours!r}: {mine!r}}}." if ours in have else ""
            )
            raise FitError(
                f"columns: {mine!r} is no column.{turned or did_you_mean(mine, have)} There are: {', '.join(have[:30])}."
            )
        known = {*have, *self.columns.values(), *ALIASES}
        for name in self.units:
            if name not in known and _canonical(name) is None:
                raise FitError(
                    f"units: {name!r} is no column.{did_you_mean(name, known)} There are: {', '.join(have[:30])}."
                )


def _canonical(name: str) -> str | None:
    return next((ours for ours, aliases in ALIASES.items() if name in aliases), None)


def _strip_names(source: pd.DataFrame, where: str) -> pd.DataFrame:
    table = source.rename(columns=lambda c: str(c).strip()).reset_index(drop=True)
    twice = table.columns[table.columns.duplicated()].unique()
    if len(twice):
        raise FitError(
            f"{where}: column {', '.join(map(repr, twice))} is there more than once. Rename or drop the others."
        )
    return table


def _rename_as_asked(table: pd.DataFrame, columns: Mapping[str, str], where: str) -> pd.DataFrame:
    asked = {mine: ours for mine, ours in columns.items() if mine in table}
    for ours in set(asked.values()):
        mine = [m for m, o in asked.items() if o == ours]
        if len(mine) > 1:
            raise FitError(
                f"{where}: columns {', '.join(map(repr, mine))} are all mapped to {ours!r}. Map one of them."
            )
    # A column of that name that is there already gives way, but is kept.
    given_way = {o: f"{o}_original" for m, o in asked.items() if o in table and o not in asked}
    return table.rename(columns={**given_way, **asked})


def _rename_by_alias(table: pd.DataFrame) -> pd.DataFrame:
    own = any(c in table for c in OWN_PARAMS)
    for name, aliases in ALIASES.items():
        if name in table or (name == "params" and own):
            continue
        plain = {_plain(c): c for c in reversed(table.columns)}
        found = next((a for a in aliases if a in table), None) or next(
            (plain[a] for a in aliases if len(a) > 1 and a in plain), None
        )
        if found:
            table = table.rename(columns={found: name})
    return table


def _plain(name: str) -> str:
    """`Eval/Loss` and `eval loss` are `eval_loss`."""
    return re.sub(r"[\s/.\-]+", "_", name.lower())


def suggest(missing: str | Sequence[str], columns: Any) -> str:
    """Return how to map the columns that look most like the missing ones, or how to map any."""
    names = [missing] if isinstance(missing, str) else list(missing)
    found = {mine: name for name in names if (mine := _closest(name, columns))}
    hint = f" Did you mean {', '.join(map(repr, found))}?" if found else ""
    left = [name for name in names if name not in found.values()]
    shown = {**found, **{"mine" if len(left) == 1 else f"my_{n}": n for n in left}}
    words = " ".join(shlex.quote(f"columns.{mine}={name}") for mine, name in shown.items())
    return (
        f"{hint} Use load(..., columns={shown}), a file runs.columns.yaml beside runs.csv, "
        f"on the command line {words}."
    )


def _closest(missing: str, columns: Any) -> str | None:
    """Return the column that is spelled like a name we know, or has it among its words."""
    known = [a for a in ALIASES.get(missing, (missing,)) if len(a) > 1]
    spelled = {_plain(str(c)): str(c) for c in reversed(list(columns))}
    for alias in known:
        close = difflib.get_close_matches(_plain(alias), list(spelled), n=1, cutoff=0.75)
        if close:
            return spelled[close[0]]
    words = {_plain(a) for a in known}
    by_word = next((c for plain, c in spelled.items() if words & set(plain.split("_"))), None)
    hints = HINTS.get(missing, ())
    return by_word or next(
        (c for plain, c in spelled.items() if any(h in plain for h in hints)), None
    )


def fill_by_6nd(table: pd.DataFrame, where: str) -> tuple[pd.DataFrame, list[str]]:
    """Fill in the one of N, D, C that is missing, column or cell, from C = 6 N D.

    Raises:
        FitError: two of them are missing altogether.
    """
    names = ("params", "tokens", "flops")
    missing = [c for c in names if c not in table or table[c].isna().all()]
    if len(missing) > 1 and len(table):
        how = suggest([n for n in missing if n != "flops"], table.columns)
        raise FitError(
            f"{where}: needs two of N (params), D (tokens), C (flops); lacks {', '.join(missing)}; there are "
            f"{', '.join(map(str, table.columns))}.{how}"
        )
    n, d, c = (table[k] if k in table else pd.Series(np.nan, index=table.index) for k in names)
    with np.errstate(all="ignore"):  # unusable values are refused later, by row
        by_6nd = {"params": c / (6 * d), "tokens": c / (6 * n), "flops": 6 * n * d}
    notes = []
    for name, old in zip(names, (n, d, c), strict=True):
        empty = old.isna() & by_6nd[name].notna()
        if name in missing or empty.any():
            table = table.assign(**{name: old.where(~empty, by_6nd[name])})
            part = "" if name in missing else f" in {empty.sum()} of {len(table)} rows"
            notes.append(f"{where}: {name} filled in from C = 6 N D{part}.")
    return table, notes

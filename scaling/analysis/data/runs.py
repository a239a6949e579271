"""The table every fit starts from: one row per run, and which N, C and loss are meant.

Rows come from results folders (one `run.json` per run), table files, DataFrames or wandb.
Conventions are chosen at analysis, by `Runs.using`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from scaling.analysis.data import conventions
from scaling.analysis.data.columns import ColumnMap
from scaling.analysis.data.conventions import FLOPS, PARAMS
from scaling.analysis.data.costs import add_costs, read_rates
from scaling.analysis.data.curves import History, read_curves
from scaling.analysis.data.sources import read_sources
from scaling.analysis.data.tables import Problem, check_duplicates, number
from scaling.analysis.fits.refusals import check_scale, check_values
from scaling.study.cost import CostConfig
from scaling.study.errors import FitError, did_you_mean
from scaling.study.table import Table
from scaling.study.units import format_flops, format_quantity

__all__ = ["FLOPS", "PARAMS", "Runs", "as_runs", "load"]


@dataclass(frozen=True, eq=False)
class Runs:
    """Runs under fixed conventions. `N D C L` are arrays of the fit set: status done, role fit.

    Args:
        table: one row per run, columns as in `RunRecord` (or as given).
        params: which N: non_embedding, total, body_head (non-embedding + vocab x width), given.
        flops: which C: 6nd (6 N D with that N), counted (every matrix product), given.
        loss: the column fitted [nats/token].
        problems: records that were skipped, with the reason.
        notes: what was filled in or left out when loading.
        mixed: what may differ among the runs of one fit: data, code.
        histories: where curves come from that are in no folder, by run_id.
        cost: rates for all runs; null: as each was trained with.
    """

    table: pd.DataFrame
    params: str = "non_embedding"
    flops: str = "6nd"
    loss: str = "val_loss"
    problems: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()
    mixed: tuple[str, ...] = ()
    histories: Mapping[str, History] = field(default_factory=dict)
    cost: CostConfig | None = None

    def using(
        self,
        *,
        params: str | None = None,
        flops: str | None = None,
        loss: str | None = None,
        mixed: str | None = None,
        cost: CostConfig | Mapping[str, Any] | None = None,
    ) -> Runs:
        """Return the same runs with other conventions of N, C or loss, or other rates of cost.

        Args:
            mixed: fit them together although they differ in `data` (text, tokens), `code` (version of
                the numbers) or `all` of these; `none` takes it back.
            cost: what a device costs, e.g. {"watts": 400, "rate": 2.5, "currency": "EUR"}; gives columns
                energy_kwh, money and co2_kg.

        Raises:
            FitError: unknown convention, or a column it needs is missing.
        """
        changed = dataclasses.replace(
            self,
            params=params or self.params,
            flops=flops or self.flops,
            loss=loss or self.loss,
            mixed=self.mixed if mixed is None else conventions.read_mixed(mixed),
            cost=self.cost if cost is None else read_rates(cost),
        )
        changed._check_conventions()
        return changed

    @cached_property
    def frame(self) -> pd.DataFrame:
        """All rows, whatever their status, with `N D C L` in these conventions (NaN if unknown).

        Where known, also device_hours, energy_kwh, energy_source, money and co2_kg of each run.
        """
        frame = self.table.copy()
        frame["N"] = conventions.count_params(frame, self.params)
        frame["D"] = number(frame, "tokens")
        frame["C"] = (
            6.0 * frame["N"] * frame["D"]
            if self.flops == "6nd"
            else number(frame, FLOPS[self.flops][0])
        )
        frame["L"] = number(frame, self.loss)
        if "init_hash" in frame and "pretrained" not in frame:
            # 1 or 0, as laws of transfer read it
            frame["pretrained"] = frame["init_hash"].notna().astype(float)
        return add_costs(frame, self.cost)

    @cached_property
    def fit_rows(self) -> pd.DataFrame:
        """The runs a fit uses (status done, role fit), with `N D C L`, checked.

        Raises:
            FitError: no such run, a value that is missing, not finite or not positive, or N, D and C
                that contradict each other by powers of ten.
        """
        rows = self._rows("fit")
        if rows.empty:
            counts = ", ".join(f"{n} {s}" for s, n in self.table["status"].value_counts().items())
            raise FitError(
                f"runs: none of {len(self.table)} runs is done with role fit ({counts or 'table is empty'}). "
                "Train them first, e.g. `scaling train <sweep>`."
            )
        check_values(rows, {"N": self.params, "D": "tokens", "C": self.flops, "L": self.loss})
        check_scale(rows)
        return rows

    @cached_property
    def _size(self) -> int:
        return len(self._rows("fit"))

    @cached_property
    def verify(self) -> pd.DataFrame:
        """The finished runs kept out of every fit (role verify), with `N D C L`."""
        return self._rows("verify")

    @property
    def N(self) -> np.ndarray:
        """Parameters of the fit set, in the `params` convention."""
        return self.fit_rows["N"].to_numpy(float)

    @property
    def D(self) -> np.ndarray:
        """Training tokens of the fit set."""
        return self.fit_rows["D"].to_numpy(float)

    @property
    def C(self) -> np.ndarray:
        """Training FLOPs of the fit set, in the `flops` convention."""
        return self.fit_rows["C"].to_numpy(float)

    @property
    def L(self) -> np.ndarray:
        """Loss of the fit set, column `loss` [nats/token]."""
        return self.fit_rows["L"].to_numpy(float)

    def column(self, name: str) -> np.ndarray:
        """Return one value per fit run: N, D, C, L or M = D/N in these conventions, else a column.

        The column that links from a loss to a measure read, `proxy_loss`, is val_loss where the runs
        have none of that name and a measure is what is fitted.

        Raises:
            FitError: no such column, or a value in it that is not a finite number.
        """
        if name in ("N", "D", "C", "L"):
            return self.fit_rows[name].to_numpy(float)
        if name == "M":
            return self.D / self.N
        if name == "proxy_loss" and name not in self.fit_rows and self.loss != "val_loss":
            name = "val_loss"
        if name not in self.fit_rows:
            have = ", ".join(map(str, self.table.columns[self.table.notna().any()][:30]))
            raise FitError(
                f"runs: the law reads column {name!r}, which the runs lack.{did_you_mean(name, self.table.columns)} "
                f"Add it, or map one with load(..., columns={{'mine': {name!r}}}). There are: {have}."
            )
        values = number(self.fit_rows, name).to_numpy(float)
        if not np.isfinite(values).all():
            first = self.fit_rows["run_id"].to_numpy()[~np.isfinite(values)][0]
            raise FitError(
                f"runs: column {name!r} must hold finite numbers; it does not in {first}. Leave the row out."
            )
        return values

    def where(self, mask: Any = None, **values: Any) -> Runs:
        """Return the fit runs where a boolean array over the fit set is true, conventions kept.

        Args:
            mask: one true or false per run; null: all.
            values: column=value, for runs that have this value, e.g. `runs.where(tokenizer="bytes")`.

        Raises:
            FitError: the mask is no array of one true or false per run; no such column, or no run has
                the value.
        """
        array = np.ones(len(self.fit_rows), bool) if mask is None else np.asarray(mask)
        if array.dtype.kind not in "bO" or array.shape != (len(self.fit_rows),):
            raise FitError(
                f"where: needs one true or false for each of the {len(self.fit_rows)} runs, e.g. runs.where(runs.N > 1e8); got {mask!r:.60}."
            )
        for column, value in values.items():
            array = array.astype(bool) & conventions.has_value(self.fit_rows, column, value)
        chosen = self.fit_rows.index[array.astype(bool)]
        return dataclasses.replace(self, table=self.table.loc[chosen].reset_index(drop=True))

    def groups(self, by: str = "group") -> Iterator[tuple[str, Runs]]:
        """Yield (label, runs) for each value of a column, in the table's order, all roles kept.

        Rows without a value come under the label `(none)`.

        Raises:
            FitError: no such column.
        """
        if by not in self.table:
            raise FitError(
                f"groups: the runs have no column {by!r}.{did_you_mean(by, map(str, self.table.columns))} "
                f"There are: {', '.join(map(str, self.table.columns[:30]))}."
            )
        labels = self.table[by].map(str).where(self.table[by].notna(), "(none)")
        for label in labels.unique():
            part = self.table[labels == label].reset_index(drop=True)
            yield label, dataclasses.replace(self, table=part)

    def group(self, value: Any, by: str = "group") -> Runs:
        """Return the runs of one group, e.g. `runs.group("c4")`.

        Raises:
            FitError: no such column, or no such group in it.
        """
        found = dict(self.groups(by))
        if str(value) not in found:
            raise FitError(
                f"group: {by} is never {value!r}.{did_you_mean(str(value), found)} There are: {', '.join(found)}."
            )
        return found[str(value)]

    def curves(self) -> pd.DataFrame:
        """Return the validation curves of the finished fit runs in long form.

        Returns:
            Columns run_id, step, tokens [tokens], N, C [FLOPs], loss, val_loss [nats/token];
            `loss` is the column that is fitted where the curve has it, else val_loss.

        Raises:
            RecordError: there are curves, and none can be read. Single ones are in `curve_problems`.
        """
        return self._curves[0]

    @property
    def curve_problems(self) -> tuple[Problem, ...]:
        """The curves that could not be read, with the reason; the others are in `curves()`."""
        return self._curves[1]

    @cached_property
    def _curves(self) -> tuple[pd.DataFrame, tuple[Problem, ...]]:
        return read_curves(self.fit_rows, self.histories, self.loss)

    def describe(self) -> Table:
        """Return what the study spans: counts, ranges, conventions, what was skipped."""
        rows = self.fit_rows
        spans = [
            ("N", "parameters", format_quantity), ("D", "tokens", format_quantity),
            ("C", "FLOPs", format_flops), ("L", "nats/token", lambda v: f"{v:.4g}"),
        ]  # fmt: skip
        body = [
            [f"{name} [{unit}]", write(rows[name].min()), write(rows[name].max()),
             f"{rows[name].max() / rows[name].min():.3g}", str(rows[name].nunique())]
            for name, unit, write in spans
        ]  # fmt: skip
        states = ", ".join(f"{n} {s}" for s, n in self.table["status"].value_counts().items())
        note = [
            f"{self.conventions}.",
            f"{len(self.verify)} held out to verify; {states}.",
            *self.notes,
        ]
        note += [f"Skipped {p.path}: {p.message}" for p in self.problems]
        return Table(["", "least", "most", "ratio", "different"], body,
                     title=f"{len(rows)} runs in the fit", note="\n".join(note))  # fmt: skip

    @property
    def conventions(self) -> str:
        """One line that belongs beside every number: which N, which C, which loss."""
        return conventions.phrase(self.params, self.flops, self.loss)

    def columns_used(self) -> list[str]:
        """Return the table's columns that these conventions read."""
        used = [
            "run_id",
            "status",
            "role",
            "tokens",
            *PARAMS[self.params],
            *FLOPS[self.flops],
            self.loss,
        ]
        return list(dict.fromkeys(used))

    def __len__(self) -> int:
        return self._size

    def __repr__(self) -> str:
        return f"Runs({len(self)} in the fit of {len(self.table)}; {self.conventions})"

    def _repr_html_(self) -> str:
        return self.describe()._repr_html_()

    def _rows(self, role: str) -> pd.DataFrame:
        keep = (self.frame["status"] == "done") & (self.frame["role"] == role)
        return self.frame[keep]

    def _check_conventions(self) -> None:
        conventions.check_conventions(
            self.table, params=self.params, flops=self.flops, loss=self.loss
        )


def load(
    *sources: Any,
    columns: Mapping[str, str] | None = None,
    units: Mapping[str, Any] | None = None,
    bytes_per_token: float | None = None,
) -> Runs:
    """Load runs from folders, table files, DataFrames or wandb into one table.

    Args:
        sources: a folder of run folders (or of sweeps, or one run); a bundle (.scaling.zip); a .csv, .tsv, .json, .jsonl or
            .parquet file, or a DataFrame, with two of N, D, C and a loss (common names are
            understood); "wandb:ENTITY/PROJECT", or a folder with wandb's offline runs. Several
            are told apart by column `study`; {label: source} chooses the labels.
        columns: {column of the tables: params, tokens, flops, val_loss or any name of ours}.
        units: {column: unit}: a factor, k M B T, PFLOP, PF-days ..., bits/token, bits/byte,
            perplexity. Without one: parameters, tokens, FLOPs, nats/token.
        bytes_per_token: for losses per byte, where the tables have no such column.

    Returns:
        Runs in our own conventions (non-embedding N, C = 6ND), or `given` for tables from
        elsewhere. `runs.columns.yaml` beside `runs.csv` may hold the three mappings too.

    Raises:
        RecordError: a source is missing or holds no readable run.
        FitError: a table lacks a column, or has duplicate or unusable rows.
    """
    if not sources:
        raise FitError(
            "load: no source is given. Name a results folder, a CSV file or a DataFrame."
        )
    loaded = read_sources(sources, ColumnMap(columns or {}, units or {}, bytes_per_token))
    table = loaded.table
    if "folder" in table:  # overlapping sources name the same folder twice: that is one run
        own = table["folder"].notna() & table["folder"].duplicated()
        table = table[~own].reset_index(drop=True)
    check_duplicates(table)
    params, flops = conventions.default_conventions(table)
    runs = Runs(
        table, params=params, flops=flops, problems=tuple(loaded.problems),
        notes=tuple(loaded.notes), histories=loaded.histories,
    )  # fmt: skip
    runs._check_conventions()
    return runs


def as_runs(runs: Any) -> Runs:
    """Return `runs` itself, or load it if it is a path or DataFrame."""
    return runs if isinstance(runs, Runs) else load(runs)

"""How much each decision owes to choices that nobody can call wrong: the multiverse of fits.

A universe is one objective, one law, one treatment of outliers and one convention of N and C. Each
is an ordinary certified fit; the table of all of them shows which choice moves which decision.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from scaling.analysis import laws as registry
from scaling.analysis.audits import outliers as rules
from scaling.analysis.data.runs import FLOPS, PARAMS, Runs, as_runs
from scaling.analysis.data.tables import number
from scaling.analysis.fits.fitted import Fit
from scaling.analysis.fits.fitting import fit
from scaling.analysis.fits.objectives import Objective, get_objective
from scaling.analysis.given import as_numbers
from scaling.analysis.law import Law
from scaling.analysis.traps import codes
from scaling.study.errors import FitError, did_you_mean
from scaling.study.table import Table
from scaling.study.units import format_flops, format_quantity

OBJECTIVES = ("huber_log", "l1_log", "mse_log", "mse")
LAWS = ("chinchilla", "chinchilla_k")
OUTLIERS = ("none", "residuals", "highest", "models")
AXES = {
    "objective": "the objective",
    "law": "the law",
    "outliers": "which outliers are left out",
    "model": "leaving out one model",
    "convention": "how N and C are counted",
}
DECISIONS = ("a", "E", "N", "D", "tokens_per_param", "loss")


@dataclass(frozen=True, eq=False)
class Multiverse:
    """Every universe's fit, and how far each decision moves along each choice.

    Args:
        runs: what was fitted; C: target compute [FLOPs] of N*, D* and loss.
        frame: one row per universe: objective, law, outliers, model (left out), convention, runs,
            a, E, N [parameters], D [tokens], tokens_per_param, loss [nats/token], value (of the
            objective), codes (of its warnings), base (True for the first choice of every axis).
        skipped: universes without an answer, with the reason.
    """

    runs: Runs
    C: float
    frame: pd.DataFrame
    skipped: tuple[str, ...] = ()

    @property
    def base(self) -> Mapping[str, Any]:
        """The universe with the first choice of every axis."""
        return dict(self.frame[self.frame["base"]].iloc[0])

    def along(self, axis: str) -> pd.DataFrame:
        """Return the universes that differ from the base in one choice only, base included.

        Raises:
            FitError: no such axis.
        """
        if axis not in AXES:
            raise FitError(
                f"multiverse: {axis!r} is none of {', '.join(AXES)}.{did_you_mean(axis, AXES)}"
            )
        same = [(self.frame[other] == self.base[other]) for other in AXES if other != axis]
        return self.frame[np.logical_and.reduce(same)]

    def spread(self) -> pd.DataFrame:
        """Return lowest and highest value of each decision along each choice, and over all universes.

        Returns:
            One row per choice that has alternatives, then `all`: universes, and per decision
            <name>_low, <name>_high; N_ratio is N_high / N_low.
        """
        parts = {axis: self.along(axis) for axis in AXES}
        parts = {axis: rows for axis, rows in parts.items() if len(rows) > 1}
        return pd.DataFrame([_range(k, rows) for k, rows in {**parts, "all": self.frame}.items()])

    def sentences(self) -> list[str]:
        """Return in plain words how far each decision moves, and which choice moves it most."""
        spread = self.spread().set_index("axis")
        lines = [_say(spread, name, self.C) for name in ("a", "N", "loss")]
        return [*(line for line in lines if line), *self.skipped]

    def summary(self) -> Table:
        """Return the range of each decision along each choice as a table."""
        rows = []
        for row in self.spread().to_dict("records"):
            label = {"all": "all together"}.get(row["axis"], AXES.get(row["axis"], ""))
            cells = [_between(row, name) for name in DECISIONS]
            rows.append([label, str(row["universes"]), *cells])
        header = ["choice", "fits", "a", "E", "N*", "D* [tokens]", "tokens/param", "loss"]
        note = "\n".join(
            [f"Base: {_label(self.base)}. {self.runs.conventions}.", *self.sentences()]
        )
        title = f"What the decisions at {format_flops(self.C)} FLOPs owe to choices"
        return Table(header, rows, title=title, note=note)

    def __repr__(self) -> str:
        return f"Multiverse({len(self.frame)} fits at {format_flops(self.C)} FLOPs: {_between(_range('all', self.frame), 'N')} parameters)"

    def _repr_html_(self) -> str:
        return self.summary()._repr_html_()


def sensitivity(
    runs: Runs | pd.DataFrame | str,
    C: float | None = None,
    *,
    objectives: Sequence[str | Objective] = OBJECTIVES,
    laws: Sequence[str | Law] = LAWS,
    outliers: Sequence[str] = OUTLIERS,
    conventions: Sequence[Mapping[str, str]] | None = None,
    intervals: str = "none",
) -> Multiverse:
    """Fit every combination of defensible choices and show what each decision owes to them.

    Args:
        runs: finished runs; C: target compute [FLOPs], 10 times the largest run by default.
        objectives, laws: names; the first of each is the base.
        outliers: none, residuals (further than 3.5 robust SDs from the law), highest (the 2 % highest
            losses), models (each model left out in turn, in the base universe only).
        conventions: of N and C, e.g. [{"params": "total"}, {"params": "non_embedding"}]; by default
            the present one and all others that the table's columns allow.
        intervals: none or delta (adds <decision>_lo and _hi to the table).

    Returns:
        All universes with a, E, N*, D*, D/N and loss at C, and the range along each choice.

    Raises:
        FitError: unknown choice, or no universe has an optimum.
    """
    runs = as_runs(runs)
    _check(outliers, objectives, laws)
    budget = as_numbers("sensitivity: C", 10 * runs.C.max() if C is None else C)
    if budget.size != 1 or not (np.isfinite(budget).all() and (budget > 0).all()):
        raise FitError(
            f"sensitivity: C must be one budget, finite and above 0 FLOPs; got {budget.tolist()!r}."
        )
    C = float(budget.ravel()[0])
    counted = dict(_conventions(runs, conventions))
    rows, skipped = [], []
    for universe in _universes(counted, objectives, laws, outliers):
        try:
            rows.append(universe.row(C, intervals))
        except FitError as error:
            skipped.append(f"{universe.label} has no answer: {error}")
    if not rows:
        raise FitError(f"sensitivity: no universe has an answer. First: {skipped[0]}")
    frame = pd.DataFrame(rows)
    frame["base"] = frame.index == 0  # the first choice of every axis comes first
    return Multiverse(runs, C, frame, tuple(dict.fromkeys(skipped)))


@dataclass(frozen=True, eq=False)
class _Universe:
    runs: Runs
    objective: str | Objective
    law: str | Law
    choices: dict[str, str] = field(default_factory=dict)

    @property
    def label(self) -> str:
        return _label({**self._names, **self.choices})

    @property
    def _names(self) -> dict[str, str]:
        return {"objective": get_objective(self.objective).name, "law": registry.get(self.law).name}

    def row(self, C: float, intervals: str) -> dict[str, Any]:
        found = fit(self.runs, self.law, objective=self.objective, intervals=intervals)
        return self._names | self.choices | _decide(found, C)


def _decide(found: Fit, C: float) -> dict[str, Any]:
    """The decision quantities of one fit at the target."""
    best = found.optimal(C).iloc[0]
    known = {
        n: found.get(n) if n in (*found.law.names, *found.law.derived) else np.nan
        for n in ("a", "E")
    }
    row: dict[str, Any] = {"runs": len(found.runs), **known}
    row |= {n: float(best[n]) for n in ("N", "D", "tokens_per_param", "loss")}
    if found.intervals != "none":
        row |= {
            f"{n}_{e}": float(best[f"{n}_{e}"]) for n in ("N", "D", "loss") for e in ("lo", "hi")
        }
        row |= dict(zip(("a_lo", "a_hi"), found.interval("a"), strict=True))
    return row | {
        "value": found.value,
        "codes": " ".join(sorted(c for c in codes(found.warnings) if c.startswith("W-"))),
    }


def _universes(
    counted: Mapping[str, Runs],
    objectives: Sequence[str | Objective],
    laws: Sequence[str | Law],
    outliers: Sequence[str],
) -> Iterator[_Universe]:
    """Yield all combinations, the base first; models are left out of the base only."""
    crossed = [rule for rule in outliers if rule != "models"] or ["none"]
    cache: dict[tuple[str, str, str], Runs] = {}
    for convention, rule, law, objective in itertools.product(counted, crossed, laws, objectives):
        key = (convention, rule, registry.get(law).name if rule == "residuals" else "")
        if key not in cache:
            cache[key] = _RULES[rule](counted[convention], law)
        yield _Universe(
            cache[key], objective, law, {"outliers": rule, "model": "", "convention": convention}
        )
    if "models" in outliers:
        convention, runs = next(iter(counted.items()))
        kept = _RULES[crossed[0]](runs, laws[0])
        for size, own in rules.models(kept):
            choices = {
                "outliers": crossed[0],
                "model": format_quantity(size, 4),
                "convention": convention,
            }
            if not own.all():
                yield _Universe(kept.where(~own), objectives[0], laws[0], choices)


_RULES: Mapping[str, Callable[[Runs, str | Law], Runs]] = {
    "none": lambda runs, law: runs,
    "residuals": lambda runs, law: runs.where(~rules.far_from_law(runs, law)),
    "highest": lambda runs, law: runs.where(~rules.highest_losses(runs)),
}


def _conventions(
    runs: Runs, asked: Sequence[Mapping[str, Any]] | None
) -> Iterator[tuple[str, Runs]]:
    """Yield the present convention, then the others the table allows and that change N or C."""
    if asked is not None:
        for choice in asked:
            changed = runs.using(**choice)
            yield changed.conventions.split("; loss")[0], changed
        return
    seen: list[np.ndarray] = []
    for changed in [runs, *_others(runs)]:
        counts = np.concatenate([changed.N, changed.C])
        if not any(np.allclose(counts, known, rtol=1e-3) for known in seen):
            seen.append(counts)
            yield _name(changed, runs), changed


def _others(runs: Runs) -> Iterator[Runs]:
    """All conventions whose columns the table has for every run, further columns of N included."""
    rows = runs.fit_rows
    for params, flops in itertools.product(PARAMS, FLOPS):
        if all(c in rows and number(rows, c).gt(0).all() for c in (*PARAMS[params], *FLOPS[flops])):
            yield runs.using(params=params, flops=flops)
    if runs.params == "given":
        for column in [
            c for c in rows if c.startswith("params_") and c not in sum(PARAMS.values(), ())
        ]:
            if number(rows, column).gt(0).all():
                table = runs.table.assign(params=runs.table[column])
                for flops in ("6nd", "given"):
                    yield dataclasses.replace(runs, table=table, flops=flops, notes=(column,))


def _name(changed: Runs, runs: Runs) -> str:
    name = changed.conventions.split("; loss")[0]
    column = changed.notes[-1] if changed.notes and changed.notes != runs.notes else ""
    return name.replace("parameters as given", column) if column else name


def _check(outliers: Sequence[str], objectives: Sequence[Any], laws: Sequence[Any]) -> None:
    for rule in outliers:
        if rule not in OUTLIERS:
            raise FitError(
                f"outliers: {rule!r} is none of {', '.join(OUTLIERS)}.{did_you_mean(rule, OUTLIERS)}"
            )
    if not objectives or not laws:
        raise FitError("sensitivity: give at least one objective and one law.")
    for law in laws:
        registry.get(law)
    for objective in objectives:
        get_objective(objective)


def _range(axis: str, rows: pd.DataFrame) -> dict[str, Any]:
    ends: dict[str, Any] = {"axis": axis, "universes": len(rows)}
    for name in DECISIONS:
        ends |= {f"{name}_low": float(rows[name].min()), f"{name}_high": float(rows[name].max())}
    return ends | {"N_ratio": ends["N_high"] / ends["N_low"]}


def _between(row: Mapping[str, Any], name: str) -> str:
    lo, hi = row[f"{name}_low"], row[f"{name}_high"]
    if not np.isfinite(lo):
        return "-"
    if name in ("N", "D"):
        return f"{format_quantity(lo)} to {format_quantity(hi)}"
    digits = {"tokens_per_param": 3}.get(name, 4)
    return f"{lo:.{digits}g} to {hi:.{digits}g}"


def _say(spread: pd.DataFrame, name: str, C: float) -> str:
    """One sentence on one decision: its range over all universes and the choice that moves it most."""
    whole = dict(spread.loc["all"])
    if not np.isfinite(whole[f"{name}_low"]) or len(spread) < 2:
        return ""
    size = (
        np.log(spread["N_ratio"]) if name == "N" else spread[f"{name}_high"] - spread[f"{name}_low"]
    )
    mover = str(size.drop("all").idxmax())
    what = {"a": "a", "N": f"N* at {format_flops(C)} FLOPs", "loss": "the loss there"}[name]
    total = f" ({whole['N_ratio']:.2g}x)" if name == "N" else ""
    return (
        f"{what[0].upper() if name != 'a' else 'a'}{what[1:]} lies between {_between(whole, name).replace(' to ', ' and ')}{total} over {int(whole['universes'])} fits; "
        f"{AXES[mover]} moves it most ({_between(dict(spread.loc[mover]), name)})."
    )


def _label(universe: Mapping[str, Any]) -> str:
    parts = [str(universe["law"]), str(universe["objective"])]
    rule = universe.get("outliers", "none")
    parts += [] if rule == "none" else [f"outliers left out: {rule}"]
    parts += [f"without the {universe['model']} model"] if universe.get("model") else []
    return ", ".join([*parts, str(universe.get("convention", ""))]).rstrip(", ")

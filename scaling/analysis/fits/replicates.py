"""The noise floor: how far runs scatter that differ in nothing but their seeds."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import stats
from scipy.special import digamma

from scaling.analysis.data.conventions import is_set, loss_unit
from scaling.analysis.data.tables import number
from scaling.study.errors import FitError
from scaling.study.table import Table
from scaling.study.units import format_quantity

if TYPE_CHECKING:
    from scaling.analysis.data.runs import Runs

# What replicates have in common besides N and D, where a table has it. In our records setting_hash
# says it all; the names after it are what tables from elsewhere may tell.
SETTINGS = (
    "setting_hash", "layers", "width", "heads", "kv_heads", "ffn", "context", "vocab", "family", "init_hash",
    "batch_tokens", "optimizer", "parametrization", "base_width", "lr", "peak_lr", "learning_rate", "max_lr",
    "final_lr", "beta1", "beta2", "eps", "clip", "weight_decay", "schedule", "warmup_steps", "cooldown_steps",
    "cooldown_shape", "unique_tokens", "data_source", "data_hash", "tokenizer", "precision", "study", "group", "dataset",
)  # fmt: skip
SEEDS = ("seed", "order_seed")
UNLIKE = 0.05  # Bartlett's p below which groups are said to differ in noise
FEW_GROUPS = 4  # too few for a law of the noise
POWER, ALPHA = 0.8, 0.05  # Cohen 1988: what is usually asked of a comparison


@dataclass(frozen=True)
class SeedNoise:
    """How equal runs scatter: by group, pooled, and as a law of the loss.

    Args:
        p, q: of ln SD = p + q ln L, SD relative to L; with few groups q is 0, one relative SD for all.
        groups, freedom: settings with repeated seeds, and their degrees of freedom.
        table: a row per group: N, D, runs, mean, sd, lo, hi and se [nats/token], se that of evaluation.
        sd_nats, lo, hi: pooled SD, variances weighted by degrees of freedom, and its interval.
        level: of the intervals, by chi squared.
        alike: Bartlett's p for one SD in all groups; null with one group.
        loss, unit: the column, and its unit.
    """

    p: float
    q: float
    groups: int
    freedom: int
    table: pd.DataFrame = field(default_factory=pd.DataFrame, repr=False, compare=False)
    sd_nats: float = math.nan
    lo: float = math.nan
    hi: float = math.nan
    level: float = 0.9
    alike: float | None = None
    loss: str = "val_loss"
    unit: str = "nats/token"

    def sd(self, loss: np.ndarray) -> np.ndarray:
        """Return the relative SD of a run at a loss."""
        return np.exp(self.p + self.q * np.log(loss))

    def weights(self, loss: np.ndarray) -> np.ndarray:
        """Return weights 1 / SD^2 with mean 1, for fits on log loss."""
        inverse = self.sd(loss) ** -2.0
        return inverse / inverse.mean()

    def replicates(self, difference: float, *, sd: float | None = None) -> int:
        """Return the seeds per setting that show a difference between two settings.

        Args:
            difference: between their true losses, in the loss's unit.
            sd: of one run; null: the pooled one.

        Returns:
            Least n at which a two-sided t-test of n against n runs at 5 % finds it 4 times in 5.

        Source: Cohen 1988, Statistical Power Analysis for the Behavioral Sciences, chapter 2.
        """
        return count_replicates(difference, self.sd_nats if sd is None else sd)

    def summary(self, difference: float = 0.01) -> Table:
        """Return the noise floor as a table, with the seeds that a difference needs."""
        ask = f"seeds to see {difference:g}"
        header = ["N", "D", "seeds", f"mean {self.loss}", "SD", f"{100 * self.level:g} % interval", "SE of evaluation", ask]  # fmt: skip
        rows = [_cells(row, difference) for row in self.table.to_dict("records")]
        if self.groups > 1:
            pooled = {"sd": self.sd_nats, "lo": self.lo, "hi": self.hi}
            rows.append(["pooled", "", str(self.freedom + self.groups), "", *_spread(pooled), "", str(self.replicates(difference))])  # fmt: skip
        title = f"Noise floor: SD of {self.loss} between runs that differ in their seeds only [{self.unit}]"
        return Table(header, rows, title=title, note="\n".join(self._notes(difference)))

    def _notes(self, difference: float) -> list[str]:
        many = (
            f"{self.freedom} degrees of freedom in {self.groups} setting{'s' * (self.groups > 1)}"
        )
        notes = [
            f"Pooled: variances weighted by degrees of freedom; {many}; interval by chi squared."
        ]
        if self.alike is not None and self.alike < UNLIKE:
            notes.append(
                f"The settings differ in noise (Bartlett's p = {self.alike:.2g}): use each one's own SD, not the pooled one."
            )
        notes += [
            f"Seeds to see {difference:g}: per setting, so that a t-test at 5 % finds such a difference between two settings in 4 of 5 studies.",
            "SE of evaluation: error of one loss from the choice of held-out text. All runs share that text, so most of it cancels in "
            "differences between them, and more seeds do not lower it; more data.val_tokens do.",
        ]
        return notes

    def _repr_html_(self) -> str:
        return self.summary()._repr_html_()


def seed_noise(runs: Any, *, level: float = 0.9) -> SeedNoise:
    """Measure the scatter of runs that differ in their seeds only.

    Replicates have equal N, D and settings (`SETTINGS`, where the table has them) and different
    seeds. The relative SD is fitted as a power of the loss, weighted by degrees of freedom, as Porian
    et al. 2024 do; with fewer than four groups one pooled SD stands for all.

    Args:
        runs: `Runs`, or what `load` takes; the column `runs.loss` is measured.
        level: of the intervals.

    Raises:
        FitError: no two runs differ in their seeds only.
    """
    from scaling.analysis.data.runs import as_runs

    runs = as_runs(runs)
    found = [(rows, rows["L"].to_numpy(float)) for rows in _replicates(runs)]
    if not found:
        raise FitError(
            "seed_noise: no two runs have equal N, D and settings and different seeds. Repeat some runs with other seeds, "
            "e.g. `scaling train -m seed=0,1,2`, or give weights= as numbers."
        )
    table = pd.DataFrame([_row(runs, rows, losses, level) for rows, losses in found])
    freedom = table["runs"].to_numpy() - 1
    p, q = _law([losses for _, losses in found])
    total = int(freedom.sum())
    pooled = math.sqrt(float((freedom * table["sd"] ** 2).sum()) / total)
    lo, hi = _interval(pooled, total, level)
    alike = float(stats.bartlett(*(x for _, x in found)).pvalue) if len(found) > 1 else None
    return SeedNoise(
        p, q, len(found), total, table=table, sd_nats=pooled, lo=lo, hi=hi, level=level, alike=alike,
        loss=runs.loss, unit=loss_unit(runs.loss),
    )  # fmt: skip


def count_replicates(difference: float, sd: float) -> int:
    """Return the least n per side at which a two-sample t-test at 5 % has power 0.8.

    Raises:
        FitError: the difference is not above 0.
    """
    if not difference > 0:
        raise FitError(f"replicates: difference must be above 0; got {difference!r}.")
    n = max(2, int(2 * ((1.95 + 0.84) * sd / difference) ** 2))  # normal quantiles: a little low
    while _power(n, difference / sd) < POWER:
        n += 1
    return n


def _power(n: int, effect: float) -> float:
    freedom, shift = 2 * n - 2, effect * math.sqrt(n / 2)
    if shift > 30:  # beyond any doubt, and beyond what the distribution computes
        return 1.0
    edge = stats.t.ppf(1 - ALPHA / 2, freedom)
    return float(stats.nct.sf(edge, freedom, shift) + stats.nct.cdf(-edge, freedom, shift))


def _replicates(runs: Runs) -> list[pd.DataFrame]:
    """The groups of two or more runs that have all but their seeds in common, in order of N and D."""
    rows = runs.fit_rows
    by = ["N", "D", *(c for c in SETTINGS if c in rows and rows[c].notna().any())]
    seeds = [c for c in SEEDS if c in rows and rows[c].notna().any()]
    key = rows[by].map(_as_key).apply(tuple, axis=1)
    groups = []
    for _, group in rows.groupby(key, sort=False):
        group = group.drop_duplicates(seeds) if seeds else group
        if len(group) > 1 and np.ptp(group["L"].to_numpy(float)) > 0:
            groups.append(group)
    return sorted(groups, key=lambda g: (g["N"].iloc[0], g["D"].iloc[0]))


def _as_key(value: Any) -> Any:
    """A cell as it is compared: numbers to six digits, what is missing as null."""
    if isinstance(value, float):
        return None if math.isnan(value) else float(f"{value:.6g}")
    return None if value is None or value is pd.NA else value


def _row(runs: Runs, rows: pd.DataFrame, losses: np.ndarray, level: float) -> dict[str, float]:
    sd = float(losses.std(ddof=1))
    lo, hi = _interval(sd, len(losses) - 1, level)
    name = _error_column(runs.loss)
    se = number(rows, name).mean() if name in rows else math.nan
    return {
        "N": rows["N"].iloc[0], "D": rows["D"].iloc[0], "runs": len(rows), "mean": float(losses.mean()),
        "sd": sd, "lo": lo, "hi": hi, "se": float(se),
    }  # fmt: skip


def _error_column(loss: str) -> str:
    """Return the column with the standard error of a loss."""
    if is_set(loss):
        kinds = {"val_loss_": "val_se_", "val_excess_": "val_excess_se_"}
        return next((e + loss[len(k) :] for k, e in kinds.items() if loss.startswith(k)), "")
    return f"{loss}_se"


def _interval(sd: float, freedom: int, level: float) -> tuple[float, float]:
    """Interval of an SD from normal values: f s^2 / sigma^2 is chi squared with f degrees."""
    tail = (1 - level) / 2
    high, low = stats.chi2.ppf([1 - tail, tail], freedom)
    return sd * math.sqrt(freedom / high), sd * math.sqrt(freedom / low)


def _law(groups: list[np.ndarray]) -> tuple[float, float]:
    """Fit ln SD of ln L as p + q ln L; one SD for few groups or losses that hardly differ."""
    logs = [np.log(g) for g in groups]
    w = np.array([len(g) - 1 for g in logs], float)
    means = np.array([g.mean() for g in logs])
    # E ln(chi^2_f / f) = digamma(f/2) - ln(f/2): few seeds look too quiet
    log_sd = np.array([math.log(g.std(ddof=1)) for g in logs]) - 0.5 * (digamma(w / 2.0) - np.log(w / 2.0))  # fmt: skip
    if len(groups) < FEW_GROUPS or np.ptp(means) < np.log(1.2):
        return float(np.average(log_sd, weights=w)), 0.0
    q, p = np.polyfit(means, log_sd, 1, w=np.sqrt(w))
    return float(p), float(q)


def _spread(row: dict[str, Any]) -> list[str]:
    return [f"{row['sd']:.2g}", f"{row['lo']:.2g} to {row['hi']:.2g}"]


def _cells(row: dict[Any, Any], difference: float) -> list[str]:
    error = "-" if math.isnan(row["se"]) else f"{row['se']:.2g}"
    sure, likely = (count_replicates(difference, row[k]) for k in ("hi", "sd"))
    return [
        format_quantity(row["N"]), format_quantity(row["D"]), str(row["runs"]), f"{row['mean']:.4f}", *_spread(row),
        error, f"{likely}" if likely == sure else f"{likely} (up to {sure})",
    ]  # fmt: skip

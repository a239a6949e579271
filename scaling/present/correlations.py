"""How the parameters of a fit hang together: their correlations, and the draws behind them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap

from scaling.analysis.fits.fitted import Fit
from scaling.present import style
from scaling.study.errors import FitError, did_you_mean

MOST = 400  # draws shown in each cell
SIGN = LinearSegmentedColormap.from_list("sign", [style.ISOFLOP, "#ffffff", style.LAW])
CUT = 0.01  # share of draws beyond each side of a cell: one that ran away would flatten the rest
DARK = 0.75  # |r| from which a cell is so dark that its number is written white


def correlations(fit: Fit, names: Sequence[str] = (), *, ax: Axes | None = None) -> Axes:
    """Draw the correlation of each pair of parameters, and the draws it was counted from.

    Args:
        fit: with intervals, so that there are draws; coefficients are taken in logarithms.
        names: parameters or derived quantities; all free parameters and the exponent a if empty.
        ax: axes to draw on; new ones if None.

    Returns:
        The axes. Below the diagonal stands the correlation, above it the draws themselves: a bent
        cloud is a valley that one number does not describe. Where two are tied closely, the runs
        know only a combination of them, however wide each interval is alone.

    Raises:
        FitError: no draws, or fewer than two quantities that move.
    """
    data = _correlations_data(fit, names)
    table, draws = data["correlations"], data["draws"]
    shown = [c for c in draws if c in set(table["row"])]
    count = len(shown)
    with style.drawing(ax, size=(1.3 + 0.85 * count, 0.9 + 0.8 * count)) as ax:
        ax.grid(False)
        for row in table.itertuples():
            i, j = shown.index(str(row.row)), shown.index(str(row.column))
            if i > j:
                _write_cell(ax, j, i, float(row.r))
                _draw_cloud(ax, i, j, draws[shown[i]], draws[shown[j]])
        for i, name in enumerate(shown):
            ax.text(i, i, _title(fit, name), ha="center", va="center", fontweight="bold", fontsize=9)  # fmt: skip
        for edge in np.arange(count + 1) - 0.5:
            ax.axhline(edge, color=style.GRID, lw=0.8, zorder=1)
            ax.axvline(edge, color=style.GRID, lw=0.8, zorder=1)
        ax.set_xlim(-0.5, count - 0.5)
        ax.set_ylim(count - 0.5, -0.5)
        ax.set_aspect("auto")
        ax.set_xticks(range(count), [_title(fit, n) for n in shown])
        ax.set_yticks(range(count), [_title(fit, n) for n in shown])
        ax.tick_params(length=0)
        ax.spines[:].set_visible(False)
        ax.set_title(f"Correlations of {fit.law.name} ({fit.intervals})")
        ax.set_xlabel("below: correlation of the draws; above: the draws")
    style.remember(ax, data)
    return ax


def _correlations_data(fit: Fit, names: Sequence[str]) -> dict[str, pd.DataFrame]:
    """Return draws in the scale they are searched in, and the correlation of each pair."""
    if not fit.draws or not len(next(iter(fit.draws.values()), ())):
        raise FitError(
            f"correlations: this fit has no draws (intervals={fit.intervals!r}). Fit with intervals, e.g. intervals='auto'."
        )
    known = [*fit.law.names, *fit.law.derived]
    wrong = [n for n in names if n not in known]
    if wrong:
        raise FitError(f"correlations: {fit.law.name} has no {wrong[0]!r}.{did_you_mean(wrong[0], known)} It has {', '.join(known)}.")  # fmt: skip
    free = [n for n in fit.law.names if n not in fit.fixed]
    chosen = list(names) or [*free, *(["a"] if "a" in fit.law.derived else [])]
    drawn = pd.DataFrame({name: _values(fit, name) for name in chosen})
    drawn = drawn[np.isfinite(drawn).all(axis=1)]
    moving = [c for c in drawn if len(drawn) > 2 and drawn[c].std() > 1e-12 * (1 + abs(drawn[c].mean()))]  # fmt: skip
    if len(moving) < 2:
        raise FitError(f"correlations: {len(moving)} of {', '.join(chosen)} move between the draws; needs 2.")  # fmt: skip
    r = drawn[moving].corr()
    pairs = [{"row": a, "column": b, "r": r.loc[a, b]} for a in moving for b in moving]
    return {"correlations": pd.DataFrame(pairs), "draws": drawn[moving].reset_index(drop=True)}


def _values(fit: Fit, name: str) -> np.ndarray:
    """Return the draws of a quantity; of a coefficient that is searched in logarithms, its logarithm."""
    if name in fit.law.derived:
        return np.asarray(fit.law.derived[name](fit.draws, fit.cost), float)
    values = np.asarray(fit.draws[name], float)
    if not _is_log(fit, name):
        return values
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.log(values)


def _is_log(fit: Fit, name: str) -> bool:
    return any(p.name == name and p.log for p in fit.law.params)


def _title(fit: Fit, name: str) -> str:
    return f"ln {name}" if _is_log(fit, name) else name


def _write_cell(ax: Axes, x: int, y: int, r: float) -> None:
    color: Any = SIGN((r + 1) / 2)
    ax.fill_between([x - 0.5, x + 0.5], y - 0.5, y + 0.5, color=color, lw=0, zorder=0)
    digits = 2 if abs(r) < 0.995 else 3  # a correlation of 1.00 would be a different thing
    ax.text(x, y, f"{r:+.{digits}f}", ha="center", va="center", color="white" if abs(r) > DARK else style.INK)  # fmt: skip


def _draw_cloud(ax: Axes, x: int, y: int, across: pd.Series, up: pd.Series) -> None:
    """Draw draws of two quantities into one cell; the y axis of the whole points down."""
    step = max(len(across) // MOST, 1)
    h, v = (_scaled(s.to_numpy(float))[::step] for s in (across, up))
    inside = (np.abs(h) < 0.5) & (np.abs(v) < 0.5)
    ax.plot(x + h[inside], y - v[inside], ".", ms=2, color=style.LAW, alpha=0.45, mew=0, zorder=2, rasterized=True)  # fmt: skip


def _scaled(values: np.ndarray) -> np.ndarray:
    """Return values from -0.45 to 0.45 over all but the farthest draws."""
    low, high = np.quantile(values, [CUT, 1 - CUT])
    return 0.9 * ((values - low) / max(high - low, 1e-300) - 0.5)

"""The compute-optimal frontier: N*, D*, tokens per parameter or loss against compute."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from scaling.analysis.fits.fitting import Fit
from scaling.analysis.frontier.isoflops import IsoFlops
from scaling.present import style
from scaling.study.errors import FitError
from scaling.study.units import format_flops, format_quantity, format_with_interval

MANY = 15  # from this many budgets stars shrink
# What is drawn: its symbol, and its exponent in C where it is a power law.
QUANTITIES = {
    "N": ("N*", "a"),
    "D": ("D*", "b"),
    "tokens_per_param": ("D*/N*", ""),
    "loss": ("L*", ""),
}
TITLES = {
    "N": "Optimal size",
    "D": "Optimal tokens",
    "loss": "Loss on the frontier",
    "tokens_per_param": "Tokens per parameter",
}

LINE = 0.19  # height of a line of the legend [inches]
MARGIN = 6.0  # factor by which the axis of optima reaches beyond them


def frontier(
    iso: IsoFlops | None = None,
    fit: Fit | None = None,
    *,
    quantity: str = "N",
    target: float | None = None,
    verification: pd.DataFrame | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw the optimal size (or tokens, or loss) against compute by each approach.

    Args:
        iso: minima of IsoFLOP curves, drawn as stars with intervals, and their power law.
        fit: a fitted L(N, D), whose frontier is drawn with its interval as a band.
        quantity: N, D, tokens_per_param or loss.
        target: a planned budget [FLOPs]; the frontiers reach it and the optimum there is written.
        verification: held-out runs (columns N, D, C and L or measured) to mark; those of the runs by default.
        ax: axes to draw on; new ones if None.

    Returns:
        The axes. Lines are dashed, and bands paler, beyond the compute of the fitted runs.

    Raises:
        FitError: neither iso nor fit is given, or the quantity is not known.
    """
    data = _frontier_data(iso, fit, quantity, target, verification)
    runs = (fit or iso).runs  # type: ignore[union-attr]
    with style.drawing(ax) as ax:
        _draw_law(ax, data["law"], _legend_text("law", fit, quantity))
        _draw_power_law(ax, data["isoflop_line"], _legend_text(_name_of_minima(iso), iso, quantity))
        _draw_stars(ax, data["isoflop"], "" if len(data["isoflop_line"]) else _name_of_minima(iso))
        style.mark_held_out(ax, data["verification"]["C"], data["verification"]["value"])
        style.set_log_axis(ax.xaxis, "C")
        if quantity != "loss" or _ratio(data) > 2:
            style.set_log_axis(ax.yaxis, quantity)
            _keep_in_view(ax, data)
        _mark_target(ax, data, quantity, target)
        rising = quantity in ("N", "D")
        if rising:
            _make_room(ax, len(ax.get_legend_handles_labels()[0]))
        ax.set_title(TITLES[quantity])
        ax.set_xlabel(style.compute_label(runs.flops))
        ax.set_ylabel(_y_label(runs, quantity))
        ax.legend(loc="lower right" if rising else "best")
    style.remember(ax, data)
    return ax


def frontiers(
    iso: IsoFlops | None = None,
    fit: Fit | None = None,
    *,
    target: float | None = None,
    verification: pd.DataFrame | None = None,
    axes: Any = None,
) -> tuple[Axes, Axes]:
    """Draw N*(C) and D*(C) side by side; arguments as in `frontier`, `axes` a pair.

    Returns:
        The two axes.
    """
    if axes is None:
        with style.panels(1, 2, size=(10.4, 4.4)) as (_, made):
            axes = made
    pair = [
        frontier(iso, fit, quantity=q, target=target, verification=verification, ax=ax)
        for q, ax in zip(("N", "D"), axes, strict=True)
    ]
    return pair[0], pair[1]


def _frontier_data(
    iso: IsoFlops | None, fit: Fit | None, quantity: str, target: float | None, verification: pd.DataFrame | None
) -> dict[str, pd.DataFrame]:  # fmt: skip
    """Return stars, the power law through them, the law's frontier, and runs to mark."""
    if iso is None and fit is None:
        raise FitError(
            "frontier: neither IsoFLOP minima nor a fit is given. Give frontier(iso, fit), or one of them."
        )
    if quantity not in QUANTITIES:
        raise FitError(f"quantity: {quantity!r} is none of {', '.join(QUANTITIES)}.")
    runs = (fit or iso).runs  # type: ignore[union-attr]
    held = _held_out(runs.verify if verification is None else verification, quantity)
    ends = runs.C.min(), runs.C.max()
    grid = _grid(ends, [*held["C"], *([target] if target else [])])
    empty = pd.DataFrame(columns=["C", "value", "lo", "hi", "inside"])
    by_law = (
        empty
        if fit is None or fit.law.optimum is None
        else _columns(fit.optimal(grid), quantity, ends)
    )
    by_iso = (
        empty
        if iso is None or iso.a is None or quantity == "loss"
        else _columns(iso.optimal(grid), quantity, ends)
    )
    stars = empty if iso is None else _columns(iso.budgets, quantity, ends)
    return {"law": by_law, "isoflop_line": by_iso, "isoflop": stars, "verification": held}


def _grid(ends: tuple[float, float], more: list[float]) -> np.ndarray:
    """Return compute from a little below the runs to beyond whatever is asked, with the ends in it."""
    top = max([3.0 * ends[1], *(1.6 * c for c in more)])
    return np.unique(np.concatenate([np.geomspace(ends[0] / 1.6, top, 120), ends, more]))


def _columns(table: pd.DataFrame, quantity: str, ends: tuple[float, float]) -> pd.DataFrame:
    lo = table.get(f"{quantity}_lo", pd.Series(np.nan, index=table.index))
    hi = table.get(f"{quantity}_hi", pd.Series(np.nan, index=table.index))
    inside = table["C"].between(ends[0] * (1 - 1e-9), ends[1] * (1 + 1e-9))
    return pd.DataFrame(
        {"C": table["C"], "value": table[quantity], "lo": lo, "hi": hi, "inside": inside}
    )


def _held_out(runs: pd.DataFrame, quantity: str) -> pd.DataFrame:
    if quantity == "tokens_per_param":
        values = runs["D"] / runs["N"]
    else:
        values = runs[("L" if "L" in runs else "measured") if quantity == "loss" else quantity]
    return pd.DataFrame({"C": runs["C"], "value": values})


def _draw_law(ax: Axes, line: pd.DataFrame, label: str) -> None:
    """Draw the law's frontier; paler and dashed where it is an extrapolation."""
    if not len(line):
        return
    for part, dash, alpha in _parts(line):
        ax.plot(
            part["C"],
            part["value"],
            color=style.LAW,
            ls=dash,
            zorder=3,
            label=label if dash == "-" else None,
        )
        if part["lo"].notna().all():
            ax.fill_between(
                part["C"], part["lo"], part["hi"], color=style.LAW, alpha=alpha, lw=0, zorder=1
            )


def _draw_power_law(ax: Axes, line: pd.DataFrame, label: str) -> None:
    """Draw the line through the minima, thinner, with the ends of its interval dotted."""
    if not len(line):
        return
    for part, dash, alpha in _parts(line):
        ax.plot(part["C"], part["value"], color=style.ISOFLOP, ls=dash, lw=1.3, zorder=3)
        ax.fill_between(
            part["C"],
            part["lo"],
            part["hi"],
            color=style.ISOFLOP,
            alpha=alpha * 0.8,
            lw=0,
            zorder=1,
        )
        for end in ("lo", "hi"):
            ax.plot(part["C"], part[end], color=style.ISOFLOP, ls=":", lw=0.8, zorder=2)
    ax.plot(
        [], [], color=style.ISOFLOP, lw=1.3, marker="*", ms=11, mec=style.INK, mew=0.7, label=label
    )


def _parts(line: pd.DataFrame) -> list[tuple[pd.DataFrame, Any, float]]:
    """Split a frontier into inside the data (solid) and beyond on either side (dashed)."""
    known = line[line["inside"]]
    first, last = known["C"].min(), known["C"].max()
    parts: list[tuple[pd.DataFrame, Any, float]] = [
        (line[line["C"] <= first], style.BEYOND, 0.1),
        (known, "-", 0.22),
        (line[line["C"] >= last], style.BEYOND, 0.1),
    ]
    return [p for p in parts if len(p[0]) > 1]


def _keep_in_view(ax: Axes, data: dict[str, pd.DataFrame]) -> None:
    """Let the optima rule the axis: an interval of many decades is cut by the frame."""
    values = pd.concat([part["value"] for part in data.values() if "value" in part]).dropna()
    low, high = ax.get_ylim()
    ax.set_ylim(max(low, float(values.min()) / MARGIN), min(high, float(values.max()) * MARGIN))


def _make_room(ax: Axes, lines: int) -> None:
    """Lengthen the axis downwards for a legend: a frontier rises, so half its height is free there."""
    low, high = ax.get_ylim()
    share = min(0.55 * (lines + 0.8) * LINE / style.panel_height(ax), 0.4)
    ax.set_ylim(low / (high / low) ** (share / (1 - share)), high)


def _draw_stars(ax: Axes, stars: pd.DataFrame, label: str) -> None:
    if not len(stars):
        return
    known = stars[stars["lo"].notna()]
    errors = [known["value"] - known["lo"], known["hi"] - known["value"]]
    ax.errorbar(
        known["C"],
        known["value"],
        yerr=np.clip(errors, 0, None),
        ls="",
        color=style.INK,
        lw=1.0,
        capsize=2.5,
        zorder=4,
    )
    for row in known.itertuples():
        style.keep_clear(ax, [row.C] * style.ALONG, style.along(row.value, row.lo, row.hi))
    ax.plot(stars["C"], stars["value"], "*", ms=7 if len(stars) > MANY else 11, mfc=style.ISOFLOP, mec=style.INK, mew=0.7, zorder=5,
            label=label or None)  # fmt: skip


def _mark_target(
    ax: Axes, data: dict[str, pd.DataFrame], quantity: str, target: float | None
) -> None:
    """Mark the planned budget and write its optimum into the legend."""
    line = data["law"] if len(data["law"]) else data["isoflop_line"]
    if target is None or not len(line):
        return
    at = line.iloc[(line["C"] - target).abs().argmin()]
    text = f"planned {format_flops(target)} FLOPs: {QUANTITIES[quantity][0]} = {_interval_text(at, quantity)}"
    limits = ax.get_xlim(), ax.get_ylim()
    ax.vlines(
        target, *limits[1], color=style.MUTED, lw=0.9, ls=":", zorder=1
    )  # a legend may lie on it
    ax.set(xlim=limits[0], ylim=limits[1])
    ax.plot(
        target, at["value"], "o", ms=8, mfc="none", mec=style.INK, mew=1.3, zorder=6, label=text
    )


def _interval_text(at: pd.Series, quantity: str) -> str:
    if quantity in ("N", "D"):
        span = (
            f" [{format_quantity(at['lo'])}, {format_quantity(at['hi'])}]"
            if np.isfinite(at["lo"])
            else ""
        )
        return format_quantity(at["value"]) + span
    return " ".join(format_with_interval(at["value"], at["lo"], at["hi"])).strip()


def _legend_text(name: str, source: Any, quantity: str) -> str:
    """Name an approach with its exponent and interval."""
    symbol, exponent = QUANTITIES[quantity]
    found = _exponent(source, exponent) if source is not None and exponent else None
    if found is None:
        return name
    number, interval = format_with_interval(*found)
    name = f"{name}, {100 * source.level:g} %"
    return (
        f"{name}: {symbol} ∝ $C^{exponent}$, $\\mathit{{{exponent}}}$ = {number} {interval}".strip()
    )


def _name_of_minima(iso: IsoFlops | None) -> str:
    """Say how the minima were found."""
    how = {"akima": " (Akima)", "law": " (of the law)"}
    return f"IsoFLOP minima{how.get(iso.method, '') if iso else ''}"


def _exponent(source: Any, name: str) -> tuple[float, float, float] | None:
    """Return an exponent and its interval from IsoFLOP minima or a fit; None where it has none."""
    if isinstance(source, IsoFlops):
        found = getattr(source, name)
        return None if found is None else (found.value, found.lo, found.hi)
    if name not in source.law.derived:
        return None
    return (source.get(name), *source.interval(name))


def _y_label(runs: Any, quantity: str) -> str:
    if quantity == "N":
        return style.size_label(runs.params).replace("model size N", "optimal size N*")
    if quantity == "loss":
        return style.loss_label(runs.loss)
    return {"D": "optimal training tokens D* [tokens]"}.get(quantity, "tokens per parameter D*/N*")


def _ratio(data: dict[str, pd.DataFrame]) -> float:
    values = pd.concat([frame["value"] for frame in data.values() if len(frame)])
    return float(values.max() / values.min())

"""What can be pointed at in a drawn figure: runs, other marks, lines, as places in its SVG.

Read from what matplotlib drew and from the table that a figure remembers, so a figure need do
nothing to be pointed at: a mark belongs to the run whose row has both of its coordinates.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.path import Path

from scaling.present import style

TICKS = ("|", "_")  # markers that are the ends of error bars unless their line has a name
THIN = 0.4  # [points of 1/72 inch] a thinned curve stays this close to the whole one: not seen
CROWD = 300  # marks without a run, from which they are a cloud
STEPS = 40  # places along a law's line that can be read
KINDS = (("[FLOPs", "C"), ("parameters]", "N"), ("[tokens]", "D"))

Spot = Callable[[Any], np.ndarray]
Lookup = Mapping[float, set[int]]


class Known(NamedTuple):
    """Which runs have a value: in the first and the last row of the figure's table, and in the page's."""

    firsts: Lookup
    lasts: Lookup
    listed: Lookup


def find_marks(
    figure: Figure, size: tuple[float, float], *, rows: pd.DataFrame | None = None
) -> list[dict[str, Any]]:
    """Return each panel of a figure that was just saved, with what can be pointed at in it.

    Args:
        figure: the figure, after it was drawn, so that its layout is settled.
        size: width and height of its SVG's viewBox.
        rows: the runs that the page lists, in that order: run_id, N, D, C and L.

    Returns:
        One mapping per panel: `box` (left, top, right, bottom), `x` and `y` (scale, limits, name and
        kind of each axis; None where it is neither linear nor logarithmic), `points` ([x, y, number
        of the run or a text]) and `lines` ([number of the run, x, y, then steps], in tenths).
    """
    tables = _tables(figure)
    number = {} if rows is None else {r: i for i, r in reversed([*enumerate(rows["run_id"])])}
    panels = []
    for place, ax in enumerate(figure.axes, start=1):
        own = [t for t in tables.get(place, ()) if "run_id" in t]
        listed = [] if rows is None else [rows[["run_id", "N", "D", "C", "L"]]]
        known = Known(
            _lookup(own, number, 0), _lookup(own, number, -1), _lookup(listed, number, -1)
        )
        for some in (ax, *(a for a in ax.child_axes if isinstance(a, Axes))):
            panels += _panel(some, _spot_of(some, figure, size), known)
    return panels


def _tables(figure: Figure) -> dict[int, list[pd.DataFrame]]:
    """Return the tables behind a figure by the number of their panel."""
    long = style.table_of(figure)
    found: dict[int, list[pd.DataFrame]] = defaultdict(list)
    for (panel, _), part in long.groupby(["panel", "series"], sort=False):
        found[int(str(panel).split(":")[0])].append(part.dropna(axis=1, how="all"))
    return found


def _lookup(tables: Sequence[pd.DataFrame], number: Mapping[str, int], end: int) -> Lookup:
    """Return which runs have a value in any column of their first (0) or last (-1) row."""
    found: dict[float, set[int]] = defaultdict(set)
    for table in tables:
        groups = table.groupby("run_id", sort=False)
        part = groups.head(1) if end == 0 else groups.tail(1)
        runs = part["run_id"].map(number)
        for name in part.select_dtypes("number"):
            for value, run in zip(part[name], runs, strict=True):
                if value == value and run == run:
                    found[float(value)].add(int(run))
    return found


def _at(place: Any, lookup: Lookup) -> set[int]:
    """Return the runs whose row has both values."""
    return lookup.get(float(place[0]), set()) & lookup.get(float(place[1]), set())


def _runs_of(places: np.ndarray, known: Known) -> list[int | None]:
    """Return the run of each mark of one artist; None for a mark that is no run's.

    Runs that coincide, as those of several seeds over N and D, get one mark each. A place that more
    runs have than marks is something that they share, as the end of normalised curves.
    """
    together = Counter(map(tuple, places.tolist()))
    seen: Counter[tuple[float, ...]] = Counter()
    found: list[int | None] = []
    for place in map(tuple, places.tolist()):
        runs = next((sorted(r) for k in (known.lasts, known.listed) if len(r := _at(place, k)) == together[place]), None)  # fmt: skip
        found.append(runs[seen[place]] if runs else None)
        seen[place] += 1
    return found


def _run_of(curve: np.ndarray, known: Known) -> int | None:
    """Return the run whose curve begins and ends where a line does."""
    runs = _at(curve[0], known.firsts) & _at(curve[-1], known.lasts) if len(curve) > 1 else set()
    return min(runs) if len(runs) == 1 else None


def _spot_of(ax: Axes, figure: Figure, size: tuple[float, float]) -> Spot:
    """Return what turns values of an axes into places in the SVG, whose y runs downwards."""

    def spot(values: Any) -> np.ndarray:
        inches = ax.transData.transform(np.asarray(values, float).reshape(-1, 2))
        share = (inches - figure.bbox.min) / (figure.bbox.width, figure.bbox.height)
        return np.column_stack([share[:, 0], 1 - share[:, 1]]) * size

    return spot


def _panel(ax: Axes, spot: Spot, known: Known) -> list[dict[str, Any]]:
    """Return one panel; nothing for axes that are hidden or have neither marks nor lines."""
    if not ax.get_visible() or not (ax.lines or ax.collections):
        return []
    x, y = _axis(ax, "x"), _axis(ax, "y")
    ends = spot([(ax.get_xlim()[0], ax.get_ylim()[1]), (ax.get_xlim()[1], ax.get_ylim()[0])])
    box = [*ends.min(0), *ends.max(0)]
    points, lines = [], []
    for values, name in _marked(ax):
        made = _points(values, _runs_of(values, known), name, spot, box, (x, y))
        own = [
            m for m in made if isinstance(m[2], int)
        ]  # of draws by the thousand none is read alone
        points += made if len(made) - len(own) <= CROWD else own
    for values in _paths(ax):
        run = _run_of(values, known)
        lines += [] if run is None else [[run, *_thinned(spot(values))]]
    for values, name in _named_lines(ax):
        if len(values) > 1 and _run_of(values, known) is None:
            some = _spread(values)
            points += _points(some, [None] * len(some), name, spot, box, (x, y))
    return [{"box": [round(b, 1) for b in box], "x": x, "y": y, "points": points, "lines": lines}]


def _axis(ax: Axes, which: str) -> dict[str, Any] | None:
    axis, limits = getattr(ax, f"{which}axis"), getattr(ax, f"get_{which}lim")()
    if axis.get_scale() not in ("linear", "log") or not np.isfinite(limits).all():
        return None
    label = _plain(axis.get_label().get_text())
    kind = next((k for part, k in KINDS if part in label), "")
    low, high = (float(f"{v:.6g}") for v in limits)
    return {"log": axis.get_scale() == "log", "lo": low, "hi": high, "name": label.split(" [")[0], "kind": kind}  # fmt: skip


def _plain(label: str) -> str:
    """Return a label without the signs of mathematical text."""
    return re.sub(r"\\math\w+\{([^}]*)\}|[${}]", r"\1", label).replace("\\", "").strip()


def _name(artist: Any) -> str:
    label = str(artist.get_label() or "")
    return "" if label.startswith("_") else _plain(label)


def _marked(ax: Axes) -> Iterator[tuple[np.ndarray, str]]:
    """Yield values and name of everything that is drawn as markers."""
    bars = {c.lines[0]: _name(c) for c in ax.containers if isinstance(c, ErrorbarContainer) and c.lines[0]}  # fmt: skip
    for line in ax.lines:
        marker = line.get_marker()
        drawn = line in bars or marker not in ("", " ", "None", None, *TICKS)
        if drawn and marker not in ("", "None", None) and line.get_transform() == ax.transData:
            yield line.get_xydata(), bars.get(line, _name(line))  # type: ignore[misc]
    for group in ax.collections:
        if isinstance(group, PathCollection) and group.get_offset_transform() == ax.transData:
            yield np.ma.filled(np.ma.asarray(group.get_offsets(), float), np.nan), _name(group)


def _paths(ax: Axes) -> Iterator[np.ndarray]:
    """Yield every line that could be the curve of a run."""
    for group in ax.collections:
        if isinstance(group, LineCollection) and group.get_transform() == ax.transData:
            yield from (np.asarray(s, float) for s in group.get_segments())
    yield from (line.get_xydata() for line in _lines(ax))  # type: ignore[misc]


def _named_lines(ax: Axes) -> Iterator[tuple[np.ndarray, str]]:
    """Yield the lines that the legend names: laws, paths, envelopes."""
    yield from ((line.get_xydata(), _name(line)) for line in _lines(ax) if _name(line))  # type: ignore[misc]


def _lines(ax: Axes) -> Iterator[Line2D]:
    for line in ax.lines:
        drawn = (
            line.get_linestyle() not in ("None", "", " ") and line.get_transform() == ax.transData
        )
        if drawn and line.get_marker() in ("", "None", None) and line.get_visible():
            yield line


def _points(
    values: np.ndarray, runs: Sequence[int | None], name: str, spot: Spot, box: Sequence[float], axes: Any
) -> list[list[Any]]:  # fmt: skip
    """Return the marks inside the box, each with the number of its run, or what to say of it."""
    found: list[list[Any]] = []
    for (x, y), (left, top), run in zip(values, spot(values), runs, strict=True):
        if box[0] - 1 <= left <= box[2] + 1 and box[1] - 1 <= top <= box[3] + 1:
            said = _say(x, y, name, axes) if run is None else run
            found.append([round(float(left), 1), round(float(top), 1), said])
    return found


def _say(x: float, y: float, name: str, axes: Any) -> str:
    """Say what a mark is that is no run's: its name in the legend and its values."""
    said = []
    for value, axis in zip((x, y), axes, strict=True):
        if axis:
            kind = axis["kind"]
            number = style.format_tick(float(f"{value:.4g}"), kind) if kind else f"{value:.5g}"
            said.append(f"{axis['name']}: {number}" if axis["name"] else number)
    return "\n".join([name, *said])


def _spread(values: np.ndarray) -> np.ndarray:
    """Return places along a line, its ends among them."""
    known = values[np.isfinite(values).all(1)]
    return known[np.unique(np.linspace(0, max(len(known) - 1, 0), STEPS).astype(int))] if len(known) else known  # fmt: skip


def _thinned(places: np.ndarray) -> list[int]:
    """Return a curve by tenths of a point: its start, then steps; points nobody would miss left out."""
    path = Path(places[np.isfinite(places).all(1)])
    path.should_simplify, path.simplify_threshold = True, THIN
    kept = path.cleaned(simplify=True)
    tenths = np.rint(10 * np.asarray(kept.vertices)[np.asarray(kept.codes) != Path.STOP]).astype(
        int
    )  # type: ignore[arg-type]
    steps = np.diff(tenths, axis=0)
    steps = steps[(steps != 0).any(1)]
    return [*tenths[0].tolist(), *steps.ravel().tolist()] if math.prod(tenths.shape) else [0, 0]

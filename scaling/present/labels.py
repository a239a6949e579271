"""Labels at the curves themselves, kept apart from each other whatever the size of the figure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib.patheffects as effects
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.transforms import Bbox

HALO: list[effects.AbstractPathEffect] = [
    effects.withStroke(linewidth=2.4, foreground="white", alpha=0.9)
]

CHARACTER = 0.0085  # width of a character of DejaVu Sans per point of size [inches]


class CurveLabels(Artist):
    """Texts beside anchor points in data units; placed when drawn, so zoom and layout may change.

    Every text starts right of its anchor and moves up or down to the nearest free place inside the
    axes; one that finds none within `reach` of its anchor is left out.

    Args:
        anchors: x, y, text and colour of each label, the most important first.
        ax: axes to draw on.
        size: font size [points]; reach: how far a label may move [text heights].
    """

    def __init__(
        self, ax: Axes, anchors: Sequence[tuple[float, float, str, Any]], *, size: float = 8, reach: float = 2.5
    ) -> None:  # fmt: skip
        super().__init__()
        self.anchors, self.reach = list(anchors), reach
        self.texts = [
            Text(
                0,
                0,
                words,
                color=darken(color),
                fontsize=size,
                va="center",
                ha="left",
                path_effects=HALO,
            )
            for _, _, words, color in self.anchors
        ]
        for text in self.texts:
            text.set_figure(ax.figure)
        self.set_zorder(6)
        self.set_in_layout(False)
        ax.add_artist(self)
        width = _panel_width(ax)
        low, high = np.log10(ax.get_xlim())
        for (
            x,
            y,
            words,
            _,
        ) in self.anchors:  # draws nothing, but keeps a legend at the best place away
            reach_x = 10 ** ((high - low) * (0.1 + CHARACTER * size * len(words)) / width)
            ax.add_line(Line2D(np.geomspace(x, x * reach_x, 6), [y] * 6, ls="", marker=""))
        self.set_clip_on(False)

    def place(self, renderer: Any) -> list[Bbox | None]:
        """Move every text to its place; return the boxes in pixels, None for those left out."""
        assert self.axes is not None
        legend = self.axes.get_legend()
        inside, placed = self.axes.bbox, [legend.get_window_extent(renderer)] if legend else []
        boxes: list[Bbox | None] = []
        gap = renderer.points_to_pixels(5.0)
        for (x, y, *_), text in zip(self.anchors, self.texts, strict=True):
            px, py = self.axes.transData.transform((x, y))
            text.set_position((0, 0))
            extent = text.get_window_extent(renderer)
            left = min(px + gap, inside.x1 - extent.width)
            box = _first_free(left, py, extent, placed, inside, self.reach)
            text.set_visible(box is not None)
            if box is not None:
                text.set_position((box.x0, (box.y0 + box.y1) / 2))
                placed.append(box)
            boxes.append(box)
        return boxes

    def draw(self, renderer: Any) -> None:
        """Place and draw the texts."""
        if self.get_visible():
            self.place(renderer)
            for text in self.texts:
                text.draw(renderer)


def _first_free(
    left: float, middle: float, extent: Bbox, placed: Sequence[Bbox], inside: Bbox, reach: float
) -> Bbox | None:
    """Return the nearest box at that height that overlaps nothing placed and stays inside."""
    height = extent.height * 1.05
    for step in sorted(np.arange(-reach, reach + 0.01, 0.25), key=lambda s: (abs(s), -s)):
        low = middle + step * height - height / 2
        box = Bbox.from_bounds(left, low, extent.width, height)
        fits = box.y0 >= inside.y0 and box.y1 <= inside.y1
        if fits and not any(box.overlaps(other) for other in placed):
            return box
    return None


def darken(color: Any, share: float = 0.2) -> tuple[float, float, float]:
    """Return a colour mixed with black, so that a pale line's label can still be read."""
    red, green, blue = ((1 - share) * c for c in to_rgb(color))
    return red, green, blue


def choose(count: int, most: int = 12) -> list[int]:
    """Return which of many curves to label: the ends first, then evenly between."""
    if count <= most:
        return list(range(count))
    picked = np.unique(np.linspace(0, count - 1, most).round().astype(int)).tolist()
    return [picked[0], picked[-1], *picked[1:-1]]


def reserve_right(ax: Axes, *, inches: float) -> None:
    """Widen a log x axis so that labels of a width [inches] fit right of the last point."""
    low, high = np.log10(ax.get_xlim())
    share = min(inches / _panel_width(ax), 0.4)
    ax.set_xlim(10**low, 10 ** (low + (high - low) / (1 - share)))


def _panel_width(ax: Axes) -> float:
    """Return the width of the axes [inches], at least a tenth."""
    return max(float(ax.get_position().width * ax.figure.figure.get_size_inches()[0]), 0.1)

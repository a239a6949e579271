"""From a loss to a measure: the runs, the link fitted to them, and the runs it had not seen."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from scaling.analysis.data.runs import Runs
from scaling.analysis.fits.fitting import Fit
from scaling.present import style
from scaling.study.errors import FitError


def link(fit: Fit, held: Runs | None = None, *, ax: Axes | None = None) -> Axes:
    """Draw a measure against the loss it is told from, with the law; the loss falls to the right.

    Args:
        fit: of a law that reads one loss, such as accuracy_from_loss.
        held: runs that were left out of the fit.
        ax: axes to draw on; new ones if None.

    Returns:
        The axes. Diamonds were not in the fit; the law is dashed where no fitted run lies.

    Raises:
        FitError: the law reads something else than one loss.
    """
    if fit.law.inputs != ("x",):
        raise FitError(
            f"link: {fit.law.name} reads {', '.join(fit.law.inputs)}, not one loss. Fit a link such as accuracy_from_loss."
        )
    column = fit.law.columns["x"]
    points = _points(fit.runs, column, fitted=True)
    if held is not None:
        points = pd.concat([points, _points(held, column, fitted=False)], ignore_index=True)
    seen, far = points[points["fitted"]], points[~points["fitted"]]
    grid = np.linspace(points["loss"].min(), points["loss"].max(), 200)
    p = fit.predict(x=grid)
    curve = pd.DataFrame({"loss": grid, "predicted": p.loss, "lo": p.next_lo, "hi": p.next_hi})
    inside = (grid >= seen["loss"].min()) & (grid <= seen["loss"].max())
    with style.drawing(ax) as ax:
        ax.fill_between(grid, curve["lo"], curve["hi"], color=style.INK, alpha=0.1, lw=0)
        for part, line in ((inside, "-"), (~inside, "--")):
            ax.plot(grid, np.where(part, p.loss, np.nan), line, color=style.INK, lw=1.2)
        ax.errorbar(seen["loss"], seen["value"], seen["se"], fmt="o", ms=5, label="fitted")
        style.mark_held_out(ax, far["loss"], far["value"], label="held out")
        # an interval of a law that runs on is no reason to lose sight of the points
        top = 1.1 * max(points["value"].max(), float(np.nanmax(p.loss[inside])))
        ax.set_ylim(min(0.0, points["value"].min()), top)
        ax.invert_xaxis()
        ax.set_xlabel(style.loss_label("val_loss" if column == "proxy_loss" else column))
        ax.set_ylabel(style.loss_label(fit.runs.loss))
        law, measure = fit.law, fit.runs.loss
        ax.set_title(law.formula.replace(f"{law.output} =", f"{measure} ="), fontsize=8)
        ax.legend(loc="upper left")
    style.remember(ax, {"runs": points, "law": curve})
    return ax


def _points(runs: Runs, column: str, *, fitted: bool) -> pd.DataFrame:
    """Return loss, measure and its standard error (0 where not known) of each run."""
    rows, error = runs.fit_rows, f"{runs.loss}_se"
    se = rows[error].to_numpy(float) if error in rows else np.zeros(len(rows))
    values = {"run_id": rows["run_id"].to_numpy(), "loss": runs.column(column), "value": runs.L}
    return pd.DataFrame(values | {"se": np.nan_to_num(se), "fitted": fitted})

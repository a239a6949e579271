"""Does the best learning rate stay in place as models grow wider or deeper?

    OMP_NUM_THREADS=1 python -m benchmarks.mup [over=width,depth] [results=results/mup] [picture=docs/images/mup.png]

Short runs on the Python sources, bytes as tokens, one learning rate grid for all sizes. Width 32 to
256 at 2 layers, standard against muP; depth 2 to 8 at width 64, muP against CompleteP (base: width
64, 2 layers, where all of them are the same run). About a quarter of an hour on one core; finished
runs are kept in the results folder, and tables and picture show what is there.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence

import pandas as pd

from scaling.present import style
from scaling.present.transfer import best_rates, spread, transfer
from scaling.study.config import RunConfig
from scaling.study.plan import RunPlan, make_plan
from scaling.study.table import Table

RATES = (5e-4, 1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2, 3.2e-2)
BATCH, CONTEXT = 512, 64
STEPS = 200
SWEEPS = {
    "width": (("standard", "mup"), [{"width": w, "layers": 2} for w in (32, 64, 128, 256)]),
    "depth": (("mup", "completep"), [{"width": 64, "layers": n} for n in (2, 4, 8)]),
}
PICTURE = "docs/images/mup.png"


def main(arguments: Sequence[str]) -> None:
    """Train what is missing, print one table per sweep, draw the picture."""
    given = dict(a.split("=", 1) for a in arguments)
    results, over = given.get("results", "results/mup"), given.get("over", "width,depth").split(",")
    from scaling.training.trainer import train

    frames = {}
    for axis in over:
        rows = [cell | {"loss": _loss(train(plan))} for cell, plan in plans(axis, results)]
        frames[axis] = pd.DataFrame(rows)
        print(table(frames[axis], axis).markdown(), end="\n\n", flush=True)
    draw(frames, given.get("picture", PICTURE))


def plans(axis: str, results: str) -> Iterator[tuple[dict, RunPlan]]:
    """Yield every run of a sweep: what it is, and its plan."""
    names, shapes = SWEEPS[axis]
    for shape in shapes:
        size = shape["width" if axis == "width" else "layers"]
        for lr in RATES:
            for name in names:
                cell = {"parametrization": name, "size": size, "lr": lr}
                yield cell, _plan(name, shape, lr, results)


def _plan(name: str, shape: dict, lr: float, results: str) -> RunPlan:
    # at the base shape all are the same run: train it once
    name = "standard" if shape == {"width": 64, "layers": 2} else name
    return make_plan(
        RunConfig.from_dict(
            {
                "model": {**shape, "context": CONTEXT},
                "data": {"val_tokens": 32_768},
                "budget": {"tokens": STEPS * BATCH},
                "optim": {"lr": lr, "batch_tokens": BATCH, "parametrization": name},
                "train": {"threads": 1, "evals": 1, "log_points": 10, "keep_checkpoint": False},
                "results": results,
            }
        )
    )


def _loss(record: object) -> float | None:
    return getattr(record, "val_loss", None) if getattr(record, "status", "") == "done" else None


def table(frame: pd.DataFrame, axis: str) -> Table:
    """Return losses by rate, with the best rate of every size."""
    best = best_rates(frame).set_index(["parametrization", "size"])
    rows = []
    for key, group in frame.groupby(["parametrization", "size"], sort=False):
        losses = group.set_index("lr")["loss"]
        cells = [f"{x:.3f}" for x in losses[list(RATES)]]
        rows.append([*map(str, key), *cells, f"{best.loc[key, 'lr']:.2g}"])
    header = ["parametrisation", axis, *(f"{lr:g}" for lr in RATES), "best"]
    spreads = (f"{n} {spread(g):.2g}" for n, g in best.groupby("parametrization", sort=False))
    note = f"best: vertex of a parabola through the lowest three. Largest over smallest best: {', '.join(spreads)}."
    title = (
        f"Validation loss [nats/token] by learning rate and {axis}, {STEPS} steps of {BATCH} tokens"
    )
    return Table(header, rows, title=title, note=note)


def draw(frames: dict[str, pd.DataFrame], path: str) -> None:
    """Save one panel per parametrisation and sweep."""
    panels = [(a, n) for a in frames for n in SWEEPS[a][0]]
    size = (3.0 * len(panels), 3.4)
    with style.panels(1, len(panels), size=size) as (figure, axes):
        for ax, (axis, name) in zip(axes.flat if len(panels) > 1 else [axes], panels, strict=True):
            part = frames[axis]
            transfer(part[part["parametrization"] == name], axis, title=f"{name}, {axis}", ax=ax)
        figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main(sys.argv[1:])

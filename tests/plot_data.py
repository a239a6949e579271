"""Simulated runs with known truth for the tests of figures and the report."""

from dataclasses import replace

import numpy as np
import pandas as pd

import scaling.analysis.data.runs as runs_module

# A law with the size of numbers that tiny models on real text give: loss 2 to 4 nats per token.
TRUTH = {"E": 1.3, "A": 30.0, "alpha": 0.38, "B": 90.0, "beta": 0.35}


def true_loss(N, D):
    return TRUTH["E"] + TRUTH["A"] * N ** -TRUTH["alpha"] + TRUTH["B"] * D ** -TRUTH["beta"]


def best_size(C):
    t = TRUTH
    ratio = t["alpha"] * t["A"] / (t["beta"] * t["B"])
    return (ratio * (C / 6) ** t["beta"]) ** (1 / (t["alpha"] + t["beta"]))


def record(N, D, *, noise=0.0, role="fit", **more):
    loss = float(true_loss(N, D) * np.exp(noise))
    return {
        "run_id": more.pop("run_id", f"n{N:.3g}-d{D:.3g}"), "status": "done", "role": role,
        "params_non_embedding": round(N), "params_total": round(N * 1.3), "vocab": 512, "width": 64,
        "tokens": round(D), "flops_counted": 7 * N * D, "val_loss": loss, "lr": 3e-3, "seconds": 8.0,
        "tokens_per_second": 4e4, "device": "2-core CPU", "tokenizer": "bpe-512", "data_source": "stdlib",
        "software": {"scaling": "0.1.0", "torch": "2.13"}, **more,
    }  # fmt: skip


def isoflop_table(
    budgets=(1e11, 1e12, 1e13, 1e14), *, sizes=7, spread=8.0, noise=0.002, seed=0, shift=1.0
):
    """IsoFLOP grids around the true optimum; `shift` moves the sizes off it."""
    rng = np.random.default_rng(seed)
    rows = []
    for C in budgets:
        for N in best_size(C) * shift * np.geomspace(1 / spread, spread, sizes):
            rows.append(record(N, C / (6 * N), noise=rng.normal(0, noise)))
    return pd.DataFrame(rows)


def isoflop_runs(budgets=(1e11, 1e12, 1e13, 1e14), *, verify=(4e14,), off=0.0, **more):
    """Runs with a verification run at the optimum of each `verify` budget, `off` in log loss."""
    table = isoflop_table(budgets, **more)
    held = [
        record(
            best_size(C), C / (6 * best_size(C)), role="verify", run_id=f"verify-{C:.2g}", noise=off
        )
        for C in verify
    ]
    return runs_module.load(pd.concat([table, pd.DataFrame(held)], ignore_index=True))


def with_curves(runs, *, points=20):
    """The same runs with training curves that fall to their final losses, their names kept."""

    def history(row):
        shares = np.geomspace(1 / points, 1, points)
        losses = row.val_loss * shares**-0.2
        return [
            {"step": i + 1, "tokens": float(row.tokens * s), "val_loss": float(v)}
            for i, (s, v) in enumerate(zip(shares, losses, strict=True))
        ]

    logged = {row.run_id: (lambda row=row: history(row)) for row in runs.table.itertuples()}
    return replace(runs, histories=logged)

"""Every standing trap of scaling-law work is a named warning, and a designed fault triggers it.

One fault per code, made as small as it can be; what each check says in detail is tested beside it
(test_runs_checks, test_tuning, test_isoflops, test_parabola_bias, test_fitting, test_auditing).
"""

import functools
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from scaling.analysis.audits.auditing import audit
from scaling.analysis.data.runs import load
from scaling.analysis.data.simulation import simulate
from scaling.analysis.data.tuning import check_tuning
from scaling.analysis.fits.checks import check_runs
from scaling.analysis.fits.fitting import fit
from scaling.analysis.frontier.isoflops import fit_isoflops
from scaling.analysis.law import SIX_ND
from scaling.analysis.laws import CHINCHILLA
from scaling.analysis.traps import TRAPS, codes, warn

# The standing traps; TRAPS has further ones, for what else a fit can be doubted for.
STANDING = (
    "W-CONV", "W-6ND", "W-ROUND", "W-STOP", "W-MEAN", "W-DELTA", "W-TPP", "W-EDGE", "W-OFFC", "W-SCHED", "W-WARM",
    "W-TUNE", "W-TRUNK", "W-EPOCH", "W-VOCAB", "W-OBJ", "W-EXTRAP", "W-E", "W-FLOOR0",
)  # fmt: skip
TRUTH = {"E": 1.8172, "A": 482.01, "B": 2085.43, "alpha": 0.3478, "beta": 0.3658}
HOFFMANN = {"E": "1.69", "A": "406.4", "B": "410.7", "alpha": "0.34", "beta": "0.28"}
QUICK = {"laws": ("chinchilla",), "objectives": ("huber_log",), "outliers": ("none",), "resamples": 60}  # fmt: skip


def grid(*, noise=0.005, floor=1.8172, sizes=6):
    N, D = np.meshgrid(np.geomspace(1e8, 1e10, sizes), np.geomspace(2e9, 2e11, 6))
    return simulate("chinchilla", {**TRUTH, "E": floor}, N, D, noise=noise, seed=3)


def table(**columns):
    """36 sound runs with final losses, and the columns that carry the fault."""
    runs = grid()
    return load(pd.DataFrame({"params": runs.N, "tokens": runs.D, "loss": runs.L, **columns}))


def halves(one, other):
    return [one, other] * 18


def fan(*, centre=1.0, span=4.0):
    """Noise-free IsoFLOP curves whose sizes are centred at `centre` times the optimum."""
    C = np.geomspace(1e19, 1e22, 4)
    best = CHINCHILLA.optimum(TRUTH, C[:, None], SIX_ND)[0]
    N = centre * best * np.geomspace(1 / span, span, 9)
    return simulate("chinchilla", TRUTH, N, C[:, None] / (6 * N))


def ladder():
    N = np.geomspace(1e8, 1e10, 12)
    return simulate("chinchilla", TRUTH, N, 20 * N, noise=0.002, seed=1)


def swept():
    rows = [{"params": N, "tokens": 20 * N, "lr": lr, "loss": 3 + 1e6 / N - lr} for N in (1e6, 4e6) for lr in (0.1, 0.2, 0.3)]  # fmt: skip
    return load(pd.DataFrame(rows))


def seen(result):
    return codes(result) if isinstance(result, (list, tuple)) else result.codes


FAULTS = {
    "W-CONV": lambda: check_runs(table(params_convention=halves("total", "non_embedding"))),
    "W-6ND": lambda: check_runs(table(flops=6.9 * grid().N * grid().D)),
    "W-TPP": lambda: check_runs(ladder()),
    "W-SCHED": lambda: check_runs(table(steps=halves(1000, 600), steps_planned=1000)),
    "W-WARM": lambda: check_runs(table(warmup_steps=300, steps=1000)),
    "W-TRUNK": lambda: check_runs(table(parent=["one"] * 36)),
    "W-INIT": lambda: check_runs(table(init_hash=halves("one", None))),
    "W-CLUSTER": lambda: fit(grid(), intervals="by_model", resamples=40).warnings,
    "W-EPOCH": lambda: check_runs(table(unique_tokens=1e9)),
    "W-VOCAB": lambda: check_runs(table(tokenizer=halves("gpt2", "llama"))),
    "W-OBJ": lambda: check_runs(table(objective=halves("clm", "mlm"))),
    "W-TUNE": lambda: check_tuning(swept()),
    "W-EDGE": lambda: fit_isoflops(fan(centre=3.9)).warnings,
    "W-OFFC": lambda: fit_isoflops(fan(centre=3.0, span=8.0)).warnings,
    "W-E": lambda: fit(high_losses(), intervals="none").warnings,
    "W-FLOOR0": lambda: fit(grid(floor=-0.05), intervals="none").warnings,
    "W-EXTRAP": lambda: audit(grid(), C=1e26, **QUICK),
    "W-DELTA": lambda: audit(grid(noise=0.02), C=1e24, **QUICK),
    "W-STOP": lambda: _printed(),
    "W-ROUND": lambda: _printed(),
    "W-MEAN": lambda: audit(grid(), {"params": _in_the_valley(), "objective": "huber_log", "reduction": "mean"}, **QUICK),
    "W-SCALE": lambda: audit(grid(), {"params": _least_absolute(), "objective": "huber_log", "free_scale": True}, **QUICK),
    "W-NARROW": lambda: audit(grid(), {"intervals": {"a": [0.4541, 0.4542]}}, **QUICK),
}  # fmt: skip


@functools.cache
def _printed():
    return audit(grid(), {"params": HOFFMANN, "objective": "huber_log"}, **QUICK)


def high_losses():
    """Small models on few tokens: the loss is many times the floor, and never near it."""
    N, D = np.meshgrid(np.geomspace(1e5, 1e6, 5), np.geomspace(2e6, 2e7, 5))
    return simulate("chinchilla", TRUTH, N, D, noise=0.003, seed=2)


def _in_the_valley():
    """The best parameters with a floor .08 too low: gradients of the mean are below the tolerance."""
    near = fit(grid(), fixed={"E": 1.75}, intervals="none").params
    return {k: f"{v:.10g}" for k, v in near.items()}


def _least_absolute():
    best = fit(grid(), objective="l1_log", intervals="none").params
    return {k: f"{v:.10g}" for k, v in best.items()}


@pytest.mark.parametrize("code", FAULTS)
def test_designed_fault_triggers_its_warning(code):
    result = FAULTS[code]()
    assert code in seen(result)


def test_each_standing_trap_has_a_name_and_a_fault():
    assert set(STANDING) <= set(TRAPS) and set(STANDING) <= set(FAULTS)


def test_sound_runs_trigger_no_trap_of_the_data():
    assert check_runs(table()) == []
    sound = {*FAULTS} - {"W-E", "W-DELTA", "W-EXTRAP"}  # notes that good runs can carry as well
    assert not sound & audit(grid(noise=0.001), C=1e24, **QUICK).codes


def test_every_code_in_the_package_is_one_of_the_traps():
    folder = Path(__file__).parent.parent / "scaling"
    used = {c for path in folder.rglob("*.py") for c in re.findall(r'"(W-[A-Z0-9]+)"', path.read_text())}  # fmt: skip
    assert used <= set(TRAPS)
    with pytest.raises(KeyError):
        warn("W-NONSENSE", "no such trap")

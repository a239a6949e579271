"""Designs simulated before they are trained: the printed widths are true, and what cannot be told is said."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

import scaling as sl
from scaling.analysis.allocation.decided import Surface
from scaling.analysis.data.simulation import isoflop_grid
from scaling.analysis.designs.judging import judge_design, judge_settings, noise_width
from scaling.analysis.designs.simulation import simulate_design
from scaling.analysis.designs.truths import plausible_truth
from scaling.analysis.traps import codes
from scaling.study.errors import FitError

CHINCHILLA = Surface.published("chinchilla", "epoch")
BUDGETS = np.geomspace(1e18, 1e20, 5)


def grid(budgets=BUDGETS, *, points=7, span=4.0, ratio=20.0):
    N, D = isoflop_grid(budgets, points=points, span=span, ratio=ratio)
    return {"N": N, "D": D}


def noisy(study, rng):
    """The design's runs once more, each with a loss of its own luck."""
    table = study.runs.table.assign(val_loss=study.runs.L * np.exp(study.sd * rng.standard_normal(len(study.sd))))  # fmt: skip
    return dataclasses.replace(study.runs, table=table)


@pytest.fixture(scope="module")
def study():
    return simulate_design(grid(), CHINCHILLA, noise=0.004)


def test_widths_follow_the_noise(study):
    """An estimator that is nearly linear errs in proportion to its noise."""
    half = simulate_design(grid(), CHINCHILLA, noise=0.002)
    # two 90 % quantiles of 200 draws each differ by 11 % by luck, and E's bound bends the larger a little
    assert half.within("a") == pytest.approx(study.within("a") / 2, rel=0.35)
    assert np.log(half.within("N")) == pytest.approx(np.log(study.within("N")) / 2, rel=0.35)


def test_width_is_that_of_the_interval_a_fit_will_print(study):
    """Of one study simulated at random, `sl.fit` prints about the interval that was foretold."""
    rng = np.random.default_rng(5)
    halves = []
    for _ in range(3):
        lo, hi = sl.fit(noisy(study, rng), intervals="delta").interval("a")
        halves.append((hi - lo) / 2)
    # the delta method is a linearisation with its noise estimated from 35 runs: within a factor two
    assert 0.5 < study.within("a") / np.median(halves) < 2.0


@pytest.mark.slow
def test_foretold_width_is_the_scatter_of_fresh_full_fits(study):
    """Share of fresh studies, fitted from all starts as users fit, within the printed distances."""
    rng, truth = np.random.default_rng(7), study.estimates[0].truth
    inside = {"a": 0, "N": 0, "iso": 0}
    for _ in range(60):
        runs = noisy(study, rng)
        fit, iso = sl.fit(runs, intervals="none"), sl.fit_isoflops(runs)
        inside["a"] += abs(fit.get("a") - truth["a"]) <= study.within("a")
        away = abs(np.log(float(fit.optimal(study.target).N[0]) / truth["N"]))
        inside["N"] += away <= np.log(study.within("N"))
        inside["iso"] += abs(float(iso.a) - truth["a"]) <= study.estimates[1].within("a")
    for name, count in inside.items():  # 90 % of 60, less three binomial SDs of 3.9 %
        assert count / 60 >= 0.78, (name, count)


def test_ladder_is_said_to_determine_no_optimum():
    sizes = np.geomspace(2e7, 1.3e9, 7)
    ladder = simulate_design({"N": sizes, "D": 20 * sizes}, CHINCHILLA, noise=0.004, studies=30)
    crossed = simulate_design({"N": np.repeat(sizes, 3), "D": np.repeat(sizes, 3) * np.tile([5, 20, 80], 7)}, CHINCHILLA, noise=0.004, studies=30)  # fmt: skip
    assert ladder.within("N") > 10 * crossed.within("N")  # no direction but along the ladder
    assert "W-TPP" in codes(judge_design(ladder)) and not codes(judge_design(crossed))


def test_good_isoflop_has_no_warning(study):
    assert judge_design(study, isoflop=True) == []
    assert len(study.estimates) == 2 and "IsoFLOP" in study.estimates[1].how


@pytest.mark.parametrize(
    ("points", "code", "said"),
    [
        (grid([1e18, 1e20]), "W-BUDGETS", "2 budgets"),
        (grid(np.geomspace(1e18, 4e18, 4)), "W-BUDGETS", "span a factor 4 only"),
        (grid(points=2), "W-DESIGN", "fewer than 3 sizes"),
        (grid(ratio=1000), "W-EDGE", "above its largest"),
        (grid(ratio=0.5, span=2), "W-EDGE", "below its smallest"),
    ],
)  # fmt: skip
def test_isoflop_that_cannot_answer_is_warned_of(points, code, said):
    study = simulate_design(points, CHINCHILLA, noise=0.004, studies=20)
    found = judge_design(study, isoflop=True)
    assert any(w.startswith(code) and said in w for w in found), found


def test_far_target_is_warned_of(study):
    far = simulate_design(grid(), CHINCHILLA, noise=0.004, target=1e23, studies=20)
    assert "W-EXTRAP" in codes(judge_design(far, isoflop=True))
    assert far.within("N") > study.within("N")


def test_settings_that_follow_the_size_are_confounded_and_crossed_ones_are_not():
    N = np.repeat([1e6, 1e7, 1e8], 2)
    tied = pd.DataFrame({"optim.lr": np.repeat([3e-3, 1e-3, 3e-4], 2), "seed": [0, 1] * 3})
    found = judge_settings(N, tied)
    assert len(found) == 1 and "optim.lr changes with the size" in found[0]
    assert judge_settings(N, tied[["seed"]]) == []


def test_truth_is_the_law_nearest_in_size():
    assert "byte-level" in plausible_truth(np.array([1e3, 1e5])).source
    assert "Hoffmann" in plausible_truth(np.array([1e8, 1e9])).source


def test_repeated_text_is_simulated_by_a_law_of_repeats():
    U, epochs = np.meshgrid([1e8, 1e9], [1, 4, 16, 40])
    points = {"N": np.full(16, 1e8) * np.repeat([1, 4], 8), "D": np.tile((U * epochs).ravel(), 2), "unique_tokens": np.tile(U.ravel(), 2)}  # fmt: skip
    study = simulate_design(points, studies=20)
    assert study.truth.surface.law.name == "data_repeats" and 1 < study.within("R_D") < 20
    found = judge_design(study)  # 1e8 tokens for 4e8 parameters, 16 and 40 times
    assert any("0.25 unique tokens per parameter" in w for w in found) and "W-EPOCH" in codes(found)


@pytest.mark.parametrize(
    ("points", "law", "noise", "said"),
    [
        ({"N": [1e6]}, None, None, "needs N and D"),
        ({"N": [1e6, 2e6], "D": [1e8, -1.0]}, None, None, "finite and above 0"),
        (grid(), CHINCHILLA, None, "noise: a law without runs"),
        (grid(), CHINCHILLA, -1.0, "noise: must be finite"),
    ],
)
def test_unusable_designs_are_refused(points, law, noise, said):
    with pytest.raises(FitError, match=said):
        simulate_design(points, law, noise=noise)


def test_noise_width_is_that_of_sds_drawn():
    rng = np.random.default_rng(3)
    sd = np.sqrt(rng.chisquare(14, 40_000) / 14)
    width = noise_width(14)
    # chi squared puts 5 % beyond each side; the wider side's factor is taken, so 90 to 95 % lie within
    assert 0.9 <= np.mean((sd < width) & (sd > 1 / width)) < 0.96

"""Random tables: loading and fitting answers, refuses in words, or flags; never nonsense, never a crash."""

import math
import warnings

import numpy as np
import pandas as pd
import pytest

from scaling.analysis import laws
from scaling.analysis.data.runs import load
from scaling.analysis.fits.checks import check_description, check_runs
from scaling.analysis.fits.fitting import fit
from scaling.analysis.fits.refusals import check_signal
from scaling.study.errors import ScalingError

hypothesis = pytest.importorskip("hypothesis")
st = pytest.importorskip("hypothesis.strategies")

# The same tables every time (derandomize), so that a failure is not a matter of luck; and no
# deadlines, for machines that are shared.
SETTINGS = hypothesis.settings(
    deadline=None, derandomize=True, database=None, max_examples=25,
    suppress_health_check=list(hypothesis.HealthCheck),
    phases=[hypothesis.Phase.generate],
)  # fmt: skip
few = hypothesis.settings(SETTINGS, max_examples=8)
LAWS = ("chinchilla", "chinchilla_tied", "chinchilla_k", "kaplan", "power_N_floor", "power_C")
OBJECTIVES = ("huber_log", "mse_log", "l1_log", "huber", "mse", "l1")


@st.composite
def sound(draw, least=8):
    """Runs of an additive law with noise: exponents, floor, grid and noise at random."""
    rows = draw(st.integers(least, 40))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    N = 10 ** rng.uniform(6, 6 + draw(st.floats(0.7, 4)), rows)
    D = 10 ** rng.uniform(8, 8 + draw(st.floats(0.7, 4)), rows)
    alpha, beta = draw(st.floats(0.05, 0.9)), draw(st.floats(0.05, 0.9))
    shape = (N / 1e7) ** -alpha + draw(st.floats(0.1, 10)) * (D / 1e9) ** -beta
    noise = np.exp(draw(st.sampled_from([0.0, 1e-3, 0.01, 0.1])) * rng.standard_normal(rows))
    loss = (draw(st.floats(0, 3)) + shape) * noise
    return pd.DataFrame({"N": N, "D": D, "loss": loss})


odd = st.one_of(
    st.floats(allow_nan=True, allow_infinity=True),
    st.sampled_from([0.0, -1.0, 1.0, 1e-300, 1e300, 5e-324, float("nan"), 1e9]),
)
wild_cell = st.one_of(
    odd, st.sampled_from(["", "1.3B", "-", "nan", "inf", "1,000", "x", None, True, 10**400])
)


@st.composite
def wild(draw):
    """Any cells at all in a table that has the right columns."""
    rows = draw(st.integers(0, 8))
    names = draw(st.sampled_from([("N", "D", "loss"), ("N", "C", "loss"), ("N", "D", "C", "loss")]))
    cell = draw(st.sampled_from([odd, wild_cell]))
    return pd.DataFrame({n: draw(st.lists(cell, min_size=rows, max_size=rows)) for n in names})


@st.composite
def degenerate(draw):
    """Finite positive numbers without sense: few values, repeats, huge ranges, no trend."""
    rows = draw(st.integers(1, 14))
    value = draw(st.sampled_from([
        st.sampled_from([1.0, 2.0]), st.sampled_from([1e6, 1e7, 1e8]), st.floats(1e-2, 1e2),
        st.floats(-12, 25).map(lambda p: 10.0**p), st.floats(-290, 290).map(lambda p: 10.0**p),
    ]))  # fmt: skip
    table = pd.DataFrame(
        {n: draw(st.lists(value, min_size=rows, max_size=rows)) for n in ("N", "D")}
    )
    spread = draw(st.sampled_from([st.just(3.0), st.floats(0.01, 20), st.floats(2.9, 3.1), value]))
    table["loss"] = draw(st.lists(spread, min_size=rows, max_size=rows))
    return table.assign(seed=range(rows))


def judged(table, **options):
    """Fit as a user would: refusals give null, everything else must be finite or flagged."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            runs = load(table)
            law = laws.get(options.get("law", "chinchilla"))
            doubts = check_runs(runs, law)
            check_signal(runs, law)
            found = fit(runs, **{"intervals": "none", "starts": 2, **options})
        except ScalingError as error:
            assert len(str(error)) > 30  # a sentence, with what to do
            return None
        doubts += [*found.warnings, *check_description(found)]
        assert all(map(math.isfinite, found.params.values())), found.params
        assert math.isfinite(found.value)
        # At the runs themselves and one decade around them.
        for factor in (0.1, 1.0, 10.0):
            loss = found.predict(N=runs.N * factor, D=runs.D * factor).loss
            assert np.isfinite(loss).all() and (loss > 0).all(), loss
        here = found.predict(N=runs.N, D=runs.D).loss
        # A law that is off by a factor of two somewhere is no description of these runs.
        assert doubts or np.abs(np.log(here / runs.L)).max() < math.log(2), (here, runs.L)
    return found


@SETTINGS
@hypothesis.given(sound(), st.sampled_from(LAWS), st.sampled_from(OBJECTIVES))
def test_sound_tables_are_fitted(table, law, objective):
    assert judged(table, law=law, objective=objective) is not None


@SETTINGS
@hypothesis.given(wild(), st.sampled_from(LAWS))
def test_wild_tables_are_refused_or_flagged(table, law):
    judged(table, law=law)


@SETTINGS
@hypothesis.given(degenerate(), st.sampled_from(LAWS), st.sampled_from(OBJECTIVES))
def test_degenerate_tables_are_refused_or_flagged(table, law, objective):
    judged(table, law=law, objective=objective)


@few
@hypothesis.given(degenerate(), st.sampled_from(["bootstrap", "delta"]))
def test_intervals_of_degenerate_tables_are_ordered_or_absent(table, method):
    found = judged(table, intervals=method, resamples=20)
    for name in found.law.names if found else ():
        lo, hi = found.interval(name)
        assert (math.isnan(lo) and math.isnan(hi)) or lo <= hi


# Without noise the objective goes to zero and only its size is left to compare: 1e-9 per run is a
# residual of 3e-5 in log loss, a hundredth of the smallest noise between seeds.
EXACT = 1e-9


def same(one, other, **scales):
    """Equal fits: objectives to 1e-6, and predictions to 1e-4 of a loss.

    A quadratic minimum met to 1e-6 of its value leaves its argument free to about 1e-3 of the
    noise; with a noise of at most 0.1 that is 1e-4. Parameters may differ more where the runs
    hardly determine them.
    """
    floor = EXACT * len(one.runs)
    assert other.value == pytest.approx(one.value, rel=1e-6, abs=floor)
    N, D = one.runs.N, one.runs.D
    np.testing.assert_allclose(
        other.predict(N=N * scales.get("N", 1), D=D * scales.get("D", 1)).loss,
        one.predict(N=N, D=D).loss, rtol=1e-4,
    )  # fmt: skip


def fitted(table, **options):
    return fit(load(table), **{"law": "chinchilla", "intervals": "none", **options})


@few
@hypothesis.given(sound(12), st.sampled_from(["huber_log", "mse_log"]), st.randoms())
def test_the_order_of_rows_does_not_matter(table, objective, random):
    order = list(range(len(table)))
    random.shuffle(order)
    same(fitted(table, objective=objective), fitted(table.iloc[order], objective=objective))


@pytest.mark.slow
@few
@hypothesis.given(sound(12), st.floats(1e-6, 1e6), st.floats(1e-6, 1e6))
def test_units_of_size_and_tokens_move_only_their_coefficients(table, c, d):
    one = fitted(table, objective="mse_log")
    other = fitted(table.assign(N=table["N"] * c, D=table["D"] * d), objective="mse_log")
    same(one, other, N=c, D=d)
    # A N^-alpha is the same number when N is c times as large and A is c^alpha times.
    p, q = one.params, other.params
    part = p["A"] * one.runs.N ** -p["alpha"]
    assert q["A"] == pytest.approx(p["A"] * c ** q["alpha"], rel=0.02) or part.max() < 1e-3 * one.runs.L.min()  # fmt: skip


@pytest.mark.slow
@few
@hypothesis.given(sound(12), st.floats(0.1, 10))
def test_units_of_loss_scale_the_scales(table, c):
    one = fitted(table, objective="mse_log")
    other = fitted(table.assign(loss=table["loss"] * c), objective="mse_log")
    assert other.value == pytest.approx(one.value, rel=1e-6, abs=EXACT * len(table))


@few
@hypothesis.given(sound(12))
def test_every_row_twice_changes_nothing(table):
    twice = pd.concat([table.assign(seed=0), table.assign(seed=1)])
    one, other = (fitted(t, objective="mse_log") for t in (table, twice))
    assert other.value / 2 == pytest.approx(one.value, rel=1e-6, abs=EXACT * len(table))

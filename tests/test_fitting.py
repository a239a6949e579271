"""Fits: the reference optima of a public table, known truths, intervals, warnings, refusals."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
from published import epoch, needs_tables, read

from scaling.analysis.data.runs import Runs, load
from scaling.analysis.data.simulation import isoflop_grid, make_runs, simulate
from scaling.analysis.fits.fitting import Fit, fit
from scaling.analysis.laws import Law, Param
from scaling.analysis.traps import codes
from scaling.study.errors import FitError, RecordError

TINY = {"E": 0.9, "A": 60.0, "B": 300.0, "alpha": 0.35, "beta": 0.37}
N, D = isoflop_grid(np.geomspace(1e12, 1e14, 5), points=5)  # 25 runs, as a laptop study has


def tiny(noise=0.0, seed=0, law="chinchilla", params=TINY):
    return simulate(law, params, N, D, noise=noise, seed=seed)


# --- reference optima on Epoch's 240 points, each a printed value ---------------------------------


@needs_tables
@pytest.mark.parametrize("seed", [0, 1, 2, 3, 4])
def test_huber_reaches_the_reference_optimum_from_any_seed(seed):
    f = fit(epoch(), intervals="none", seed=seed)
    assert f.value == pytest.approx(0.00101827401780060, rel=1e-12)  # extended-precision Newton
    expected = {
        "E": 1.817218099,
        "A": 477.825868,
        "B": 2143.41736,
        "alpha": 0.3473104989,
        "beta": 0.3671724326,
    }
    for (
        name,
        value,
    ) in expected.items():  # six digits: f is flat, so parameters carry sqrt(1e-16) of it
        assert f.params[name] == pytest.approx(value, rel=1e-6)
    assert f.get("a") == pytest.approx(0.5138995, abs=1e-6)
    assert f.certificate.basins[0][1] == 8, "every start ends in the same optimum"
    assert f.certificate.decrement < 1e-12


@needs_tables
def test_l1_reaches_the_least_absolute_deviation_fit():
    f = fit(epoch(), objective="l1_log", intervals="none")
    assert f.value == pytest.approx(1.12949465, rel=1e-8)  # printed digits
    expected = {"A": 482.006, "B": 2085.436, "E": 1.816864, "alpha": 0.347813, "beta": 0.365854}
    for name, value in expected.items():
        assert f.params[name] == pytest.approx(value, rel=2e-6)


@needs_tables
@pytest.mark.parametrize(
    ("objective", "value", "expected"),
    [
        (
            "mse_log",
            0.00573094350,
            {"E": 1.86455, "alpha": 0.360253, "beta": 0.405883, "a": 0.52978},
        ),
        (
            "mse",
            None,
            {"E": 1.882814, "A": 567.805, "B": 7581.852, "alpha": 0.357615, "beta": 0.427621},
        ),
        (
            "huber",
            0.00289624320,
            {"E": 1.820080, "A": 455.097, "B": 2405.223, "alpha": 0.344303, "beta": 0.372967},
        ),
    ],
)
def test_other_objectives_reach_their_optima(objective, value, expected):
    f = fit(epoch(), objective=objective, intervals="none")
    assert value is None or f.value == pytest.approx(value, rel=1e-8)
    for name, number in expected.items():
        assert f.get(name) == pytest.approx(
            number, rel=1e-5
        )  # half a unit of the last printed digit


@needs_tables
@pytest.mark.parametrize(
    ("objective", "k", "a", "E"),
    [("huber_log", 0.774, 0.5036, 1.757), ("mse_log", 0.737, 0.5181, 1.792)],
)
def test_power_form_agrees_with_reference(objective, k, a, E):
    f = fit(epoch(), "chinchilla_k", objective=objective, intervals="none")
    assert (f.params["k"], f.get("a"), f.params["E"]) == pytest.approx((k, a, E), abs=1e-3)


@needs_tables
def test_raw_mse_on_part_of_the_runs_agrees_with_mlscalefit():
    runs = epoch()
    f = fit(runs.where(runs.C < 1e21), objective="mse", intervals="none")
    assert len(f.runs) == 217
    assert (f.params["alpha"], f.params["beta"], f.params["E"]) == pytest.approx(
        (0.3511, 0.4587, 1.9051), abs=1e-4
    )


@needs_tables
def test_asymmetric_objective_reaches_the_exact_optimum():
    # An independent linear programme on the 234 runs; the reference divides by the number of runs
    f = fit(load(read("kyo_takano_llm.csv")), objective="asymmetric", intervals="none")
    assert f.value / 234 == pytest.approx(0.022781859832, rel=1e-9)
    expected = {
        "E": 1.70022968,
        "A": 184.674947,
        "B": 1633.379851,
        "alpha": 0.28900275,
        "beta": 0.35579068,
    }
    for name, value in expected.items():
        assert f.params[name] == pytest.approx(value, rel=1e-6)


@needs_tables
def test_free_scale_collapses_on_the_table_it_was_published_for():
    with pytest.raises(FitError, match="W-SCALE"):
        fit(epoch(), delta="free")


@needs_tables
def test_llama_table_agrees_with_variable_projection():
    table = read("llama3_isoflop.csv")
    f = fit(load(table[table["group"].str.contains("raw")]), objective="mse", intervals="none")
    expected = {"E": 0.604670, "A": 59.1411, "B": 155.1141, "alpha": 0.310006, "beta": 0.313643}
    for name, value in expected.items():
        assert f.params[name] == pytest.approx(value, rel=1e-4)  # four to six printed digits


def test_exponents_follow_the_convention_of_compute():
    runs = tiny(noise=0.002)
    counted = runs.table.assign(flops_counted=100 * N**0.77 * D)  # as small models count
    runs = dataclasses.replace(runs, table=counted).using(flops="counted")
    f = fit(runs, intervals="none")
    best = f.optimal([1e12, 1e14])
    for name, column in (("a", "N"), ("b", "D")):
        slope = np.log(best[column][1] / best[column][0]) / np.log(100)
        assert f.get(name) == pytest.approx(slope, rel=1e-9)
    assert f.get("a") > fit(tiny(noise=0.002), intervals="none").get("a") + 0.03


# --- known truths -------------------------------------------------------------------------------


@pytest.mark.parametrize("objective", ["huber_log", "mse_log", "l1_log", "huber", "mse", "l1"])
def test_fit_recovers_noise_free_parameters(objective):
    f = fit(tiny(), objective=objective, intervals="none")
    for name, value in TINY.items():
        assert f.params[name] == pytest.approx(
            value, rel=1e-5
        )  # the optimum is 0, so flat below 1e-10


@pytest.mark.parametrize(
    ("law", "params"),
    [
        ("chinchilla_k", {**TINY, "A": 1e4, "B": 3e5, "alpha": 0.7, "beta": 0.74, "k": 0.5}),
        ("chinchilla_tied", {"E": 0.9, "A": 60.0, "B": 300.0, "alpha": 0.35}),
        ("kaplan", {"Nc": 1e9, "Dc": 1e11, "alpha_N": 0.1, "alpha_D": 0.15}),
    ],
)
def test_fit_recovers_other_laws(law, params):
    f = fit(tiny(law=law, params=params), law, objective="mse_log", intervals="none")
    for name, value in params.items():
        assert f.params[name] == pytest.approx(value, rel=1e-3)


def test_fit_does_not_depend_on_units_or_order():
    runs = tiny(noise=0.01)
    base = fit(runs, intervals="none")
    table = pd.DataFrame({"N": runs.N / 1e6, "D": runs.D / 1e9, "loss": runs.L}).sample(
        frac=1, random_state=0
    )
    scaled = fit(load(table), intervals="none")
    assert scaled.value == pytest.approx(base.value, rel=1e-9)
    assert scaled.params["alpha"] == pytest.approx(base.params["alpha"], rel=1e-5)
    assert scaled.params["A"] * 1e6 ** scaled.params["alpha"] == pytest.approx(
        base.params["A"], rel=1e-4
    )


def test_fixed_floor_is_held_and_closes_the_exponents():
    runs = tiny(noise=0.01, seed=1)
    free, held = fit(runs, seed=0), fit(runs, fixed={"E": 0.9}, seed=0)
    assert held.params["E"] == 0.9
    assert "held" in held.summary().text()
    width = [np.diff(f.interval("alpha"))[0] for f in (held, free)]
    assert width[0] < width[1]
    other = fit(
        runs, fixed={"A": 60.0, "alpha": 0.35}, intervals="none"
    )  # units carried through centring
    assert (other.params["A"], other.params["alpha"]) == (60.0, 0.35)
    assert other.params["beta"] == pytest.approx(0.37, abs=0.05)


def test_prior_pulls_k_where_the_runs_say_little():
    runs = tiny(noise=0.02)
    free, pulled = (
        fit(runs, "chinchilla_k", objective="mse_log", intervals="none", priors=p).params["k"]
        for p in (False, True)
    )
    middle = np.exp(-0.4)
    assert abs(np.log(pulled / middle)) < abs(np.log(free / middle))


def test_prior_weighs_as_much_under_every_objective():
    """The runs are the same, so what they say against the prior is; scales of objectives differ."""
    runs = simulate("chinchilla", TINY, np.tile(N, 4), np.tile(D, 4), noise=0.02, seed=0)
    squares, knee, sharp, corner = (
        fit(runs, "chinchilla_k", objective=o, delta=delta, intervals="none", priors=True).params["k"]
        for o, delta in (("mse_log", 1e-3), ("huber_log", "noise"), ("huber_log", 1e-3), ("l1_log", 1e-3))
    )  # fmt: skip
    # Two estimators of one k that is known to some 15 %: they differ by a third of that at most. A
    # prior too heavy by the slope of psi pulled the third to 0.70 with the first at 1.09.
    assert knee == pytest.approx(squares, rel=0.05)
    assert sharp == pytest.approx(squares, rel=0.15)  # L1 in effect: noisier by a quarter
    # A knee at a twentieth of the noise is nearly L1; the noise that weighs the prior is read off the
    # free fits, 6 % apart, which moves a k known to 15 % by less than a third of that.
    assert corner == pytest.approx(sharp, rel=0.05)


def test_own_law_is_fitted_without_a_gradient():
    law = Law("log_law", "L = E + c / ln N", (Param("E", linear=True), Param("c", log=True, linear=True, low=1e-9, high=1e9)),
              loss=lambda N, E, c: E + c / np.log(N), inputs=("N",))  # fmt: skip
    sizes = np.geomspace(1e4, 1e7, 12)
    f = fit(
        make_runs(sizes, 20 * sizes, 1 + 20 / np.log(sizes)),
        law,
        intervals="delta",
        objective="mse_log",
    )
    # It states no unit_of, so that N must not be centred: ln N is not a power.
    assert f.predict(N=1e8).loss == pytest.approx(1 + 20 / np.log(1e8), rel=1e-6)


def test_law_that_misstates_its_units_is_refused():
    law = Law("wrong", "L = E + c / ln N", (Param("E"), Param("c", log=True, low=1e-9, high=1e9, unit_of={"N": 1.0})),
              loss=lambda N, E, c: E + c / np.log(N), inputs=("N",))  # fmt: skip
    with pytest.raises(FitError, match="Correct unit_of"):
        fit(tiny(), law)


# --- results -------------------------------------------------------------------------------------


def test_predict_says_mean_next_run_and_how_far():
    f = fit(tiny(noise=0.01), seed=0)
    p = f.predict(N=[1e5, 1e6], D=[2e7, 1e8])
    assert p.loss.shape == (2,)
    assert (p.next_lo < p.lo).all()
    assert (p.lo < p.loss).all()
    assert (p.hi < p.next_hi).all()
    assert p.extrapolation["C"][1] == pytest.approx(6e14 / f.runs.C.max())
    assert float(f.predict(C=4e14).extrapolation["C"]) == pytest.approx(4)
    assert "beyond the data" in str(p)
    for bad in ({"N": 1e6}, {"N": -1.0, "D": 1e8}, {}):
        with pytest.raises(FitError):
            f.predict(**bad)


def test_optimal_agrees_with_the_closed_form_and_has_intervals():
    f = fit(tiny(noise=0.005), seed=0)
    best = f.optimal([1e14, 1e15])
    np.testing.assert_allclose(6 * best["N"] * best["D"], best["C"], rtol=1e-12)
    assert (best["N_lo"] < best["N"]).all()
    assert (best["N"] < best["N_hi"]).all()
    assert np.diff(np.log(best["N"]))[0] / np.log(10) == pytest.approx(f.get("a"), abs=1e-9)
    with pytest.raises(FitError, match="no optimum"):
        fit(tiny(), "power_C_floor", intervals="none").optimal(1e15)


def test_saved_fit_keeps_an_optimum_whose_curvature_has_no_inverse(tmp_path):
    f = fit(tiny(noise=0.01), intervals="none")
    lost = dataclasses.replace(f.certificate, decrement=np.inf, gap=np.inf)
    f = dataclasses.replace(f, certificate=lost)
    assert Fit.load(f.save(tmp_path / "fit.json")).certificate == lost


def test_saved_fit_loads_into_the_same_object(tmp_path):
    f = fit(tiny(noise=0.01), resamples=50)
    g = Fit.load(f.save(tmp_path / "fit.json"))
    assert g.params == f.params
    assert (g.certificate, g.warnings, g.objective) == (f.certificate, f.warnings, f.objective)
    assert g.summary().text() == f.summary().text()
    assert str(g.predict(N=1e6, D=1e8)) == str(f.predict(N=1e6, D=1e8))
    (tmp_path / "bad.json").write_text("{}")
    with pytest.raises(RecordError, match="not a saved fit"):
        Fit.load(tmp_path / "bad.json")


def test_fit_that_cannot_be_saved_says_so(tmp_path):
    with pytest.raises(RecordError, match="cannot be written"):
        fit(tiny(), intervals="none").save(tmp_path)


def test_residuals_and_summary_carry_conventions():
    f = fit(tiny(noise=0.01), intervals="delta")
    assert f.residuals()["residual"].std() == pytest.approx(0.01, rel=0.4)  # 25 runs
    text = f.summary().text()
    assert all(
        part in text for part in ("6ND", "non-embedding", "huber_log", "90 % interval", "Status")
    )
    assert "<table>" in f._repr_html_()
    line = repr(f.predict(N=[1e6, 2e6], D=1e8))
    assert (
        line.startswith("Prediction(chinchilla: loss ") and "N = 1M, D = 100M; 2 of these" in line
    )
    assert "\n" not in line


# --- warnings ------------------------------------------------------------------------------------


def test_good_design_has_no_warning():
    n, d = isoflop_grid(np.geomspace(1e12, 1e18, 7), points=7)
    assert fit(simulate("chinchilla", TINY, n, d, noise=0.002)).warnings == ()


def test_runs_on_different_texts_are_warned_about():
    runs = tiny(noise=0.002)
    for texts, warned in ((["a"], False), (["a", "b"], True)):
        table = runs.table.assign(data_hash=np.resize(texts, len(runs.table)))
        mixed = dataclasses.replace(runs, table=table).using(mixed="data")  # else it is refused
        f = fit(mixed, intervals="none", starts=2)
        assert any("2 different texts" in w for w in f.warnings) == warned


@pytest.mark.parametrize(
    ("n", "d", "law", "params", "word"),
    [
        (N, D, "chinchilla", {**TINY, "E": 1e-5}, "floor E"),
        (
            np.geomspace(1e4, 1e7, 20),
            20 * np.geomspace(1e4, 1e7, 20),
            "chinchilla",
            TINY,
            "rise together",
        ),
        (
            np.tile([1e6, 1.2e6, 1.5e6], 6),
            np.repeat(np.geomspace(1e7, 1e9, 6), 3),
            "chinchilla",
            TINY,
            "N spans only",
        ),
        (N[:8], D[:8], "chinchilla", TINY, "is few"),
        (N, D, "chinchilla", {**TINY, "A": 1e-9}, "alpha"),
    ],
)
def test_designed_fault_is_named(n, d, law, params, word):
    runs = simulate(law, params, n, d, noise=0.003)
    assert any(word in w for w in fit(runs, intervals="delta").warnings)


# --- refusals ------------------------------------------------------------------------------------


def test_unusable_requests_are_refused():
    runs = tiny()
    with pytest.raises(FitError, match="cannot determine the 5 free"):
        fit(runs.where(np.arange(25) < 4))
    with pytest.raises(FitError, match="Did you mean 'huber_log'"):
        fit(runs, objective="huber_lg")
    with pytest.raises(FitError, match="fixed"):
        fit(runs, fixed={"F": 1.0})
    with pytest.raises(FitError, match="level"):
        fit(runs, level=90)
    with pytest.raises(FitError, match="intervals"):
        fit(runs, intervals="jackknife")
    with pytest.raises(FitError, match="resamples"):
        fit(runs, resamples=3)
    with pytest.raises(FitError, match="delta"):
        fit(runs, delta=0.0)
    with pytest.raises(FitError, match="'missing' is none of"):
        fit(runs, intervals="none").get("missing")


def test_identical_runs_are_refused():
    runs = make_runs(np.full(8, 1e6), np.full(8, 1e8), np.full(8, 3.0), noise=0.01)
    with pytest.raises(FitError, match="in all 8 runs"):
        fit(runs, intervals="delta")


def test_a_scale_that_collapses_is_refused_with_a_reason():
    # the knee is counted in scales; at 1e-3 of them greatest likelihood is L1's, whatever the runs
    with pytest.raises(FitError, match="W-SCALE.*l1_log"):
        fit(tiny(noise=0.01), delta="free")
    with pytest.raises(FitError, match="has none"):
        fit(tiny(noise=0.01), objective="mse_log", delta="noise")


def test_knee_tied_to_the_noise_is_that_of_the_residuals():
    f = fit(simulate("chinchilla", TINY, N, D, noise=0.01, seed=4), delta="noise", intervals="none")
    # 1.345 robust SDs of 20 degrees of freedom: the SD has an error of about a quarter
    assert f.objective.delta == pytest.approx(1.345 * 0.01, rel=0.5)
    assert "W-DELTA" not in codes(f.warnings)
    assert "W-DELTA" in codes(fit(f.runs, intervals="none").warnings)


def test_weights_count_like_repeated_runs():
    runs = tiny(noise=0.01)
    twice = runs.table.index < 10
    table = pd.concat(
        [runs.table.assign(seed=0), runs.table[twice].assign(seed=1)], ignore_index=True
    )
    for objective in ("huber_log", "mse", "l1_log"):
        repeated = fit(Runs(table), objective=objective, intervals="none")
        weighted = fit(runs, objective=objective, intervals="none", weights=1.0 + twice)
        for name, value in repeated.params.items():  # the same optimum, found on two paths
            assert weighted.params[name] == pytest.approx(value, rel=1e-5)
    with pytest.raises(FitError, match="24 runs|25 runs"):
        fit(runs, weights=[1.0])
    with pytest.raises(FitError, match="above 0"):
        fit(runs, weights=-np.ones(25))


def test_negative_weight_of_over_estimates_is_refused():
    with pytest.raises(FitError, match="over must be above 0"):
        fit(tiny(), over=-1.0)

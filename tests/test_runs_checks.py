"""Each trap in the runs is triggered by a designed fault, and sound tables trigger none."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from published import FOLDER, needs_tables

from scaling.analysis import laws
from scaling.analysis.data.runs import load
from scaling.analysis.fits.checks import check_description, check_runs
from scaling.analysis.fits.fitting import fit
from scaling.analysis.fits.refusals import check_signal
from scaling.analysis.traps import codes
from scaling.study.errors import FitError

SAMPLE = Path(__file__).parents[1] / "results" / "sample"
CHINCHILLA = laws.get("chinchilla")


def table(**columns):
    """A sound 4 x 3 grid: L = 1.7 + 400 N^-.34 + 400 D^-.28, whose checks are all silent."""
    N, D = (x.ravel() for x in np.meshgrid([1e7, 3e7, 1e8, 3e8], [1e9, 4e9, 16e9]))
    frame = pd.DataFrame({"N": N, "D": D, "loss": 1.7 + 400 * N**-0.34 + 400 * D**-0.28})
    return frame.assign(**columns)


def found(frame, law=None, **options):
    return check_runs(load(frame, **options), law)


EVERY = np.arange(12)
GOOD = {
    "tokenizer": "gpt2", "vocab": 50_000, "objective": "clm", "steps": 1000, "steps_planned": 1000,
    "warmup_steps": 50, "schedule": "cosine", "unique_tokens": 1e12, "parent": None, "run": EVERY,
}  # fmt: skip


def test_a_sound_table_raises_no_doubt():
    assert found(table()) == []
    assert found(table(**GOOD)) == []
    check_signal(load(table()), CHINCHILLA)


@pytest.mark.parametrize(
    ("code", "columns", "says"),
    [
        ("W-VOCAB", {"tokenizer": ["gpt2", "llama"] * 6}, "gpt2, llama"),
        ("W-VOCAB", {"tokenizer": None, "vocab": [50_000, 32_000] * 6}, "32000, 50000"),
        ("W-OBJ", {"objective": ["clm", "mlm"] * 6}, "clm, mlm"),
        ("W-SCHED", {"steps": [1000] * 11 + [600]}, "row11 at 60 % of its steps"),
        ("W-SCHED", {"schedule": ["constant"] + ["cosine"] * 11}, "constant, cosine"),
        ("W-WARM", {"warmup_steps": [50] * 11 + [300]}, "1 of 12 runs, most .30 %. in row11"),
        ("W-EPOCH", {"unique_tokens": 4e9}, "4 of 12 runs .* up to 4 times"),
        ("W-TRUNK", {"parent": ["t1"] * 3 + ["t2"] * 3 + [None] * 6}, "6 of 12 runs branch from 2"),
        ("W-UNIT", {"vocab": 8}, r"12 of 12 losses are above ln\(vocab\) = 2.08"),
        ("W-CONV", {"params_convention": ["total", "non_embedding"] * 6}, "non_embedding, total"),
    ],
)
def test_each_fault_is_named(code, columns, says):
    texts = found(table(**{**GOOD, **columns}))
    assert codes(texts) == {code}
    assert re.search(says, texts[0])


def test_trunks_are_known_by_their_hash_whoever_was_the_parent():
    hashes = {"trunk_hash": ["a"] * 3 + ["b"] * 3 + [None] * 6}
    (text,) = found(table(**{**GOOD, **hashes}))
    assert "6 of 12 runs branch from 2 trunks" in text
    # a budget that was added later has no parent, and the same hash
    (text,) = found(table(**{**GOOD, **hashes, "parent": ["t"] * 2 + [None] * 10}))
    assert "6 of 12 runs branch from 2 trunks" in text


def ladders(sizes, seeds=1):
    """Three budgets on each trunk; a trunk for each size and seed."""
    N = np.geomspace(1e7, 1e9, sizes)
    frame = pd.DataFrame(
        [
            {"N": n, "D": d, "seed": s, "trunk_hash": f"{i}{s}"}
            for i, n in enumerate(N)
            for s in range(seeds)
            for d in (1e9, 4e9, 16e9)
        ]
    )
    rng = np.random.default_rng(0)
    noise = 1 + 0.002 * rng.standard_normal(len(frame))
    return frame.assign(loss=(1.7 + 400 * frame["N"] ** -0.34 + 400 * frame["D"] ** -0.28) * noise)


def test_intervals_that_draw_whole_trunks_answer_the_doubt():
    def seen(frame, intervals):
        warnings = fit(load(frame), intervals=intervals, resamples=40).warnings
        return {w.split(":")[0]: w for w in warnings if w.startswith(("W-TRUNK", "W-CLUSTER"))}

    # what is advised is followed, and then there is nothing more to say
    assert "Use intervals=by_model," in seen(ladders(12), "profile")["W-TRUNK"]
    assert seen(ladders(12), "by_model") == {}
    assert "Use intervals=by:trunk_hash," in seen(ladders(4, 3), "profile")["W-TRUNK"]
    assert seen(ladders(4, 3), "by:trunk_hash") == {}
    # too few of either: no advice that cannot be followed, and few clusters are no answer
    few = seen(ladders(4), "profile")
    assert "only 4 trunks" in few["W-TRUNK"] and "intervals=" not in few["W-TRUNK"]
    assert set(seen(ladders(4), "by_model")) == {"W-CLUSTER"}
    assert "draws from 4 clusters" in seen(ladders(4), "by_model")["W-CLUSTER"]
    # budgets are across trunks
    assert set(seen(ladders(12), "by:D")) == {"W-TRUNK", "W-CLUSTER"}


def test_runs_from_trained_weights_are_named():
    assert found(table(init_hash=None)) == []
    (text,) = found(table(init_hash=["a"] * 5 + [None] * 7))
    assert text.startswith("W-INIT: 5 of 12 runs start from trained weights")
    runs = load(table(init_hash=["a"] * 5 + [None] * 7))
    assert check_runs(runs.where(runs.fit_rows["init_hash"].isna())) == []  # as it advises
    (text,) = found(table(init_hash="a"))
    assert text.startswith("W-INIT: all 12 runs")
    assert found(table(init_hash="a"), laws.get("finetune_N")) == []
    mixed = table(init_hash=["a"] * 5 + [None] * 7, pretrained=[1.0] * 5 + [0.0] * 7)
    assert found(mixed, laws.get("transfer_loss")) == []


def test_a_law_that_knows_of_repetition_answers_the_doubt():
    repeats = laws.Law(
        name="r", formula="", params=(), loss=lambda **_: 0, inputs=("N", "D", "unique_tokens")
    )
    assert found(table(unique_tokens=4e9), repeats) == []


def test_compute_beyond_6nd_is_told_with_its_share():
    C = 6 * table()["N"] * table()["D"]
    assert found(table(C=C)) == found(table(C=1.04 * C)) == []
    (text,) = found(table(C=1.25 * C))
    assert text.startswith("W-6ND") and "1.25 times 6 N D in every run (20 % of C" in text


def test_groups_that_count_differently_are_told_apart():
    C = 6 * table()["N"] * table()["D"]
    texts = found(table(C=C * np.where(EVERY < 6, 1, 1.3), group=["a"] * 6 + ["b"] * 6))
    assert codes(texts) == {"W-CONV"} and "(a 1, b 1.3)" in texts[0]
    # Counted compute that drifts with size within a group is no mixture.
    assert found(table(C=C * (1 + 0.3 * (1e7 / table()["N"])), group=["a", "b"] * 6)) == []


def test_one_ratio_of_tokens_to_parameters_is_named():
    N = np.geomspace(1e7, 1e9, 6)
    ladder = pd.DataFrame({"N": N, "D": 20 * N, "loss": 1.7 + 500 * N**-0.34})
    assert codes(found(ladder)) == {"W-TPP"}
    assert found(ladder, laws.get("power_C_floor")) == []


def test_curve_points_among_final_losses_are_named():
    points = table(run=table()["N"])  # three token counts of each run
    (text,) = found(points)
    assert text.startswith("W-CURVE") and "12 rows come from 4 runs (up to 3 of one run" in text
    assert codes(found(table(step=table()["D"] / 1e6))) == {"W-CURVE"}
    assert found(table(step=table()["D"] / 1e6, lr=EVERY)) == []  # another rate is another run


def test_units_that_look_wrong_are_named():
    perplexity = table()
    perplexity["loss"] = np.exp(perplexity["loss"])
    assert "perplexity" in " ".join(found(perplexity))
    assert found(perplexity, units={"loss": "perplexity"}) == []
    swapped = table().rename(columns={"N": "D", "D": "N"})
    (text,) = found(swapped)
    assert "12 of 12 runs saw fewer tokens" in text
    (text,) = found(table(N=table()["N"] / 1e6))
    assert text.startswith("W-UNIT") and "units={'params': 'M'}" in text


@pytest.mark.parametrize(("scale", "unit"), [(1e6, "'M'"), (1e9, "'B'"), (1e3, "'k'")])
def test_compute_off_by_a_power_of_ten_is_refused_with_the_factor(scale, unit):
    C = 6 * table()["N"] * table()["D"]
    with pytest.raises(FitError, match=f"C is {scale:.3g}".replace("+", r"\+") + f" times 6 N D.*{unit}"):  # fmt: skip
        _ = load(table(C=C, N=table()["N"] / scale)).N
    with pytest.raises(FitError, match=r"C seems to be in units of 1e18.*'flops': '1e18'"):
        _ = load(table(C=C / 1e18)).N
    assert len(load(table(C=C * 100))) == 12  # all parameters over active ones; see W-6ND


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (lambda t: t.head(1), "there is one run"),
        (lambda t: t.assign(D=1e9, seed=EVERY), "D is 1e.09 in all 12 runs"),
        (lambda t: t.assign(N=1e7, seed=EVERY), "N is 1e.07 in all 12 runs"),
        (lambda t: t.assign(N=1e7, D=1e9, loss=3.0, seed=EVERY), "N is 1e.07 in all 12 runs"),
        (lambda t: t.assign(loss=3.0), "val_loss is 3 in all 12 runs"),
        (lambda t: t.assign(loss=1 - 0.2 * t["loss"]), "an accuracy, not a loss.*1 - accuracy"),
        (lambda t: t.assign(loss=100 / t["loss"]), "rises with N and with D .*100 - score"),
    ],
)  # fmt: skip
def test_runs_without_a_signal_are_refused(fault, says):
    with pytest.raises(FitError, match=says):
        check_signal(load(fault(table())), CHINCHILLA)


@pytest.mark.parametrize(("column", "value"), [("N", 1e200), ("D", 1e-200), ("loss", 1e60)])
def test_numbers_beyond_any_unit_are_refused(column, value):
    frame = table()
    frame.loc[3, column] = value
    with pytest.raises(FitError, match=r"in row3 \(1 such of 12\), outside .* Check the column"):
        _ = load(frame).N


def test_what_is_held_need_not_vary():
    runs = load(table(D=1e9, seed=EVERY))
    check_signal(runs, CHINCHILLA, fixed=("B", "beta"))
    check_signal(runs, laws.get("power_N_floor"))


def test_a_law_that_does_not_describe_its_runs_is_named():
    good = fit(load(table()), intervals="none")
    assert check_description(good) == []
    spoiled = table()
    spoiled.loc[3, "loss"] *= 1.6
    (text,) = check_description(fit(load(spoiled), intervals="none"))
    assert text.startswith("W-MISFIT") and "row3 by a factor of 1.6" in text


def test_a_law_that_does_not_read_what_matters_is_named():
    for name, unread in (("power_N_floor", "D"), ("power_D_floor", "N"), ("power_C_floor", "D/N")):
        (text,) = found(table(), laws.get(name))
        assert text.startswith(f"W-DESIGN: {name} does not read {unread},")
    N = np.geomspace(1e7, 1e9, 12)  # a frontier at one ratio: nothing is left for D to explain
    noise = np.exp(0.01 * np.random.default_rng(0).standard_normal(12))
    frontier = pd.DataFrame({"N": N, "D": 20 * N, "loss": (1.7 + 500 * N**-0.34) * noise})
    assert found(frontier, laws.get("power_C_floor")) == []


@needs_tables
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("epoch_chinchilla.csv", set()),
        ("kyo_takano_llm.csv", set()),
        ("gadre_c4_rpj.csv", set()),
        ("llama3_isoflop.csv", set()),
        ("ml_scalefit_chinchilla_isoflop.csv", set()),
        ("olmo_ladder_final.csv", set()),
        ("porian_rw_isoflop.csv", set()),
        ("datablations.csv", {"W-EPOCH"}),  # their subject is repetition
    ],
)
def test_published_tables_raise_no_false_alarm(name, expected):
    runs = load(FOLDER / name)
    assert codes(check_runs(runs)) == expected
    check_signal(runs, CHINCHILLA)


@needs_tables
def test_overflowed_compute_is_refused_and_recounted():
    runs = load(FOLDER / "steplaw_dense.csv")  # its source's FLOPs overflowed to negative numbers
    with pytest.raises(FitError, match=r"C \(given\) must be finite and above 0.*using\(flops='6nd'\)"):  # fmt: skip
        _ = runs.C
    assert (runs.using(flops="6nd").C > 0).all()


def test_sample_has_the_one_doubt_it_should():
    runs = load(SAMPLE)
    (text,) = check_runs(runs)
    # A width of 20 and 256 tokens: head and attention are most of the smallest models' compute.
    assert text.startswith("W-6ND: 6ND leaves out 22 % to 76 %")
    assert check_runs(runs.using(flops="counted")) == []
    check_signal(runs, CHINCHILLA)

"""The noise floor: runs that differ in their seeds only."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from small_run import small_plan

import scaling as sl
from scaling.analysis.fits.replicates import count_replicates
from scaling.cli import main
from scaling.study.errors import FitError
from scaling.training.trainer import train

SIZES = [1e5, 1e6, 1e7]


def table(sd: list[float], seeds: int = 12, **columns) -> pd.DataFrame:
    """Return runs of three sizes whose losses scatter by an SD each."""
    rng = np.random.default_rng(7)
    rows = [
        {"N": N, "D": 20 * N, "loss": 5 - 0.5 * i + s * rng.standard_normal(), "seed": k}
        for i, (N, s) in enumerate(zip(SIZES, sd, strict=True))
        for k in range(seeds)
    ]
    return pd.DataFrame(rows).assign(**columns)


def test_seed_noise_pools_by_degrees_of_freedom():
    rows = table([0.01, 0.01, 0.01])
    few = rows.drop(index=rows.index[:9])  # three seeds are left at the smallest size
    noise = sl.seed_noise(few)
    sds = few.groupby("N")["loss"].std()
    expected = math.sqrt(
        (2 * sds.iloc[0] ** 2 + 11 * sds.iloc[1] ** 2 + 11 * sds.iloc[2] ** 2) / 24
    )
    assert noise.sd_nats == pytest.approx(expected, rel=1e-12)
    assert (noise.groups, noise.freedom) == (3, 24)
    assert noise.lo < 0.01 < noise.hi  # the truth, in an interval of 90 % with this seed
    # 5 % and 95 % points of chi squared with 24 degrees: 13.848 and 36.415 (any table)
    assert noise.lo / noise.sd_nats == pytest.approx(math.sqrt(24 / 36.415), rel=1e-4)
    assert noise.hi / noise.sd_nats == pytest.approx(math.sqrt(24 / 13.848), rel=1e-4)
    assert "Bartlett" not in noise.summary().note


def test_seed_noise_says_when_settings_differ_in_noise():
    noise = sl.seed_noise(table([0.02, 0.005, 0.001]))
    assert noise.alike < 1e-6 and "use each one's own SD" in noise.summary().note


def test_runs_that_differ_in_more_than_seeds_are_no_replicates():
    rates = table([0.01] * 3)
    with pytest.raises(FitError, match="no two runs"):
        sl.seed_noise(rates.assign(lr=np.tile(np.linspace(1e-3, 1e-2, 12), 3)))
    doubled = pd.concat([rates, rates.assign(loss=rates["loss"] + 1e-9)])  # the same seeds again
    assert sl.seed_noise(doubled).freedom == 33


def test_recipes_that_only_the_hash_tells_apart_are_no_replicates(tmp_path):
    recipes = [{}, {"model.activation": "gelu", "model.ffn": 48}, {"optim.eps": 1e-7}]
    own = {"data.source": "zipf_memory", "data.noise": 0.01, "model.ffn": 32}
    for recipe in recipes:
        for seed in (0, 1):
            train(small_plan(tmp_path, **{**own, **recipe, "seed": seed}))
    runs = sl.load(tmp_path / "results" / "single")
    noise = sl.seed_noise(runs)
    # swiglu has three matrices of 32, gelu two of 48: as many parameters
    assert runs.frame["N"].nunique() == 1
    assert (noise.groups, noise.freedom) == (3, 3) and list(noise.table["runs"]) == [2, 2, 2]


def test_settings_of_a_foreign_table_are_compared_to_six_digits():
    rates = table([0.01] * 3)
    with pytest.raises(FitError, match="no two runs"):
        sl.seed_noise(rates.assign(eps=np.tile(np.geomspace(1e-12, 1e-7, 12), 3)))


def test_replicates_are_those_of_published_tables():
    # Cohen 1992, A Power Primer, table 2: two-sided 5 %, power 0.80, d = 0.2, 0.5, 0.8
    found = [count_replicates(d * 0.01, 0.01) for d in (0.2, 0.5, 0.8)]
    assert found[1:] == [64, 26]
    assert found[0] == pytest.approx(393, abs=1)  # the table's own approximation is one off there
    assert count_replicates(1.0, 0.01) == 2
    with pytest.raises(FitError, match="above 0"):
        count_replicates(0.0, 0.01)


def test_noise_command_prints_floor_and_seeds(tmp_path, capsys):
    path = tmp_path / "runs.csv"
    table([0.01] * 3).to_csv(path, index=False)
    assert main(["noise", str(path), "difference=0.02", "level=0.95"]) == 0
    shown = capsys.readouterr().out
    assert "seeds to see 0.02" in shown and "95 % interval" in shown and "pooled" in shown
    assert main(["noise", str(path), "difference=x"]) == 1
    assert main(["noise", str(path), "diference=0.02"]) == 1
    assert "Did you mean 'difference'?" in capsys.readouterr().err


def test_a_set_that_was_not_scored_is_answered_with_those_that_were():
    sets = table([0.01] * 3, **{f"other{i}": 1 for i in range(30)}, val_loss_en=3.0, val_loss_zh=4.0)  # fmt: skip
    with pytest.raises(FitError, match="There are: val_loss, val_loss_en, val_loss_zh"):
        sl.load(sets).using(loss="val_loss_fr")

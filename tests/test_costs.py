"""Energy, money and CO2 of runs: published figures, shares counted once, the frontier against them."""

from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest

from scaling.analysis.allocation.spending import (
    PaidCost,
    fit_spending,
    frontier_data,
    known_axes,
    optimum_costs,
)
from scaling.analysis.data.costs import total_costs
from scaling.analysis.data.runs import load
from scaling.analysis.fits.fitting import fit
from scaling.analysis.law import Cost
from scaling.analysis.optimum import best_allocation, numeric_optimum
from scaling.cli import main
from scaling.study.cost import CostConfig, cost_words, device_seconds
from scaling.study.errors import ConfigError, FitError

matplotlib.use("Agg")
TRUTH = {"E": 1.69, "A": 406.4, "B": 410.7, "alpha": 0.34, "beta": 0.28}
SAMPLE = Path(__file__).parent.parent / "results" / "sample"
HOURS = 1e-17  # device-hours of a token and parameter


def table(power=1.0, *, extra=None):
    """Runs of Chinchilla's law without noise whose time a token grows as N^power."""
    rows = []
    for N in np.geomspace(1e7, 1e9, 7):
        for ratio in (5, 20, 80):
            D = ratio * N
            loss = TRUTH["E"] + TRUTH["A"] / N ** TRUTH["alpha"] + TRUTH["B"] / D ** TRUTH["beta"]
            hours = HOURS * 1e8 * (N / 1e8) ** power * D
            rows.append({"N": N, "D": D, "loss": loss, "device_hours": hours, **(extra or {})})
    return pd.DataFrame(rows)


def test_published_energies_and_emissions_come_out():
    # Patterson et al. 2021 (arXiv:2104.10350), table 4: GPT-3 on 10,000 V100 for 14.8 days at 330 W,
    # PUE 1.10 and 0.429 kg/kWh: 1,287 MWh and 552.1 t. Days are printed to 0.3 %.
    gpt3 = CostConfig(watts=330, pue=1.10, carbon=0.429)
    kwh = gpt3.stated_kwh(10_000 * 14.8 * 24)
    assert kwh == pytest.approx(1287e3, rel=4e-3) and gpt3.co2_kg(kwh) == pytest.approx(552.1e3, rel=4e-3)  # fmt: skip
    # Strubell et al. 2019 (arXiv:1906.02243), table 3: BERT base on 64 V100, 12,041.51 W in all for
    # 79 h, PUE 1.58, 0.954 lb/kWh: 1,507 kWh and 1,438 lb. Hours are printed to 0.6 %.
    bert = CostConfig(watts=12_041.51, pue=1.58, carbon=0.954)
    kwh = bert.stated_kwh(79)
    assert kwh == pytest.approx(1507, rel=6e-3) and bert.co2_kg(kwh) == pytest.approx(1438, rel=6e-3)  # fmt: skip


def test_nothing_stated_is_nothing_and_not_zero():
    none = CostConfig()
    assert none.stated() is None and none.money(5.0) is None and none.stated_kwh(5.0) is None
    assert none.co2_kg(none.stated_kwh(5.0)) is None and cost_words(none, 5.0) == []
    assert device_seconds(None, 8, 1) is None and device_seconds(10.0, 8, 4) == 20.0
    columns = load(table()).frame.columns
    assert "device_hours" in columns and not {"energy_kwh", "money", "co2_kg"} & set(columns)


def test_measured_energy_goes_before_stated_and_rates_of_now_before_those_of_then():
    then = {"watts": 100.0, "rate": 9.0, "currency": "EUR"}
    rows = table(extra={"cost": None, "seconds": 3600.0, "devices": 2}).drop(columns="device_hours").head(3)  # fmt: skip
    rows["cost"] = [then, then, {}]
    rows["energy_joules"], rows["energy_source"] = [7.2e6, np.nan, np.nan], ["nvml", None, None]
    frame = load(rows).using(cost={"rate": 2.0, "pue": 1.5, "carbon": 0.5}).frame
    # 7.2 MJ are 2 kWh, with the building 3; the second is 2 device-hours at 100 W, with the building 0.3
    assert frame["energy_kwh"].tolist()[:2] == pytest.approx([3.0, 0.3])
    assert frame["energy_source"].tolist()[:2] == ["nvml", "stated"]
    assert frame["co2_kg"].tolist()[:2] == pytest.approx([1.5, 0.15])
    assert frame["money"].tolist() == pytest.approx([4.0] * 3)
    assert np.isnan(frame["energy_kwh"].iloc[2])  # nobody stated a power for it


def test_steps_of_a_trunk_are_paid_once_if_the_run_that_carried_it_is_there():
    rows = table(extra={"devices": 1}).drop(columns="device_hours").head(2)
    rows["run_id"], rows["parent"] = ["long", "short"], [None, "long"]
    rows["seconds"], rows["parent_seconds"] = [7200.0, 3600.0], [np.nan, 2700.0]
    rows["energy_joules"], rows["parent_joules"] = [7.2e6, 3.6e6], [np.nan, 1.8e6]
    frame = load(rows).using(cost={"rate": 4.0}).frame
    assert frame["money"].tolist() == pytest.approx([8.0, 4.0])  # each as if it were alone
    totals = total_costs(frame)
    assert totals == pytest.approx({"device_hours": 2.25, "money": 9.0, "energy_kwh": 2.5})
    assert total_costs(frame[frame["run_id"] == "short"])["money"] == pytest.approx(4.0)


def test_a_rate_that_is_none_is_refused():
    with pytest.raises(ConfigError, match=r"cost\.wats: no such key"):
        load(table()).using(cost={"wats": 3})
    with pytest.raises(ConfigError, match=r"cost\.pue: must be at least 1"):
        load(table()).using(cost={"pue": 0.9})


def test_the_power_of_cost_is_found_and_the_knee_has_no_jump():
    spending = fit_spending(load(table(0.7)), "hours")
    # the rows have no noise: what is left is rounding
    assert spending.cost.power == pytest.approx(0.7, abs=1e-9) and spending.scatter < 1e-9
    cost = spending.cost
    assert cost.flops(1e9 * (1 + 1e-9), 1.0) == pytest.approx(cost.flops(1e9, 1.0), rel=1e-8)
    assert cost.flops(1e11, 1.0) == pytest.approx(
        100 * cost.flops(1e9, 1.0)
    )  # in proportion to FLOPs
    assert cost.tokens(cost.flops(3e8, 6e9), 3e8) == pytest.approx(6e9)


def test_frontier_against_hours_is_that_of_flops_where_they_are_proportional():
    law = fit(load(table()), "chinchilla", intervals="none")
    by_hours = frontier_data(law, "hours")["law"]
    C = by_hours["x"].to_numpy() * 6.0 / HOURS
    expected = law.optimal(C)
    # the search ends at 1e-14 in ln N except at the knee, where values alone tell: 1e-7
    assert by_hours["N"].to_numpy() == pytest.approx(expected["N"].to_numpy(), rel=1e-5)
    assert by_hours["loss"].to_numpy() == pytest.approx(expected["loss"].to_numpy(), rel=1e-9)


def test_best_size_for_hours_is_larger_where_large_models_are_cheap():
    law = fit(load(table(0.5)), "chinchilla", intervals="none")
    cost = fit_spending(law.runs, "hours").cost
    # inside the runs the closed form of Hoffmann et al., with the power of the cost, is the answer
    x = np.array([0.05])
    N, D = numeric_optimum(law.law, law.params, x, cost)
    closed, _ = best_allocation(law.law, law.params, x, Cost(cost.factor, cost.power))
    assert N[0] < 1e9 and pytest.approx(closed[0], rel=1e-6) == N[0]
    of_flops, _ = best_allocation(law.law, law.params, 6 * N * D, Cost())
    assert N[0] > 1.2 * of_flops[0]


def test_optimum_costs_what_its_tokens_cost_and_a_stated_speed_goes_first():
    runs = load(table()).using(cost={"watts": 400, "rate": 2.0, "currency": "EUR", "carbon": 0.3})
    law = fit(runs, "chinchilla", intervals="none")
    found = optimum_costs(law, [1e20, 1e22])
    hours = HOURS / 6 * np.array([1e20, 1e22])
    assert found.frame["device_hours"].to_numpy() == pytest.approx(hours, rel=1e-6)
    assert found.frame["co2_kg"].to_numpy() == pytest.approx(hours * 0.4 * 0.3, rel=1e-6)
    text = found.summary().text()
    assert "EUR" in text and "0.3 kg CO2e/kWh (cost.carbon_source does not say" in text
    fast = optimum_costs(law, [1e20], speed=4e14)
    assert fast.get("device_hours") == pytest.approx(1e20 / 4e14 / 3600)
    assert fast.get("money") == pytest.approx(2 * 1e20 / 4e14 / 3600)


def test_axes_that_runs_do_not_say_are_refused_with_what_to_state():
    runs = load(table())
    assert known_axes(runs) == ["flops", "hours"]
    with pytest.raises(FitError, match=r"x=money.*cost\.rate"):
        fit_spending(runs, "money")
    with pytest.raises(FitError, match="x: 'enrgy'"):
        fit_spending(runs, "enrgy")


def test_envelope_only_falls_and_no_run_lies_below_it():
    law = fit(load(SAMPLE).using(cost={"watts": 12}), "chinchilla", intervals="none")
    data = frontier_data(law, "energy")
    envelope, runs = data["envelope"], data["runs"]
    assert (np.diff(envelope["loss"]) <= 0).all() and (np.diff(envelope["x"]) >= 0).all()
    for row in runs.itertuples():
        reached = envelope.loc[envelope["x"] <= row.x * (1 + 1e-9), "loss"].min()
        # a curve's last point is the run itself, written to the same digits
        assert reached <= row.loss + 1e-9


def test_cost_of_a_table_is_fitted_and_drawn_from_the_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    table(0.8).to_csv("my runs.csv", index=False)
    rates = ["cost.watts=700", "cost.rate=2.5", "cost.currency=EUR", "intervals=none"]
    assert main(["fit", "my runs.csv", *rates]) == 0
    text = capsys.readouterr().out
    assert "What the optimum costs" in text and "700 W a device, 2.5 EUR a device-hour" in text
    assert main(["plot", "my runs.csv", "x=money", *rates]) == 0
    assert (tmp_path / "figures" / "loss_by_money.png").stat().st_size > 10_000
    drawn = pd.read_csv(tmp_path / "figures" / "loss_by_money.csv")
    assert set(drawn["series"]) == {"runs", "law", "by_flops"}  # a table has no curves
    assert main(["plot", "my runs.csv", "x=co2"]) == 1
    assert "cost.carbon=0.4" in capsys.readouterr().err


def test_cost_config_of_a_knee_is_plain_below_it():
    assert PaidCost(2.0, 0.5, knee=100.0).flops(25.0, 3.0) == pytest.approx(2.0 * 5.0 * 3.0)

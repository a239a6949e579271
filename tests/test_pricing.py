"""`scaling plan` prices a sweep: hours, money, memory, disk; and keys of planning alone."""

import re

import pytest

from scaling.cli import main
from scaling.cli.compose import compose_sweep
from scaling.cli.plankeys import take_plan_keys
from scaling.cli.pricing import PriceConfig, price_lines, spent_flops
from scaling.study.devices import PEAK_FLOPS, find_peak, read_device
from scaling.study.errors import ConfigError
from scaling.study.plan import make_plan
from scaling.study.record import RunRecord, write_record
from scaling.study.trunks import find_trunks

SWEEP = """\
# @package _global_
design:
  trunks: true
  grid: {model.params: [10k], budget.tokens: [100k, 200k, 400k]}
data: {source: markov, vocab: 64, size: 1M, val_tokens: 4096}
train: {keep_checkpoint: true}
"""


FEW = "simulate.studies=20"  # what is asserted is no width


@pytest.fixture
def place(tmp_path, monkeypatch):
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "sweeps" / "mine.yaml").write_text(SWEEP)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SCALING_CACHE", str(tmp_path / "cache"))
    return tmp_path


def plans():
    return [make_plan(p.config) for p in compose_sweep(["sweeps=mine"]).points]


def number(pattern, text):
    return float(re.search(pattern, text)[1].replace(",", ""))


def test_hours_are_flops_over_peak_times_utilisation_and_money_follows_the_rate(place):
    price = PriceConfig(peak=1e6, mfu=0.5, rate=3.0)  # a slow device, so that hours have digits
    line = price_lines(plans(), price, None)[0]
    hours = spent_flops(plans()) / (1e6 * 0.5) / 3600
    # printed to a whole hour, or to three digits below 100
    assert number(r"^([\d,.]+) device-hours", line) == pytest.approx(hours, rel=6e-3)
    assert number(r"; ([\d,.]+) at 3 an hour", line) == pytest.approx(3 * hours, rel=6e-3)


def test_money_needs_a_rate_and_hours_a_utilisation(place):
    without = price_lines(plans(), PriceConfig(device="h100", mfu=0.4), None)[0]
    assert "price.rate" in without and "an hour;" not in without
    bound = price_lines(plans(), PriceConfig(device="h100", rate=2.0), None)[0]
    assert bound.startswith("At least") and "price.mfu" in bound


def test_shared_trunks_are_paid_once(place):
    shared = sum(t.shared_flops for t in find_trunks(plans()))
    apart = sum(spent_flops([p]) for p in plans())
    assert shared > 0 and spent_flops(plans()) == pytest.approx(apart - shared)


def test_utilisation_is_measured_from_finished_runs(place):
    first, second, _ = plans()
    for plan, mfu in ((first, 0.2), (second, 0.6)):
        write_record(plan.folder, RunRecord(plan.run_id, "done", val_loss=2.0, steps=1, mfu=mfu, flops_counted=plan.flops_counted, device="NVIDIA A100-SXM4-80GB"))  # fmt: skip
    line = price_lines(plans(), PriceConfig(), None)[0]
    # the second run has twice the FLOPs: 3 / (1/0.2 + 2/0.6) = 0.36
    assert "at 36% of 3.12e14" in line and "measured by 2 finished runs" in line
    other = price_lines(plans(), PriceConfig(device="h100"), None)[0]
    assert other.startswith("At least")  # an A100's utilisation says nothing of an H100


def test_disk_counts_weights_checkpoints_and_text(place):
    line = price_lines(plans(), PriceConfig(), None)[-1]
    total = plans()[0].counts.total
    weights = number(r"([\d.]+) KiB of final weights", line) * 1024
    assert weights == pytest.approx(3 * 4 * total, rel=6e-3)  # float32, printed to three digits
    # a byte per token: 1,000,000 to train on and 4,096 held out are 0.957 MiB
    assert number(r"at most ([\d.]+) (?:MiB|KiB) of tokens", line) == pytest.approx(981, rel=2e-3)
    assert "of checkpoints a run" in line


def test_device_is_found_however_it_is_written():
    assert (
        read_device("h100-pcie") == "H100 PCIe" and find_peak("NVIDIA H200") == PEAK_FLOPS["H200"]
    )
    with pytest.raises(ConfigError, match="price.device: there is no peak for 'h10'.*price.peak"):
        read_device("h10")


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("price.mfu=1.4", "price.mfu: must be at most 1"),
        ("price.mf=0.4", "price.mf: no such key. Did you mean"),
        ("simulate=maybe", "simulate: expected true or false"),
        ("simulate.noise=much", "simulate.noise: expected a number"),
        ("price=3", "price: needs a key below it"),
    ],
)
def test_wrong_keys_of_planning_are_refused_by_name(argument, said):
    with pytest.raises(ConfigError, match=said):
        take_plan_keys([argument])


def test_plan_says_points_that_are_one_run(place, capsys):
    assert main(["plan", "mine", "calibrate=false", "model.params=10k,10000"]) == 0
    assert "6 points are 3 different runs" in capsys.readouterr().out


@pytest.fixture
def profile(place):
    (place / "sweeps" / "profile.yaml").write_text(
        "# @package _global_\ndesign: {question: q, isoflop: {budgets: [1e10, 1e11, 1e12], sizes: 5, window: 3}}\n"
    )


def test_plan_foretells_what_a_design_will_say(profile, capsys):
    assert main(["plan", "profile", "calibrate=false", "simulate.noise=0.01", FEW]) == 0
    text = capsys.readouterr().out
    assert re.search(r"a = 0\.\d\d ± 0\.\d+; N\* at 1e13 FLOPs within a factor \d", text)
    assert main(["plan", "profile", "calibrate=false", "simulate=false"]) == 0
    assert "Simulated" not in capsys.readouterr().out


def test_plan_simulates_the_law_that_is_given(profile, capsys):
    law = ["E=1", "A=400", "B=400", "alpha=0.5", "beta=0.5"]
    assert main(["plan", "profile", "calibrate=false", FEW, *(f"simulate.{k}" for k in law)]) == 0
    assert "a = 0.50 ±" in capsys.readouterr().out
    assert main(["plan", "profile", "calibrate=false", "simulate.E=1"]) == 1
    assert "simulate.A" in capsys.readouterr().err
    assert main(["plan", "profile", "calibrate=false", "simulate.law=hofman"]) == 1
    assert "no published set 'hofman'" in capsys.readouterr().err


def test_plan_warns_of_rates_set_by_hand_for_each_size(place, capsys):
    (place / "sweeps" / "byhand.yaml").write_text(
        "# @package _global_\ndesign:\n  points:\n"
        + "".join(
            f"    - {{model.params: {n}k, optim.lr: {lr}, budget.tokens: {d}}}\n"
            for n, lr in ((10, 0.01), (20, 0.007), (40, 0.005))
            for d in ("1M", "4M", "16M")
        )
    )
    assert main(["plan", "byhand", "calibrate=false", FEW]) == 0
    assert (
        "W-DESIGN: optim.lr changes with the size and with nothing else (10k: 0.01"
        in capsys.readouterr().out
    )


def test_train_says_where_keys_of_planning_belong(place, capsys):
    assert main(["train", "mine", "price.rate=2"]) == 1
    assert "price.rate: belongs to `scaling plan`" in capsys.readouterr().err


def test_plan_warns_of_rates_that_miss_the_rule(place, capsys):
    low = ["model.params=10k", "budget.tokens=100k", "optim.lr=1e-4,2e-4,4e-4"]
    assert main(["plan", *low, "calibrate=false"]) == 0
    assert (
        "W-TUNE: rates 0.0001 to 0.0004 do not enclose the rule's for N = 10k"
        in capsys.readouterr().out
    )
    assert main(["plan", *low[:2], "optim.lr_scale=0.5,1,2", "calibrate=false"]) == 0
    assert "W-TUNE" not in capsys.readouterr().out


def test_one_text_is_stored_once_however_much_of_it_is_seen(place, capsys):
    seen = ["data.unique_tokens=300k,500k", "data.max_epochs=3"]
    assert main(["plan", "mine", *seen, "calibrate=false"]) == 0
    assert "at most 981 KiB of tokens" in capsys.readouterr().out  # as without, not twice


def test_plan_says_when_the_check_lies_among_the_runs(profile, capsys):
    low = ["design.verify={budget.flops: 1e11, model.params: optimal}", FEW, "calibrate=false"]
    assert main(["plan", "profile", *low]) == 0
    text = capsys.readouterr().out
    assert "design.verify names a run of 1e11 FLOPs" in text and "N* at 1e13 FLOPs" in text

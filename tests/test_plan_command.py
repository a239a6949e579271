"""`scaling plan`: what it says of a sweep before anything is trained."""

import json

import pytest
from small_run import small_plan

from scaling.cli import main
from scaling.cli.compose import compose_sweep
from scaling.cli.estimate import Estimate, cost_key, estimate_seconds
from scaling.study.plan import make_plan
from scaling.study.record import RunRecord, write_record

TRUNKS = """\
# @package _global_
design:
  trunks: true
  grid:
    model.params: [10k]
    budget.tokens: [100k, 200k, 400k]
data: {source: markov, vocab: 64, size: 1M, val_tokens: 4096}
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "sweeps" / "mine.yaml").write_text(TRUNKS)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def said(capsys, *arguments):
    assert main(["plan", *arguments, "calibrate=false"]) == 0
    return capsys.readouterr().out


def finish(count):
    """Write records that say the sweep's first runs are done."""
    points = compose_sweep(["sweeps=mine"]).points
    for plan in [make_plan(p.config) for p in points][:count]:
        write_record(plan.folder, RunRecord(plan.run_id, "done", val_loss=2.0, steps=1))


def test_plan_says_where_records_will_be(place, capsys):
    assert "results/mine" in said(capsys, "mine").splitlines()[-1]


def test_plan_counts_savings_of_unfinished_runs_only(place, capsys):
    fresh = said(capsys, "mine")
    assert "1 trunk carries 3 runs" in fresh and fresh.count("branches off") == 2
    finish(2)
    rest = said(capsys, "mine")  # one run is left, and has nothing to share steps with
    assert "saved" not in rest and "branches off" not in rest
    finish(3)
    assert "saved" not in said(capsys, "mine")


def test_plan_takes_the_line_of_a_multirun(place, capsys):
    grid = ["model.params=10k", "budget.tokens=100k,200k"]
    assert said(capsys, "-m", *grid) == said(capsys, *grid)


def test_plan_says_where_rules_are_read_and_which_schedules_have_no_trunk(place, capsys):
    assert "read at 100k tokens (optim.horizon)" in said(capsys, "mine")
    text = said(capsys, "mine", "optim.schedule=cosine")
    assert "No trunks: optim.schedule=cosine ends at the budget" in text and "saved" not in text


def test_plan_warns_of_what_training_will_refuse(place, capsys):
    text = said(capsys, "mine", "data.size=150k", "data.max_epochs=1")
    assert text.count("Warning: training will refuse") == 2  # 200k and 400k tokens
    assert "data.max_epochs: " in text and "Warning" not in said(capsys, "mine")
    short = place / "short.txt"
    short.write_text("a line\n" * 100)
    text_runs = ["data=text", f"data.path={short}", "model.params=10k", "budget.tokens=1M"]
    assert "data.max_epochs: " in said(capsys, *text_runs)  # the text was never read
    lost = said(capsys, *text_runs[2:], "data=stdlib", "data.validation.zh=lost.txt")
    assert "data.validation.zh=" in lost and "no such file" in lost


def test_plan_says_when_validation_takes_much(place):
    plans = [make_plan(p.config) for p in compose_sweep(["sweeps=mine"]).points]
    seconds = {p.run_id: 10.0 for p in plans}
    much = Estimate(seconds, 1, {p.run_id: 4.0 for p in plans}).describe(plans)
    assert "40% of a run's time is validation" in much
    assert "validation" not in Estimate(seconds, 1, dict.fromkeys(seconds, 3.0)).describe(plans)


def test_train_says_where_calibrate_belongs(place, capsys):
    assert main(["train", "mine", "calibrate=false"]) == 1
    assert "calibrate: belongs to `scaling plan`" in capsys.readouterr().err


@pytest.mark.parametrize(
    "change",
    [
        {"optim.name": "muon"},
        {"train.recompute": True},
        {"train.compile": True},
        {"train.threads": 2},
        {"model.width": 32},
    ],
)
def test_times_of_steps_are_told_apart_by_what_makes_them_slower(tmp_path, change):
    same, other = small_plan(tmp_path, **{"optim.lr_scale": 0.5}), small_plan(tmp_path, **change)
    key = cost_key(small_plan(tmp_path), jobs=1, models=1)
    assert cost_key(same, jobs=1, models=1) == key != cost_key(other, jobs=1, models=1)


def test_an_optimiser_is_timed_as_itself_and_remembered(tmp_path, monkeypatch):
    monkeypatch.setattr("scaling.cli.estimate.SECONDS_PER_SHAPE", 0.1)
    plans = [small_plan(tmp_path, **{"optim.name": name}) for name in ("adamw", "muon")]
    first = estimate_seconds(plans, jobs=1)
    file = next(tmp_path.rglob("calibration/*.json"))
    assert len(json.loads(file.read_text())) == 2
    assert estimate_seconds(plans, jobs=1) == first  # nothing is timed again

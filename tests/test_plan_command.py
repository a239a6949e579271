"""`scaling plan`: what it says of a sweep before anything is trained."""

import pytest

from scaling.cli import main
from scaling.cli.compose import compose_sweep
from scaling.study.plan import make_plan
from scaling.study.record import RunRecord, write_record

TRUNKS = """\
# @package _global_
design:
  trunks: true
  grid:
    model.params: [10k]
    budget.tokens: [100k, 200k, 400k]
data: {source: markov, vocab: 64, size: 100k, val_tokens: 4096}
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


def test_train_says_where_calibrate_belongs(place, capsys):
    assert main(["train", "mine", "calibrate=false"]) == 1
    assert "calibrate: belongs to `scaling plan`" in capsys.readouterr().err

"""The command line, as a user types it: a sweep in miniature, and what it answers to bad input."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from children import fresh_cache

from scaling.cli import main
from scaling.cli.train import describe_run
from scaling.study.record import RunRecord

MINI = """\
# @package _global_
# Question: does the loop close?
# Cost: 9 runs, seconds.
sweep: mini
design:
  question: Does the loop close?
  grid:
    model.params: [3k, 5k, 8k]
    budget.tokens: [8k, 16k, 32k]
  verify: {model.params: 8k, budget.tokens: 48k}
data: {source: markov, vocab: 64, size: 100k, val_tokens: 4096}
train: {evals: 3, keep_checkpoint: false}
"""


def scaling(*arguments, cwd, **env):
    return subprocess.run(
        [sys.executable, "-m", "scaling", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        env={**os.environ, **env},
        timeout=240,
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with a trained miniature sweep, made through the command line."""
    folder = tmp_path_factory.mktemp("study")
    (folder / "sweeps").mkdir()
    (folder / "sweeps" / "mini.yaml").write_text(MINI)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("SCALING_CACHE", str(folder / "cache"))
        assert main(["train", "mini"]) == 0
    return folder


@pytest.fixture
def study(trained, monkeypatch, capsys):
    """The same folder as the current one, and nothing printed yet."""
    monkeypatch.chdir(trained)
    monkeypatch.setenv("SCALING_CACHE", str(trained / "cache"))
    capsys.readouterr()
    return trained


def run_folders(study):
    return sorted(p.parent for p in (study / "results" / "mini").glob("*/run.json"))


def test_sweep_trains_every_run_and_records_it(study):
    records = [json.loads((f / "run.json").read_text()) for f in run_folders(study)]
    assert len(records) == 9
    for record in records:
        assert record["status"] == "done" and record["sweep"] == "mini"
        assert record["val_excess"] > 0  # no model scores below the true source
        assert record["tokens"] == record["steps"] * record["batch_tokens"]


def test_rerun_trains_nothing_and_says_so(study, capsys):
    before = {f: (f / "run.json").stat().st_mtime_ns for f in run_folders(study)}
    assert main(["train", "mini"]) == 0
    assert "all 9 runs are finished; nothing to train" in capsys.readouterr().out
    assert before == {f: (f / "run.json").stat().st_mtime_ns for f in run_folders(study)}


@pytest.mark.slow
def test_deleted_run_is_the_only_one_trained_again(study):
    before = {f: (f / "run.json").stat().st_mtime_ns for f in run_folders(study)}
    gone = run_folders(study)[4]
    losses = json.loads((gone / "run.json").read_text())["val_loss"]
    shutil.rmtree(gone)
    result = scaling("train", "mini", cwd=study, SCALING_CACHE=str(study / "cache"))
    assert result.returncode == 0 and "9 runs: 8 done, 1 waiting" in result.stderr
    after = {f: (f / "run.json").stat().st_mtime_ns for f in run_folders(study)}
    assert [f for f in after if after[f] != before[f]] == [gone]
    assert (
        json.loads((gone / "run.json").read_text())["val_loss"] == losses
    )  # to the bit: same seed, same order


def test_status_counts_runs_and_names_damage(study, tmp_path, monkeypatch, capsys):
    shutil.copytree(study, tmp_path / "copy", dirs_exist_ok=True)
    copy = tmp_path / "copy"
    first, second = run_folders(copy)[:2]
    (first / "run.json").write_text('{"cut')
    (first / "run.copy.json").unlink()
    shutil.rmtree(second)
    monkeypatch.chdir(copy)
    assert main(["status", "mini"]) == 0
    said = capsys.readouterr().out
    assert "7 done" in said and "1 damaged" in said and "1 waiting" in said
    assert "Delete the folder to train the run again" in said


def test_fit_and_plot_read_the_records(study, capsys):
    assert main(["fit", "mini", "resamples=50"]) == 0
    said = capsys.readouterr().out
    assert "alpha" in said and "non_embedding" in said.replace("-", "_")
    assert (study / "results" / "mini" / "fit.json").exists()
    assert main(["plot", "mini", "resamples=50"]) == 0
    drawn = capsys.readouterr().out.split()
    assert drawn and all(Path(study / line).stat().st_size > 10_000 for line in drawn)


def test_verify_states_a_prediction_before_the_run_and_keeps_it(study):
    assert main(["verify", "mini"]) == 0
    forecast = json.loads((study / "results" / "mini" / "forecast.json").read_text())
    record = json.loads((study / "results" / "mini" / forecast["run_id"] / "run.json").read_text())
    assert record["role"] == "verify" and forecast["stated_at"] <= record["started_at"]
    assert forecast["next_lo"] < forecast["predicted"] < forecast["next_hi"]
    assert main(["verify", "mini"]) == 0
    assert json.loads((study / "results" / "mini" / "forecast.json").read_text()) == forecast
    shutil.rmtree(
        study / "results" / "mini" / forecast["run_id"]
    )  # the other tests count nine runs
    (study / "results" / "mini" / "forecast.json").unlink()


@pytest.mark.slow
def test_multirun_from_the_command_line_is_a_grid(tmp_path):
    result = scaling(
        "train", "-m", "model.params=3k,5k", "budget.tokens=4k,8k", "data=markov", "data.vocab=64", "data.size=50k",
        "data.val_tokens=2048", "sweep=grid", cwd=tmp_path, SCALING_CACHE=fresh_cache(tmp_path),
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert len(list((tmp_path / "results" / "grid").glob("*/run.json"))) == 4


def test_single_run_says_what_came_out(tmp_path):
    result = scaling(
        "train", "model.params=3k", "budget.tokens=4k", "data=markov", "data.vocab=64", "data.size=50k", "data.val_tokens=2048",
        cwd=tmp_path, SCALING_CACHE=fresh_cache(tmp_path),
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert (
        "validation loss" in result.stdout
        and "nats/token" in result.stdout
        and "results/single/" in result.stdout
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["compare", "runs.csv"],
            "there is no verb 'compare'. There is scaling.compare(...) in Python.",
        ),
        (["trian"], "there is no verb 'trian'. Did you mean 'train'?"),
        (["train", "quickstrat"], "there is no sweep 'quickstrat'. Did you mean 'quickstart'?"),
        (
            ["train", "model.n_layers=3"],
            "model.n_layers: no such key. Did you mean 'model.layers'?",
        ),
        (["train", "+model.extra=1"], "model.extra: no such key"),
        (
            ["train", "model.params=big"],
            "model.params: expected a number such as 40M or 1e18; got 'big'",
        ),
        (["train", "model=huge"], "model: there is no 'huge'. There are: bert, gpt2, llama, t5"),
        (
            ["train", "model.params=1M", "budget.tokens=0"],
            "budget.tokens: must be above 0 tokens; got 0",
        ),
        (["train", "model.params=1M", "budget.flops=-1e18"], "budget.flops: must be above 0 FLOPs"),
        (
            ["train", "model.params=1M", "budget.flops=1e18", "budget.tokens=2e9"],
            "budget: set one of tokens, flops, tokens_per_param",
        ),
        (["train", "model.params=1T", "budget.tokens=1M"], "memory"),
        (
            ["train", "model.params=3k", "budget.tokens=4k", "data=text", "data.path=missing.txt"],
            "missing.txt",
        ),
        (["train"], "model: no size is given"),
        (
            ["plan", "model.params=10k", "model.params_convention=total", "data.vocab=50257"],
            "no shape is within 1 %",
        ),
        (["fit", "nothing_here"], "Train the sweep first"),
        (["fit", "quickstart", "objectve=mse"], "objectve: no such key. Did you mean 'objective'?"),
        (["keys", "modle"], "no key starts with 'modle'"),
    ],
)
def test_bad_input_is_answered_in_one_line(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SCALING_CACHE", str(tmp_path / "cache"))
    assert main(arguments) == 1
    answer = capsys.readouterr().err
    assert message in answer
    assert "Traceback" not in answer


@pytest.mark.parametrize("arguments", [["model.params=3k"], ["-m", "model.params=3k,5k"]])
def test_unwritable_results_folder_is_refused_before_training(
    arguments, tmp_path, monkeypatch, capsys
):
    (tmp_path / "results").write_text("a file where the folder should be")
    monkeypatch.chdir(tmp_path)
    assert main(["train", *arguments, "budget.tokens=4k", "data=markov", "data.vocab=64"]) == 1
    assert "results" in capsys.readouterr().err


def test_hydra_flags_still_work(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "model.params=1M", "--cfg", "job"]) == 0
    assert "params: 1M" in capsys.readouterr().out
    assert not (tmp_path / "results").exists()


def test_end_of_a_run_shows_every_held_out_text():
    sets = {
        "en": {"loss": 2.0, "se": 0.01, "bits_per_byte": 2.8854},
        "zh": {"loss": 6.0, "se": 0.02, "bits_per_byte": None},
        "bad": {"loss": None},
    }
    record = RunRecord(
        run_id="r", status="done", val_loss=1.9, val_loss_se=0.01, vocab=256, tokens=1000, seconds=2.0, val_sets=sets
    )  # fmt: skip
    first, *lines, folder = describe_run(record, "results/single/r").splitlines()
    assert "validation loss 1.9000 nats/token (± 0.0100)" in first and "worse" not in first
    # ln 256 = 5.5452 is the loss of an even guess over bytes
    assert lines == [
        "  val_loss_en 2.0000 nats/token (± 0.0100), 2.885 bits/byte",
        "  val_loss_zh 6.0000 nats/token (± 0.0200), worse than an even guess (5.5452)",
        "  val_loss_bad not finite",
    ]
    assert folder.strip() == "results/single/r"

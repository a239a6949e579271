"""`scaling fit` does what the Python call does, on tables and sweeps, and answers mistakes in a line."""

import shlex
import shutil

import numpy as np
import pandas as pd
import pytest

from scaling.analysis.data.runs import load
from scaling.analysis.data.simulation import isoflop_grid, simulate
from scaling.analysis.fits.fitting import Fit, fit
from scaling.cli import main
from scaling.cli.compose import compose_fit
from scaling.cli.drawing import __doc__ as plot_help
from scaling.cli.fit import __doc__ as help_text
from scaling.present.figures import CAPTIONS
from scaling.study.config import FitConfig, config_keys
from scaling.study.errors import ConfigError
from scaling.study.paths import data_dir

TRUTH = {"E": 0.9, "A": 60.0, "B": 300.0, "alpha": 0.35, "beta": 0.37}
SAMPLE = data_dir("conf").parent / "results" / "sample"
QUICK = "resamples=30"


@pytest.fixture
def table(tmp_path, monkeypatch):
    """A table of somebody else's runs in the current folder, two groups in it."""
    N, D = isoflop_grid(np.geomspace(1e12, 1e14, 5), points=5)
    parts = []
    for seed, group in ((0, "web"), (1, "code")):
        runs = simulate("chinchilla", TRUTH, N, D, noise=0.005, seed=seed)
        parts.append(pd.DataFrame({"millions": N / 1e6, "tokens": D, "final": runs.L, "set": group}))  # fmt: skip
    monkeypatch.chdir(tmp_path)
    pd.concat(parts).to_csv("runs.csv", index=False)
    return tmp_path


MAPPED = ("columns.millions=params", "units.millions=M", "columns.final=val_loss")


def test_command_fits_a_table_as_the_python_call_does(table, capsys):
    options = ("law=chinchilla_tied", "objective=mse_log", "intervals=delta", "seed=4", "level=0.8")
    assert main(["fit", "runs.csv", *MAPPED, *options]) == 0
    said = capsys.readouterr().out
    runs = load("runs.csv", columns={"millions": "params", "final": "val_loss"}, units={"millions": "M"})  # fmt: skip
    ours = fit(runs, "chinchilla_tied", objective="mse_log", intervals="delta", seed=4, level=0.8, resamples=500)  # fmt: skip
    saved = Fit.load(table / "fit.json")
    assert saved.params == ours.params
    assert all(np.array_equal(saved.draws[k], ours.draws[k]) for k in ours.draws)
    assert ours.summary().text() in said
    assert runs.conventions in said and "50 runs" in said


def test_command_writes_every_format_where_it_is_told(table, capsys):
    assert main(["fit", "runs.csv", *MAPPED, QUICK, "out=paper/tables", "format=markdown,latex,csv"]) == 0  # fmt: skip
    names = sorted(p.name for p in (table / "paper" / "tables").iterdir())
    assert names == ["fit.json", "fit.md", "fit.tex", "fit_parameters.csv", "fit_predictions.csv", "fit_runs.csv"]  # fmt: skip
    assert "paper/tables/fit.tex" in capsys.readouterr().out.replace("\\", "/")
    assert not (table / "fit.json").exists()


def test_command_answers_every_decision(table, capsys):
    asked = ("target.flops=1e15", "target.loss=1.5", "target.inference=1e10", "target.unique=1M")
    assert main(["fit", "runs.csv", *MAPPED, QUICK, *asked, "target.params=1M", "target.tokens=20M"]) == 0  # fmt: skip
    said = capsys.readouterr().out
    for part in ("Lowest loss at a budget", "Predicted by", "Least compute for a loss", "over the life", "1M unique tokens"):  # fmt: skip
        assert part in said, part


def test_command_holds_parameters_and_large_budgets(table, capsys):
    assert main(["fit", "runs.csv", *MAPPED, QUICK, "fixed={E: 0.9}", "starts=2", "holdout_above=5e13"]) == 0  # fmt: skip
    said = capsys.readouterr().out
    saved = Fit.load(table / "fit.json")
    assert saved.params["E"] == 0.9 and saved.fixed == {"E": 0.9} and len(saved.runs) == 40
    assert "held" in said and "runs held out" in said and "of 10" in said


def test_command_fits_groups_one_by_one(table, capsys):
    assert main(["fit", "runs.csv", *MAPPED, QUICK, "group=set", "out=each"]) == 0
    said = capsys.readouterr().out
    assert "web" in said and "code" in said
    assert sorted(p.name for p in (table / "each").iterdir()) == ["fit_code.json", "fit_web.json"]
    assert len(Fit.load(table / "each" / "fit_web.json").runs) == 25


def test_plot_and_report_of_a_table_stay_out_of_its_way(table, capsys):
    assert main(["report", "runs.csv", *MAPPED, QUICK, "intervals=delta"]) == 0
    assert (table / "report.html").stat().st_size > 10_000


def test_law_of_one_variable_is_fitted_without_an_optimum(table, capsys):
    assert main(["fit", "runs.csv", *MAPPED, QUICK, "law=power_C_floor"]) == 0
    assert "Lowest loss" not in capsys.readouterr().out


def test_keys_reach_the_configuration_in_either_spelling():
    dotted = compose_fit("x.csv", ["columns.my N=params", "fixed.E=1.5", "units.params=M"])
    assert dotted.columns == {"my N": "params"}
    assert (dotted.fixed, dotted.units, dotted.sweep) == ({"E": 1.5}, {"params": "M"}, "x.csv")
    braces = compose_fit(None, ["columns={n: params, d: tokens}", "fixed={E: 1.5}", "priors=true"])
    assert braces.columns == {"n": "params", "d": "tokens"} and braces.fixed == {"E": 1.5}
    assert braces.priors and compose_fit(None, []).columns is None
    assert compose_fit("a folder/runs v2.csv", []).sweep == "a folder/runs v2.csv"


def test_help_shows_commands_and_every_key():
    assert help_text.count("scaling fit ") >= 8
    for key in config_keys(FitConfig):
        assert f"  {key.name} " in help_text and key.text in " ".join(help_text.split())


@pytest.mark.parametrize("verb", ["plot", "report", "next"])
def test_help_of_a_verb_is_its_own_and_short(verb, capsys):
    assert main([verb, "--help"]) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"scaling {verb} ") and len(text.splitlines()) < 20


def test_help_of_plot_names_every_figure_it_draws():
    assert all(name in plot_help for name in CAPTIONS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["runs.cvs"], "runs.cvs: no such file. Did you mean 'runs.csv'?"),
        (["runs.csv"], "columns="),
        (["runs.csv", *MAPPED, "law=chinchila"], "Did you mean 'chinchilla'"),
        (["runs.csv", *MAPPED, "objective=huber_lg"], "Did you mean 'huber_log'"),
        (["runs.csv", *MAPPED, "intervals=jacknife"], "'jacknife' is none of"),
        (["runs.csv", *MAPPED, "params=totl"], "Did you mean 'total'"),
        (["runs.csv", *MAPPED, "levle=0.9"], "Did you mean 'level'"),
        (["runs.csv", *MAPPED, "target.los=2"], "Did you mean 'target.loss'"),
        (["runs.csv", *MAPPED, "group=sett"], "'sett'"),
        (["runs.csv", *MAPPED, "fixed.F=1"], "fixed: F=1.0 cannot be held"),
        (["runs.csv", *MAPPED, "fixed.E=low"], "fixed.E: expected a number"),
        (["runs.csv", *MAPPED, "holdout_above=1e30"], "Choose a budget between"),
        (["runs.csv", *MAPPED, "format=pdf"], "'pdf' is none of markdown, latex"),
        (["runs.csv", *MAPPED, "out=runs.csv"], "cannot be made"),
        (["runs.csv", "sweep=other"], "named twice"),
        (["sweep="], "sweep: is empty"),
        (["results="], "results: is empty"),
        (["runs.csv", "columns=3"], "columns: expected columns={key: value}"),
    ],
)
def test_mistakes_are_answered_in_one_line(table, arguments, message, capsys):
    assert main(["fit", *arguments]) == 1
    answer = capsys.readouterr().err
    assert message in answer and "Traceback" not in answer
    first, *more = answer.strip().splitlines()
    assert message in first and all(line.startswith("More: ") for line in more) and len(more) <= 1
    assert not (table / "fit.json").exists()


def test_empty_places_are_refused_by_the_configuration():
    for name in ("sweep", "results", "law", "out", "format", "group", "loss"):
        with pytest.raises(ConfigError, match=f"{name}: is empty"):
            FitConfig.from_dict({name: " "})


@pytest.mark.skipif(not SAMPLE.is_dir(), reason="the sample sweep is not in this checkout")
def test_sweep_keeps_its_own_conventions_and_names_its_speed(tmp_path, monkeypatch, capsys):
    shutil.copytree(SAMPLE, tmp_path / "results" / "sample")
    monkeypatch.chdir(tmp_path)
    assert main(["fit", "sample", QUICK]) == 0
    said = capsys.readouterr().out
    assert "C: counted matrix products" in said and "FLOP/s of the largest fitted runs" in said
    assert (tmp_path / "results" / "sample" / "fit.json").exists()


def test_columns_with_spaces_are_named_in_words_a_shell_reads(table, capsys):
    """Somebody else's names: the refusal says what to type, and what it says works."""
    theirs = {"millions": "params (M)", "tokens": "train_tokens_B", "final": "final_loss"}
    pd.read_csv("runs.csv").rename(columns=theirs).to_csv("theirs.csv", index=False)
    assert main(["fit", "theirs.csv"]) == 1
    said = capsys.readouterr().err
    words = shlex.split(said[said.index("on the command line ") + 20 :].rstrip(".\n"))
    assert words == ["columns.params (M)=params", "columns.train_tokens_B=tokens"]
    quick = [QUICK, "columns.final_loss=val_loss", "units.params=M"]
    assert main(["fit", "theirs.csv", *words, *quick]) == 0
    one = "columns={'params (M)': params, train_tokens_B: tokens}"
    assert main(["fit", "theirs.csv", one, *quick]) == 0
    assert main(["fit", "theirs.csv", "columns={params:}"]) == 1
    assert "is no mapping" in capsys.readouterr().err


def test_second_bare_word_is_answered_in_words(capsys):
    assert main(["fit", "a.csv", "b.csv"]) == 1
    assert "'b.csv': a second bare word after 'a.csv'" in capsys.readouterr().err


def test_two_laws_in_one_key_are_answered_in_our_words(capsys):
    assert main(["fit", "sample", "law=chinchilla,kaplan"]) == 1
    said = capsys.readouterr().err
    assert "law: takes one value here" in said and "Write law=chinchilla," in said


def test_formats_of_tables_are_not_those_of_figures(capsys):
    assert main(["plot", "sample", "format=svg"]) == 1
    assert "formats=svg" in capsys.readouterr().err

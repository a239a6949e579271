"""Figures of what a fit costs and knows: collapse, correlations, waste, laws compared, tuning, fonts."""

import dataclasses
import importlib.util
import json
import re
import warnings
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from plot_data import TRUTH, best_size, isoflop_runs, record, true_loss

from scaling.analysis.data.runs import load
from scaling.analysis.fits.fitting import fit
from scaling.analysis.forecasts.comparison import compare
from scaling.analysis.frontier.isoflops import fit_isoflops
from scaling.analysis.frontier.normalised import collapse
from scaling.cli import main
from scaling.present import fonts, plot, style
from scaling.present.figures import CAPTIONS, NEEDS, draw_figures, save_figures
from scaling.study.errors import FitError

ROOT = Path(__file__).parent.parent
BUDGETS = (3e10, 1e11, 3e11, 1e12)
SHAPE = np.geomspace(0.05, 1, 14)  # shares of a run at which its curve has a point


@pytest.fixture(scope="module")
def runs():
    return isoflop_runs(BUDGETS, verify=(4e12,), noise=0.003)


@pytest.fixture(scope="module")
def law(runs):
    return fit(runs, objective="mse_log", intervals="delta")


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


def shown(ax):
    return style._TABLES[ax]


def curved(root, *, seeds=1, bent=0.0, noise=0.0):
    """Runs on the efficient path whose reducible loss falls as a power of compute, the largest bent."""
    rng, rows = np.random.default_rng(0), []
    for number, C in enumerate(BUDGETS):
        for seed in range(seeds):
            N = best_size(C)
            row = record(N, C / (6 * N), run_id=f"n{N:.0f}-s{seed}")
            excess = (row["val_loss"] - TRUTH["E"]) * (1 + noise * rng.normal())
            power = 0.3 + bent * (number == len(BUDGETS) - 1)
            points = TRUTH["E"] + excess * SHAPE**-power
            row["val_loss"] = points[-1]
            folder = root / row["run_id"]
            folder.mkdir(parents=True)
            (folder / "metrics.jsonl").write_text("".join(
                json.dumps({"step": i, "tokens": row["tokens"] * x, "val_loss": v}) + "\n"
                for i, (x, v) in enumerate(zip(SHAPE, points, strict=True))
            ))  # fmt: skip
            rows.append(row | {"folder": str(folder)})
    return load(pd.DataFrame(rows))


def held_fit(runs):
    """The true law, held, so that a curve is judged and not a fit."""
    return fit(runs, fixed={k: v for k, v in TRUTH.items() if k != "B"}, intervals="none")


def test_collapse_of_curves_with_one_shape_is_exact(tmp_path):
    found = collapse(held_fit(curved(tmp_path)), floor=TRUTH["E"])
    # A power law is a straight line in the logarithms that curves are interpolated in.
    assert found.between < 1e-9 and found.left_out == 0
    assert found.curves.groupby("run_id")["value"].last().tolist() == pytest.approx([1.0] * 4)
    x = found.curves["x"].to_numpy()
    assert np.allclose(found.curves["value"], x**-0.3)


def test_collapse_shows_the_size_that_trains_otherwise(tmp_path):
    found = collapse(held_fit(curved(tmp_path, bent=0.1)), floor=TRUTH["E"])
    # One of four curves is higher by x^-0.1: at the middle of the run, x = 0.33, by 12 %, which is
    # an SD of 5.6 % over four.
    assert found.between == pytest.approx(0.056, rel=0.15)
    ax = plot.collapse(found)
    assert shown(ax)["spread"] is found.spread and "over" in ax.get_xlabel()


def test_collapse_measures_what_seeds_differ_by(tmp_path):
    found = collapse(held_fit(curved(tmp_path, seeds=4, noise=0.02)), floor=TRUTH["E"])
    # 2 % between seeds from 4 x 3 degrees of freedom: known to a fifth; 0.5 to 1.6 is three times that.
    assert 0.01 < found.seeds < 0.032
    assert found.between < 0.01 < found.seeds  # divided by their own ends the seeds agree


def test_collapse_tells_runs_off_the_path_from_curves_that_cannot_be_divided(tmp_path):
    runs = curved(tmp_path / "one")
    (tmp_path / "one" / runs.table["run_id"].iloc[0] / "metrics.jsonl").write_text(
        json.dumps({"step": 1, "tokens": 10.0, "val_loss": 3.0}) + "\n"
    )
    found = collapse(held_fit(runs), floor=TRUTH["E"], within=None)
    assert (found.left_out, found.unread) == (0, 1)
    assert "1 runs left out: a curve of one point" in found.summary().note
    high = float(runs.L.min()) + 1e-6  # above the end of the best run
    assert collapse(held_fit(curved(tmp_path / "two")), floor=high).unread == 1


def test_collapse_says_what_it_lacks(tmp_path, law):
    with pytest.raises(FitError, match="no training curves"):
        plot.collapse(law)
    runs = curved(tmp_path)
    with pytest.raises(FitError, match="within"):
        collapse(held_fit(runs), within=1.0000001)
    with pytest.raises(FitError, match="no floor E"):
        collapse(fit(runs, law="power_C", intervals="none"))


def test_correlations_are_those_of_the_draws(law):
    ax = plot.correlations(law)
    table = shown(ax)["correlations"].set_index(["row", "column"])["r"]
    known = np.corrcoef(np.log(law.draws["A"]), law.draws["alpha"])[0, 1]
    assert table["A", "alpha"] == pytest.approx(known)
    written = [t.get_text() for t in ax.texts]
    assert f"{known:+.2f}" in written and "ln A" in written and "a" in written


def test_correlations_need_draws_and_parameters_that_move(runs):
    with pytest.raises(FitError, match="no draws"):
        plot.correlations(fit(runs, intervals="none"))
    held = fit(runs, fixed={k: TRUTH[k] for k in ("E", "alpha", "beta")}, intervals="delta", objective="mse_log")  # fmt: skip
    assert set(shown(plot.correlations(held))["correlations"]["row"]) == {"A", "B"}
    with pytest.raises(FitError, match="'aplha'"):
        plot.correlations(held, ["A", "aplha"])


def test_waste_is_nothing_at_the_best_size_and_known_beside_it(law):
    data = shown(plot.waste(law, C=[1e12, 1e14]))
    lines = data["lines"]
    assert lines.groupby("C")["percent"].min().to_numpy() == pytest.approx([0, 0], abs=0.01)
    for row in data["valley"].itertuples():  # the sizes named cost what is said of them
        best = law.optimal(row.C)
        for factor in (row.smaller, row.larger):
            N = factor * float(best["N"].iloc[0])
            loss = float(law.predict(N=N, C=row.C).loss)
            enough = float(law.optimal(row.C / 1.2)["loss"].iloc[0])
            # The valley is read between 33 sizes, a parabola by chords: 2 % of the excess loss.
            assert loss - law.get("E") == pytest.approx(enough - law.get("E"), rel=2e-3)


def test_surface_marks_where_compute_is_wasted(law):
    grid = shown(plot.surface(law))["grid"]
    best = grid.loc[grid["waste"].idxmin()]
    ratio = float(law.optimal(law.cost.flops(best["N"], best["D"]))["N"].iloc[0]) / best["N"]
    assert 0.8 < ratio < 1.25 and grid["waste"].min() >= 0  # as near as a grid of 90 by 90 comes


def test_comparison_draws_the_errors_that_rank_the_laws(runs):
    found = compare(runs, ["chinchilla", "power_C"], holdout_above=5e11)
    data = shown(plot.comparison(found, runs))
    held = data["points"][data["points"]["held_out"]]
    for row in found.rows.itertuples():
        error = held.loc[held["law"] == row.law, "percent"].abs().mean()
        assert error == pytest.approx(100 * row.holdout)
    legend = [t.get_text() for t in plot.comparison(found, runs).get_legend().get_texts()]
    assert legend[0].startswith(found.best) and "held out, above 5e11 FLOPs" in legend


def swept(center=3e-3):
    rows = [
        record(1e5, 2e6, lr=lr, batch_tokens=batch, run_id=f"{lr}-{batch}",
               noise=0.02 * np.log(lr / center) ** 2 + 0.01 * np.log(batch / 4096) ** 2)
        for lr in (7.5e-4, 1.5e-3, 3e-3, 6e-3) for batch in (2048, 4096, 8192)
    ]  # fmt: skip
    rows.append(record(1e5, 2e6, lr=0.1, batch_tokens=2048, run_id="lost") | {"status": "diverged", "val_loss": None})  # fmt: skip
    return load(pd.DataFrame(rows))


def test_tuning_marks_the_best_run_and_the_diverged():
    ax = plot.tuning(swept())
    star = next(line for line in ax.lines if line.get_marker() == "*")
    assert (star.get_xdata()[0], star.get_ydata()[0]) == (3e-3, 4096)
    assert len(shown(ax)["runs"]) == 12 and len(shown(ax)["diverged"]) == 1
    assert shown(ax)["runs"]["excess"].min() == 0


def test_tuning_needs_both_hyperparameters(runs):
    with pytest.raises(FitError, match="batch_tokens"):
        plot.tuning(runs)
    with pytest.raises(FitError, match="Did you mean 'lr'"):
        plot.tuning(swept(), x="lrr")


def test_residual_panels_share_their_runs_and_name_their_axis(law):
    axes = plot.residual_panels(law)
    assert ["FLOPs" in axes[0].get_xlabel(), "parameters" in axes[1].get_xlabel()] == [True, True]
    assert "tokens" in axes[2].get_xlabel()
    trends = [shown(ax)["trend"] for ax in axes]
    # Each is the mean of all runs in groups, so that groups together give the mean of all again.
    means = [np.average(t["percent"], weights=t["runs"]) for t in trends]
    assert means == pytest.approx([shown(axes[0])["runs"]["percent"].mean()] * 3)


def test_every_figure_says_what_it_needs():
    assert set(CAPTIONS) - set(NEEDS) == {"curves", "residuals"}  # these two every study has


def test_figures_are_chosen_by_name_and_refused_in_a_sentence(tmp_path, runs, law):
    paths = save_figures(tmp_path, runs=runs, fit=law, only=("curves",), formats=("svg",))
    assert [p.name for p in paths] == ["curves.svg"] and (tmp_path / "curves.csv").is_file()
    with pytest.raises(FitError, match="isoflop needs budgets"):
        save_figures(tmp_path, runs=runs, fit=law, only=("isoflop",))
    with pytest.raises(FitError, match="Did you mean 'surface'"):
        save_figures(tmp_path, runs=runs, fit=law, only=("surfaces",))


def test_command_draws_the_figures_named_in_the_formats_named(tmp_path, monkeypatch, runs, capsys):
    monkeypatch.chdir(tmp_path)
    runs.table.drop(columns="software").to_csv("runs.csv", index=False)
    quick = ["runs.csv", "intervals=none", "objective=mse_log", "starts=1"]
    assert main(["plot", *quick, "figures=curves,residuals", "formats=svg,pdf", "out=mine"]) == 0
    names = [f"mine/figures/{n}.{e}" for n in ("curves", "residuals") for e in ("svg", "pdf")]
    assert capsys.readouterr().out.split() == names
    for mistake, answer in {
        "figures=wast": "Did you mean 'waste'",
        "formats=bmp": "'bmp' is none of png, svg, pdf",
        "figures=tuning": "tuning needs six runs",
    }.items():
        assert main(["plot", *quick, mistake]) == 1
        assert answer in capsys.readouterr().err


def test_command_draws_the_curves_of_runs_too_few_for_a_law(tmp_path, monkeypatch, runs, capsys):
    monkeypatch.chdir(tmp_path)
    runs.table.drop(columns="software").head(3).to_csv("few.csv", index=False)
    assert main(["plot", "few.csv"]) == 0
    said = capsys.readouterr()
    assert said.out.split() == ["figures/curves.png"] and "Train at least 6 runs" in said.err
    assert main(["plot", "few.csv", "figures=surface"]) == 1
    assert "Train at least 6 runs" in capsys.readouterr().err


@pytest.mark.slow  # fits nine laws
def test_command_fits_further_laws_for_the_figures_that_need_them(tmp_path, monkeypatch, runs, capsys):  # fmt: skip
    monkeypatch.chdir(tmp_path)
    runs.table.drop(columns="software").to_csv("runs.csv", index=False)
    names = ("approaches", "comparison", "backtest", "drift")
    assert main(["plot", "runs.csv", "intervals=none", f"figures={','.join(names)}"]) == 0
    assert capsys.readouterr().out.split() == [f"figures/{n}.png" for n in names]


def test_figures_of_further_laws_are_left_to_those_who_name_them(runs, law):
    assert not {"approaches", "backtest", "comparison", "multiverse"} & set(draw_figures(runs, law))


@pytest.mark.skipif(len(fonts.families()) == 1, reason="no font with Chinese signs is installed")
def test_chinese_text_has_glyphs_in_every_format(tmp_path):
    with style.drawing(None) as ax:
        ax.plot([1, 2], label="验证集损失")
        ax.legend()
    ax.set_title("模型规模")  # set afterwards, outside of the style
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a missing glyph is a warning of matplotlib
        files = style.save(ax, tmp_path / "图" / "损失.png", formats=("svg", "pdf"))
    assert all(f.is_file() for f in files)
    # Type 42 would hold the outlines of an OpenType font under a wrong name, blank in some viewers.
    pdf = (tmp_path / "图" / "损失.pdf").read_bytes()
    assert b"/Subtype /Type3" in pdf and b"/FontFile2" not in pdf


def test_latin_text_keeps_its_font_in_a_pdf():
    with style.drawing(None) as ax:
        ax.set_title("loss")
    assert fonts.embedding(ax.figure)["pdf.fonttype"] == 42
    assert fonts.is_east_asian("损") and not fonts.is_east_asian("C ∝ N·10¹²")


def test_truth_of_these_tests_is_on_the_path():
    N = best_size(1e12)
    losses = [true_loss(N * f, 1e12 / (6 * N * f)) for f in (0.9, 1.0, 1.1)]
    assert min(losses) == losses[1]


def page_maker():
    spec = importlib.util.spec_from_file_location("make_figures", ROOT / "docs" / "make_figures.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_page_of_figures_has_every_figure_and_its_picture():
    words = (ROOT / "docs" / "figures.md").read_text(encoding="utf-8")
    panels = {"save", "table_of", "frontiers", "residual_panels"}  # how several are drawn, or kept
    missing = [n for n in plot.__all__ if n not in panels and not re.search(rf"\b{n}\b", words)]
    assert missing == []
    pictures = [ROOT / "docs" / name for _, name in page_maker().blocks() if name]
    assert len(pictures) >= 17 and all(p.is_file() for p in pictures)
    assert sum(p.stat().st_size for p in pictures) < 1.5e6  # bytes: a page, not a download


@pytest.mark.slow  # draws all of them: 40 s
def test_page_of_figures_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    made = list(page_maker().draw([], tmp_path))
    assert len(made) >= 17 and all(p.stat().st_size > 5000 for p in made)


def test_learning_rate_takes_the_best_batch_of_each_rate():
    data = shown(plot.learning_rate(swept()))
    # At each rate the batch of 4096 is best by construction, so the lines are its losses alone.
    runs = data["runs"].dropna(subset="loss")
    assert data["lines"]["loss"].tolist() == runs.groupby("lr")["loss"].min().tolist()
    assert len(data["minima"]) == 1 and data["minima"]["inside"].all()


def test_interval_that_is_open_or_reaches_zero_is_drawn(runs):
    iso = fit_isoflops(runs)
    open_ended = iso.budgets.assign(N_lo=[0.0, *iso.budgets["N_lo"][1:]], N_hi=np.inf)
    iso = dataclasses.replace(iso, budgets=open_ended)
    for ax in (plot.isoflop(iso), plot.frontier(iso)):
        ax.figure.canvas.draw()
        assert np.isfinite([*ax.get_xlim(), *ax.get_ylim()]).all()

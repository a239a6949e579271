"""Sealed forecasts: refused after the fact, settled once, tampering named; through the real command line."""

import json
import shlex
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from scaling.analysis.data.simulation import isoflop_grid, simulate
from scaling.analysis.forecasts.forecasting import forecast
from scaling.analysis.forecasts.seals import check_seals, read_seal, read_seals, seal
from scaling.analysis.forecasts.settling import scoreboard, settle, settle_all
from scaling.cli import main
from scaling.study.errors import FitError, RecordError

SAMPLE = Path(__file__).parent.parent / "results" / "sample"
PARAMS = {"E": 0.9, "A": 60.0, "B": 300.0, "alpha": 0.35, "beta": 0.35}
N, D = isoflop_grid(np.geomspace(1e12, 1e14, 3), points=4)
ONE = ["chinchilla_tied"]  # one law: what is tested here is the seal


@pytest.fixture(scope="module")
def runs():
    return simulate("chinchilla", PARAMS, N, D, noise=0.003)


@pytest.fixture(scope="module")
def sealed(tmp_path_factory, runs):
    """Three seals, the first settled before the last was made; copy them."""
    path = tmp_path_factory.mktemp("sealed")
    for i, n in enumerate((1e6, 2e6, 4e6)):
        one = seal(runs, N=n, D=1e8, path=path, candidates=ONE, decision="train on")
        if i == 0:
            settle(one, loss=one.values["predicted"] * 1.0005)  # inside: the noise is .3 %
    return path


@pytest.fixture
def folder(tmp_path, sealed):
    return shutil.copytree(sealed, tmp_path, dirs_exist_ok=True)


def truth(n, d):
    return float(simulate("chinchilla", PARAMS, n, d).L[0])


def change(path, **values):
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_seal_holds_what_it_rests_on(runs, folder):
    first, second, _ = read_seals(folder)
    v = first.values
    f = forecast(runs, N=1e6, D=1e8, candidates=ONE)
    assert v["predicted"] == pytest.approx(float(f.loss))
    assert v["intervals"]["next_run"] == pytest.approx([float(f.next_lo), float(f.next_hi)])
    assert set(v["intervals"]) == {"parameter", "mean", "next_run", "law_set"}
    assert v["decision"] == "train on" and v["laws"][0]["law"] == "chinchilla_tied"
    assert v["conventions"]["loss"] == "val_loss" and v["data"]["runs"] == 12
    assert second.values["previous"] == first.hash


def test_seal_of_a_forecast_is_that_forecast(runs, tmp_path):
    f = forecast(runs, N=1e6, D=1e8, candidates=ONE, level=0.8)
    one = seal(f, path=tmp_path)
    assert one.values["predicted"] == pytest.approx(float(f.loss))
    assert one.values["level"] == 0.8


def test_run_that_exists_is_refused_or_marked(runs, tmp_path):
    with pytest.raises(FitError, match="this is no forecast"):
        seal(runs, N=runs.N[0] * 1.02, D=runs.D[0], path=tmp_path, candidates=ONE)
    one = seal(runs, N=runs.N[0], D=runs.D[0], path=tmp_path, candidates=ONE, known=True)
    settle(one, runs=runs)
    board = scoreboard(tmp_path)
    assert list(board.rows["state"]) == ["hindsight"] and board.settled.empty


def test_same_seal_twice_is_refused(runs, folder):
    with pytest.raises(RecordError, match="sealed already"):
        seal(runs, N=1e6, D=1e8, path=folder, candidates=ONE)


def test_score_is_relative_error_and_never_alters_the_seal(folder):
    path = read_seals(folder)[1].path
    before = path.read_bytes()
    predicted = read_seal(path).values["predicted"]
    score = settle(path, loss=predicted / 1.02).values
    assert path.read_bytes() == before
    assert score["error"] == pytest.approx(0.02)
    assert score["sds"] == pytest.approx(-np.log(1.02) / read_seal(path).values["sd"])
    with pytest.raises(RecordError, match="settled already"):
        settle(path, loss=2.0)


def test_records_settle_the_run_of_that_size_along_the_slopes(folder):
    # The run is 3 % larger than asked for; moved along the slopes it is predicted as if sealed there.
    finished = simulate("chinchilla", PARAMS, [2.06e6, 9e6], [1e8, 1e8])
    (score,) = settle_all(folder, finished)
    assert score.values["N"] == 2.06e6
    sealed = read_seals(folder)[1].values
    exact = np.log(truth(2.06e6, 1e8) / truth(2e6, 1e8))
    # 4 % of the shift itself: the fitted slope is that of noisy runs, 0.3 % each
    assert np.log(score.values["predicted"] / sealed["predicted"]) == pytest.approx(exact, rel=0.3)
    assert settle_all(folder, finished) == []


def test_run_started_before_the_seal_is_hindsight(runs, tmp_path):
    one = seal(runs, N=1e6, D=1e8, path=tmp_path, candidates=ONE)
    late = simulate("chinchilla", PARAMS, [1e6], [1e8])
    table = late.table.assign(started_at="2020-01-01T00:00:00Z", finished_at="2020-01-02T00:00:00Z")
    assert settle(one, runs=type(late)(table)).values["hindsight"] is True


def test_settling_refuses_what_is_not_there(folder, runs):
    second = read_seals(folder)[1]
    with pytest.raises(FitError, match="no finished run of N=2M"):
        settle(second, runs=runs)
    with pytest.raises(FitError, match="above 0"):
        settle(second, loss=float("nan"))
    with pytest.raises(RecordError, match="there is no such seal"):
        settle(folder / "none.json", loss=2.0)


def test_untouched_folder_has_no_problems(folder):
    assert check_seals(folder) == []
    assert "chain is whole" in scoreboard(folder).summary().text()


@pytest.mark.parametrize(
    "fault", ["number", "rehashed", "removed", "score", "score removed", "orphan"]
)
def test_tampering_is_found_and_named(folder, fault):
    first, second, third = (s.path for s in read_seals(folder))
    score = first.with_name(first.stem + ".score.json")
    if fault == "number":
        change(second, predicted=1.0)
        named = second
    elif fault == "rehashed":  # a clever hand: the content has its hash again, the chain has not
        from scaling.analysis.forecasts.seals import content_hash

        change(second, predicted=1.0)
        change(second, hash=content_hash(json.loads(second.read_text())))
        named = third
    elif fault == "removed":
        second.unlink()
        named = third
    elif fault == "score":
        change(score, error=0.0)
        named = score
    elif fault == "score removed":
        score.unlink()
        named = score
    else:
        first.unlink()
        named = score
    problems = check_seals(folder)
    assert any(p.startswith(str(named)) for p in problems), problems
    assert "Tampered with" in scoreboard(folder).summary().text()


def test_board_counts_and_compares_with_nominal(folder):
    seals = read_seals(folder)
    settle(seals[1], loss=seals[1].values["predicted"] * 1.5)
    board = scoreboard(folder)
    assert list(board.rows["state"]) == ["settled", "settled", "open"]
    runs = board.coverage().set_index("interval").loc["next_run"]
    assert (runs["inside"], runs["of"], runs["nominal"]) == (1, 2, 0.9)
    assert runs["chance"] == pytest.approx(0.19)  # 1 - .9^2
    with pytest.raises(RecordError, match="no sealed forecasts"):
        scoreboard(folder / "empty")


def test_command_line_seals_scores_and_keeps_count(tmp_path, monkeypatch, capsys):
    shutil.copytree(SAMPLE, tmp_path / "results" / "sample")
    monkeypatch.chdir(tmp_path)
    target = ["target.params=400k", "target.tokens=3M"]
    assert main(["forecast", "seal", "sample", *target, "decision=go on, if below 1.7"]) == 0
    assert main(["forecast", "seal", "sample", *target]) == 1
    assert main(["forecast", "score", "sample"]) == 1  # its run is not there
    (path,) = Path("forecasts").glob("*.json")
    assert read_seal(path).values["decision"] == "go on, if below 1.7"
    assert main(["forecast", "score", str(path), "loss=abc"]) == 1
    assert main(["forecast", "score", str(path), "loss=1.62"]) == 0
    assert main(["forecast", "board"]) == 0
    out, err = capsys.readouterr()
    assert "sealed already" in err and "loss: must be a number above 0; got 'abc'" in err
    assert "1 sealed: 1 settled, 0 open" in out and "nominal 90 %" in out
    change(path, predicted=1.0)
    assert main(["forecast", "board"]) == 1
    assert main(["forecast", "bord"]) == 1
    assert "Did you mean 'board'?" in capsys.readouterr().err


def test_command_line_seals_from_a_table_with_names_of_its_own(runs, tmp_path, monkeypatch, capsys):
    """What was said of the table's columns is said again in the command that settles the seal."""
    monkeypatch.chdir(tmp_path)
    theirs = pd.DataFrame({"size (M)": runs.N / 1e6, "tokens": runs.D, "final": runs.L})
    theirs.to_csv("runs.csv", index=False)
    columns = ["columns.size (M)=params", "columns.final=val_loss", "units.params=M"]
    target = ["target.params=20M", "target.tokens=400M"]
    assert main(["forecast", "seal", "runs.csv", *columns, *target]) == 0
    said = capsys.readouterr().out
    words = shlex.split(said[said.index("scaling forecast score") :])
    assert words == ["scaling", "forecast", "score", "runs.csv", *columns]
    assert main(words[1:]) == 1  # not trained yet
    (one,) = read_seals("forecasts")
    new = {"size (M)": 20.0, "tokens": 4e8, "final": one.values["predicted"]}
    pd.concat([theirs, pd.DataFrame([new])]).to_csv("runs.csv", index=False)
    assert main(words[1:]) == 0
    assert "open for less than a day" in capsys.readouterr().out

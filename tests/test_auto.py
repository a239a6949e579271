"""The closed loop on runs that take milliseconds: it finds the truth, resumes, and never overspends."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from scaling.analysis.data.simulation import zipf_memory
from scaling.cli import main
from scaling.cli.auto import split_keys
from scaling.cli.compose import compose_sweep
from scaling.cli.growing import cost_of, first_design, followers_of, most_of, plans_of
from scaling.cli.journal import Journal
from scaling.study.record import read_record, write_record
from scaling.training.claim import Claim

TARGET = 1e13
ZIPF = ["data=zipf_memory", "data.noise=0.001", f"target.flops={TARGET:g}", "intervals=delta"]  # fmt: skip


def auto(*arguments):
    return main(["auto", *ZIPF, *arguments])


def true_size():
    """The size with the lowest loss at the target, by trying many."""
    N = np.geomspace(1e3, 1e6, 400)
    return float(N[zipf_memory(N, TARGET / (6 * N)).L.argmin()])


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """A loop that ran to its end, in its folder."""
    folder, before = tmp_path_factory.mktemp("auto"), os.getcwd()
    os.chdir(folder)
    try:
        assert auto("auto.flops=2e11", "points=5", "auto.rounds=1") == 0
    finally:
        os.chdir(before)
    return folder


def test_the_loop_says_honestly_that_it_ended_early(ended):
    """One round is not enough here, and the truth is outside the law: the interval over laws is wide."""
    last = Journal.read(ended / "results/auto").entries[-1]
    assert last.action == "stop" and "auto.rounds" in last.why
    assert last.known.within is None or last.known.within > 1.3
    assert set(last.known.laws) == {"chinchilla", "chinchilla_k"}


def test_the_budget_is_never_exceeded_and_no_run_is_lost(ended, monkeypatch):
    monkeypatch.chdir(ended)
    plans = plans_of(compose_sweep(["sweeps=auto"]))
    assert cost_of(plans) <= 2e11
    assert all(read_record(p.folder).status == "done" for p in plans)
    folders = {p.parent.name for p in (ended / "results/auto").glob("*/run.json")}
    assert folders == {p.run_id for p in plans}


def test_each_decision_says_what_was_known_chosen_expected_and_what_came(ended):
    journal = Journal.read(ended / "results/auto")
    text = (ended / "results/auto/decisions.md").read_text()
    assert len(journal.rounds) >= 1
    for word in ("Asked:", "Known:", "Decided:", "Runs:", "Came:"):
        assert text.count(word) >= len(journal.rounds)
    spent = [d.known.spent for d in journal.entries]
    costs = [d.cost for d in journal.rounds]
    np.testing.assert_allclose(np.diff(spent), costs, rtol=1e-9)


def test_a_loop_that_lost_its_last_steps_takes_them_again(ended, tmp_path, monkeypatch):
    """What a kill between training and deciding leaves: the last decision and some records missing."""
    shutil.copytree(ended, tmp_path / "again")
    monkeypatch.chdir(tmp_path / "again")
    journal = Path("results/auto/decisions.jsonl")
    whole = journal.read_text().splitlines()
    journal.write_text("\n".join(whole[:-1]) + "\n")
    last = sorted(Path("results/auto").glob("*/run.json"), key=lambda p: p.stat().st_mtime)[-2:]
    for path in last:
        shutil.rmtree(path.parent)
    kept = {p: p.stat().st_mtime_ns for p in Path("results/auto").glob("*/run.json")}
    assert auto("auto.flops=2e11", "points=5", "auto.rounds=1") == 0
    assert {p: p.stat().st_mtime_ns for p in kept} == kept
    entries = [json.loads(line) for line in journal.read_text().splitlines()]
    assert [e["points"] for e in entries] == [json.loads(line)["points"] for line in whole]
    assert entries[-1]["known"] == json.loads(whole[-1])["known"]  # the same runs, the same luck


def test_running_again_trains_nothing_and_another_round_goes_on(ended, monkeypatch, capsys):
    monkeypatch.chdir(ended)
    before = {p: p.stat().st_mtime_ns for p in (ended / "results/auto").glob("*/run.json")}
    written = (ended / "results/auto/decisions.jsonl").read_bytes()
    assert auto("auto.flops=2e11", "points=5", "auto.rounds=1") == 0
    assert {p: p.stat().st_mtime_ns for p in before} == before
    assert (ended / "results/auto/decisions.jsonl").read_bytes() == written
    assert "Stopped after" in capsys.readouterr().out
    assert auto("auto.flops=2.2e11", "points=3", "auto.rounds=2") == 0  # its first design stays
    more = list((ended / "results/auto").glob("*/run.json"))
    assert len(more) > len(before)
    assert {p: p.stat().st_mtime_ns for p in before} == before
    plans = plans_of(compose_sweep(["sweeps=auto"]))
    assert cost_of(plans) <= 2.2e11 and {p.parent.name for p in more} == {p.run_id for p in plans}


@pytest.mark.slow
def test_the_loop_finds_the_truth_of_a_law_it_does_not_fit(tmp_path, monkeypatch):
    """The law with k holds the Zipf learner's optimum, which is twenty times beyond Chinchilla's."""
    monkeypatch.chdir(tmp_path)
    assert auto("auto.flops=5e11", "target.within=2", "law=chinchilla_k") == 0
    last = Journal.read(tmp_path / "results/auto").entries[-1]
    assert last.known.low < true_size() < last.known.high


@pytest.mark.slow
def test_a_killed_loop_goes_on_where_it_was(tmp_path):
    """kill -9 after the first decision, and again later; the third start ends."""
    command = [sys.executable, "-m", "scaling", "auto", *ZIPF, "auto.flops=3e11", "target.within=1.01"]  # fmt: skip
    journal = tmp_path / "results/auto/decisions.jsonl"
    for decisions in (1, 2):
        process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)  # fmt: skip
        until = time.time() + 120
        while time.time() < until and process.poll() is None:
            if journal.exists() and len(journal.read_text().splitlines()) >= decisions:
                break
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=240)
    assert ended.returncode == 0, ended.stderr
    entries = [json.loads(line) for line in journal.read_text().splitlines()]
    assert [e["action"] for e in entries].count("stop") == 1
    assert entries[-1]["known"]["spent"] <= 3e11
    records = [read_record(p.parent) for p in (tmp_path / "results/auto").glob("*/run.json")]
    assert all(r.status == "done" for r in records)
    assert len(records) == entries[-1]["known"]["runs"]


def test_runs_that_repeat_diverged_ones_count_as_spent(ended, tmp_path, monkeypatch):
    shutil.copytree(ended, tmp_path / "again")
    monkeypatch.chdir(tmp_path / "again")
    sweep = compose_sweep(["sweeps=auto", "retry.diverged=2"])
    plans = plans_of(sweep)
    write_record(plans[0].folder, read_record(plans[0].folder).replace(status="diverged"))
    (follower,) = followers_of(sweep)  # the second would follow the first if that diverged too
    assert cost_of([follower]) == pytest.approx(cost_of(plans[:1]))
    assert most_of(plans) == pytest.approx(3 * cost_of(plans))


def test_less_compute_than_was_decided_on_trains_nothing(ended, tmp_path, monkeypatch, capsys):
    shutil.copytree(ended, tmp_path / "again")
    monkeypatch.chdir(tmp_path / "again")
    last = sorted(Path("results/auto").glob("*/run.json"), key=lambda p: p.stat().st_mtime)[-1]
    shutil.rmtree(last.parent)
    assert auto("auto.flops=2e10", "points=5", "auto.rounds=1") == 1
    assert "decided before" in capsys.readouterr().err and not last.exists()


def test_a_second_loop_at_the_same_time_is_refused(ended, monkeypatch, capsys):
    """Both would spend what is left."""
    monkeypatch.chdir(ended)
    (ended / "results/auto/.auto").mkdir(exist_ok=True)
    with Claim(ended / "results/auto/.auto"):
        assert auto("auto.flops=2e11") == 1
    assert "is at it already" in capsys.readouterr().err
    assert not list((ended / "results/auto/.auto").iterdir())


def test_a_deleted_journal_frees_no_compute(ended, tmp_path, monkeypatch):
    """Runs that no decision names any more were paid for all the same."""
    shutil.copytree(ended, tmp_path / "again")
    monkeypatch.chdir(tmp_path / "again")
    spent = cost_of(plans_of(compose_sweep(["sweeps=auto"])))
    Path("results/auto/decisions.jsonl").unlink()
    assert auto("auto.flops=2e11", "auto.rounds=0") == 0
    known = Journal.read(Path("results/auto")).entries[-1].known
    assert known.spent == pytest.approx(spent, rel=1e-9)


def test_keys_go_to_the_verb_that_has_them():
    ours, theirs = split_keys(["target.flops=1e13", "law=kaplan", "model.context=64", "results=r", "hydra/launcher=local", "seed=3"])  # fmt: skip
    assert ours == ["target.flops=1e13", "law=kaplan", "results=r"]
    assert theirs == ["model.context=64", "results=r", "hydra/launcher=local", "seed=3"]


def test_first_design_costs_a_tenth():
    assert sum(C for C, _ in first_design(1e13)) == pytest.approx(1e12)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        (["target.flops=1e13"], "auto.flops"),
        (["target.flops=1e13", "auto.flops=1e12", "target.within=0.5"], "target.within"),
        (["target.flops=1e13", "auto.flops=1e12", "flops=counted"], "follow the sweep"),
        (["quickstart", "target.flops=1e13", "auto.flops=1e9"], "first design alone"),
        (["data=zipf_memory", "target.flops=1e13", "auto.flops=1e6"], "sizes that exist"),
    ],
)
def test_unusable_requests_are_refused_in_words(keys, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = [k for k in keys if "=" not in k]
    assert main(["auto", *names, *(k for k in keys if "=" in k)]) == 1
    assert said in capsys.readouterr().err


@pytest.mark.slow
def test_the_loop_on_real_training(tmp_path, monkeypatch):
    """Real models on a Markov source: a first design of its own, rounds, an answer."""
    monkeypatch.chdir(tmp_path)
    keys = ["data=markov", "data.vocab=64", "data.size=2M", "data.val_tokens=8192", f"data.cache={tmp_path / 'cache'}", "train.evals=2"]  # fmt: skip
    assert main(["auto", *keys, "target.flops=1e12", "auto.flops=6e10", "auto.rounds=2", "sweep=real", "data.max_epochs=9"]) == 0  # fmt: skip
    journal = Journal.read(tmp_path / "results/real")
    assert journal.entries[-1].action == "stop" and journal.entries[-1].known.spent <= 6e10
    assert len(journal.rounds) >= 1

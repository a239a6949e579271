"""The closed loop on runs that take milliseconds: it finds the truth, resumes, and never overspends."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from scaling.analysis.data.simulation import zipf_memory
from scaling.cli import main
from scaling.cli.auto import split_keys
from scaling.cli.compose import compose_sweep
from scaling.cli.growing import cost_of, first_design, plans_of
from scaling.cli.journal import Journal
from scaling.study.record import read_record

TARGET = 1e13
ZIPF = ["data=zipf_memory", "data.noise=0.001", f"target.flops={TARGET:g}", "law=chinchilla_k", "intervals=delta"]  # fmt: skip


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
        assert auto("auto.flops=5e11", "target.within=2") == 0
    finally:
        os.chdir(before)
    return folder


def test_the_loop_ends_with_an_interval_that_holds_the_truth(ended):
    last = Journal.read(ended / "results/auto").entries[-1]
    assert last.action == "stop"
    assert last.known.low < true_size() < last.known.high


def test_the_budget_is_never_exceeded_and_no_run_is_lost(ended, monkeypatch):
    monkeypatch.chdir(ended)
    plans = plans_of(compose_sweep(["sweeps=auto"]))
    assert cost_of(plans) <= 5e11
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


def test_running_again_trains_nothing_and_more_compute_goes_on(ended, monkeypatch, capsys):
    monkeypatch.chdir(ended)
    before = {p: p.stat().st_mtime_ns for p in (ended / "results/auto").glob("*/run.json")}
    written = (ended / "results/auto/decisions.jsonl").read_bytes()
    assert auto("auto.flops=5e11", "target.within=2") == 0
    assert {p: p.stat().st_mtime_ns for p in before} == before
    assert (ended / "results/auto/decisions.jsonl").read_bytes() == written
    assert "Stopped after" in capsys.readouterr().out
    assert auto("auto.flops=6e11", "target.within=1.01", "points=4", "auto.rounds=20") == 0
    more = list((ended / "results/auto").glob("*/run.json"))
    assert len(more) > len(before)
    assert {p: p.stat().st_mtime_ns for p in before} == before
    assert cost_of(plans_of(compose_sweep(["sweeps=auto"]))) <= 6e11


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

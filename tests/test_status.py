"""`scaling status`: what records say, of a sweep file's runs and of folders without one."""

import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from scaling.cli import main
from scaling.cli.compose import compose_sweep
from scaling.cli.lawline import Question, describe_law
from scaling.cli.planned import Planned
from scaling.cli.submissions import Queued
from scaling.cli.tally import RunLine, condensed, seconds_left, stand, state_of
from scaling.cli.watching import View, watch
from scaling.study.ledger import Ledger
from scaling.study.plan import make_plan
from scaling.study.record import RunRecord, write_record
from scaling.training.logbook import utc_now

SMALL = ["model.params=3k", "budget.tokens=8k"]


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def record(status="done", *keys, **values):
    """Write a record for the run that the command line stands for, and return its folder."""
    (point,) = compose_sweep([*SMALL, *keys]).points
    plan = make_plan(point.config)
    values = {"val_loss": 2.5, "steps": plan.steps, "updated_at": utc_now()} | values
    write_record(plan.folder, RunRecord(plan.run_id, status, **values))
    return plan.folder


def said(capsys, *arguments, code=0):
    assert main(["status", *arguments]) == code
    out, err = capsys.readouterr()
    return out if code == 0 else err


def test_status_without_a_name_counts_every_sweep(place, capsys):
    record("done", "sweep=one")
    record("failed", "sweep=one", "seed=1")
    record("done")
    lines = said(capsys).splitlines()
    assert any("one" in x and "1 done" in x and "1 failed" in x for x in lines)
    assert any("single" in x and "1 done" in x for x in lines)


def test_status_reads_a_folder_that_no_sweep_file_names(place, capsys):
    folder = record("done")
    for arguments in (["single"], [str(folder)], SMALL, ["-m", *SMALL]):
        text = said(capsys, *arguments)
        assert folder.name in text and "1 done of 1 runs" in text and "2.5000" in text


def test_status_of_nothing_says_what_there_is(place, capsys):
    assert "no records" in said(capsys, code=1)
    record("done", "sweep=my_stairs")
    assert "Did you mean 'my_stairs'" in said(capsys, "my_stair", code=1)
    assert "leave out" in said(capsys, "my_stairs", "seed=1", code=1).lower()


def state(folder):
    return state_of(Ledger(folder.parent).look().get(folder.name), folder)[0]


def test_run_that_left_after_a_notice_is_interrupted_at_once(place):
    reason = "interrupted by SIGINT at step 3; start it again to go on"
    assert state(record("running", reason=reason)) == "interrupted"
    assert state(record("running", "seed=1")) == "running"
    late = record("running", "seed=2", updated_at="2020-01-01T00:00:00+00:00")
    assert state(late) == "interrupted"


def test_silent_run_that_a_living_process_holds_still_runs(place):
    from scaling.training.claim import Claim

    late = record("running", updated_at="2020-01-01T00:00:00+00:00")
    with Claim(late):
        glance = Ledger(late.parent).look()[late.name]
        state, note = state_of(glance, late)
        assert state == "running" and f"process {os.getpid()}" in note


SWEEP = """# @package _global_
design:
  question: Does status say how it stands?
  verify: {{budget.flops: 1e13, model.params: optimal}}
  grid:
    model.params: [{sizes}]
    budget.tokens: [100k, 200k, 400k]
    seed: [{seeds}]
"""


def make_sweep(place, *, sizes="10k, 20k, 40k", seeds="0"):
    """Write sweeps/mine.yaml and return the plans of its runs."""
    (place / "sweeps").mkdir(exist_ok=True)
    (place / "sweeps" / "mine.yaml").write_text(SWEEP.format(sizes=sizes, seeds=seeds))
    return [make_plan(p.config) for p in compose_sweep(["sweeps=mine"]).points]


def write(plan, status="done", **values):
    """Write the record of a planned run; its loss is that of a known law."""
    loss = 1.5 + 20 * plan.params**-0.35 + 40 * plan.tokens**-0.35
    # a scatter of 0.1 %, fixed by the run's own hash
    loss *= 1 + 0.001 * (int(plan.hash, 16) % 1000 / 500 - 1)
    values = {
        "params_non_embedding": plan.params, "tokens": plan.tokens, "tokens_target": float(plan.tokens), "params_convention": "non_embedding",
        "steps": plan.steps, "steps_planned": plan.steps, "val_loss": loss if status == "done" else None, "updated_at": utc_now(),
    } | values  # fmt: skip
    write_record(plan.folder, RunRecord(plan.run_id, status, **values))


def test_every_state_is_in_the_table_with_its_reason(place, capsys):
    done, running, failed, diverged, damaged, *waiting = make_sweep(place)
    write(done)
    write(running, "running", steps=running.steps // 4, seconds=30.0, tokens_per_second=1234.0)
    write(failed, "failed", reason="out of memory")
    write(diverged, "diverged", reason="the loss is not finite")
    damaged.folder.mkdir()
    (damaged.folder / "run.json").write_text("{")
    text = said(capsys, "mine")
    lines = {line.split()[0]: line for line in text.splitlines() if line.startswith("llama")}
    assert "1.23k" in lines[running.run_id]
    # a quarter took 30 s, so that three quarters take 90 s; steps are whole, so within a few seconds
    left = re.search(r"1 min (\d+) s", lines[running.run_id])
    assert left and 20 < int(left[1]) < 40
    assert "out of memory" in lines[failed.run_id] and "failed" in lines[failed.run_id]
    assert "not finite" in lines[diverged.run_id]
    assert "damaged" in lines[damaged.run_id] and "Delete the folder" in lines[damaged.run_id]
    assert sum(" waiting " in line for line in lines.values()) == len(waiting) == 4
    assert "left at this rate" in text and "No law yet" in text


def test_many_runs_are_condensed_and_all_shows_them(place, capsys):
    plans = make_sweep(place, seeds="0,1,2,3,4")
    for number, plan in enumerate(plans[:-2]):
        failing = number % 9 == 4
        write(plan, "failed" if failing else "done", reason=f"out of memory at step {number}" if failing else None)  # fmt: skip
    text = said(capsys, "mine", "fit=false")
    assert "38 done, 2 waiting, 5 failed of 45 runs" in text
    assert text.count("llama-") == 2, "the five failed runs have one reason and are one row"
    assert re.search(r"failed +5 +out of memory", text)
    assert len(re.findall(r"^ *(10|20|40)k +15 ", text, re.M)) == 3, "a row for each size"
    assert said(capsys, "mine", "all=true", "fit=false").count("llama-") == 45


def test_two_hundred_budgets_are_summed_by_powers_of_ten():
    runs = [RunLine(f"r{i}", "done", group=10 ** (10 + i / 100), loss=2.0) for i in range(200)]
    (summary,) = condensed("x", runs, Path("x"), by="FLOPs")
    assert [row[:2] for row in summary.rows] == [("1e10 to 1e11", "100"), ("1e11 to 1e12", "100")]


def test_sweep_file_that_changes_is_planned_again(place, capsys):
    for plan in make_sweep(place):
        write(plan)
    assert "9 done of 9 runs" in said(capsys, "mine", "fit=false")
    assert (place / "results" / "mine" / ".status" / "plan.json").exists()
    assert "9 done of 9 runs" in said(capsys, "mine", "fit=false"), "as it was remembered"
    make_sweep(place, seeds="0,1")
    assert "9 done, 9 waiting of 18 runs" in said(capsys, "mine", "fit=false")
    assert "of 9 runs" in said(capsys, "mine", "fit=false", "seed=0"), "the command line too"
    (place / "conf" / "data").mkdir(parents=True)
    (place / "conf" / "data" / "mine.yaml").write_text("source: ngram\n")
    before = (place / "results" / "mine" / ".status" / "plan.json").read_text()
    said(capsys, "mine", "fit=false")
    assert (place / "results" / "mine" / ".status" / "plan.json").read_text() != before
    cut = place / "results" / "mine" / ".status" / "plan.json"
    cut.write_text(cut.read_text()[:100])
    assert "9 done of 9 runs" in said(capsys, "mine", "fit=false", "seed=0")


def test_remembered_plan_starts_no_hydra_and_no_analysis(place, capsys):
    for plan in make_sweep(place):
        write(plan)
    said(capsys, "mine", "fit=false")
    code = "import sys; from scaling.cli import main; main(['status', 'mine', 'fit=false']); print([m for m in ('hydra', 'torch', 'pandas', 'numpy', 'rich') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]", done.stdout


def test_law_line_answers_at_the_verify_point_and_is_made_anew_when_runs_come(place, capsys):
    *plans, last = make_sweep(place, seeds="0,1")
    for plan in plans:
        write(plan)
    line = said(capsys, "mine").splitlines()[-1]
    assert (
        line.startswith("Law so far (chinchilla, 17 runs): a = ") and "at 1e13 FLOPs N* = " in line
    )
    assert said(capsys, "mine").splitlines()[-1] == line
    write(last)
    assert "(chinchilla, 18 runs)" in said(capsys, "mine").splitlines()[-1]
    assert "at 1e15 FLOPs" in said(capsys, "mine", "target.flops=1e15").splitlines()[-1]
    wide = said(capsys, "mine", "good_enough=1.0001").splitlines()[-1]
    assert "not yet" in wide and "(good_enough=1.0001)" in wide
    assert "good_enough" in said(capsys, "mine", "good_enough=1", code=1)


class _Law:
    """A fit whose interval of N* is known."""

    class law:
        name = "mine"

    class runs:
        C = (1e12,)

        def __len__(self):
            return 7

    runs = runs()

    def __init__(self, lo, hi):
        self.row = {
            "N": 3e6,
            "N_lo": lo,
            "N_hi": hi,
            "loss": 1.54,
            "loss_lo": 1.51,
            "loss_hi": 1.57,
        }

    def optimal(self, budgets):
        assert budgets == [1e13], "ten times the largest budget, where none is asked for"
        import pandas as pd

        return pd.DataFrame([self.row])

    def get(self, name):
        return 0.5

    def interval(self, name):
        return 0.4, 0.6


def test_law_is_good_enough_when_the_interval_of_the_size_is_narrow():
    assert "not yet: the interval of N* spans a factor 4" in describe_law(
        _Law(1.5e6, 6e6), Question()
    )
    assert "; good enough: " in describe_law(_Law(2.5e6, 3.5e6), Question())
    assert "is open" in describe_law(_Law(0.0, 6e6), Question())
    assert "is open" in describe_law(_Law(1e6, float("inf")), Question())
    assert "is open" in describe_law(_Law(float("nan"), float("nan")), Question())


def test_run_in_a_queue_is_queued_and_keeps_what_its_record_says(place):
    plan = make_plan(compose_sweep(SMALL).points[0].config)
    run = Planned(plan.run_id, plan.params, plan.tokens, plan.flops_6nd, plan.steps, 0.0)
    waits = Queued("17_3", "pending", "slurm", "Resources")
    assert stand(run, None, plan.folder, waits).note == "slurm job 17_3 waits (Resources)"
    folder = record("failed", reason="out of memory")
    glance = Ledger(folder.parent).look()[folder.name]
    again = stand(run, glance, folder, waits)
    assert again.state == "queued" and "failed before: out of memory" in again.note
    unknown = Queued("17_3", "unknown", "slurm", "squeue does not answer here")
    assert stand(run, glance, folder, unknown).state == "failed"  # as on a laptop, after copying
    assert stand(run, None, folder, unknown).state == "queued"
    folder = record("done")
    assert stand(run, Ledger(folder.parent).look()[folder.name], folder, waits).state == "done"


def test_time_left_is_the_rest_at_the_rate_of_what_runs():
    # one run did half of 100 in 10 s: 5 FLOPs/s; it and a waiting one need 50 + 100 more
    runs = [
        RunLine("a", "running", flops=100.0, progress=0.5, left=10.0),
        RunLine("b", "waiting", flops=100.0),
        RunLine("c", "done", flops=100.0, progress=1.0),
    ]
    assert seconds_left(runs) == pytest.approx(30.0)
    assert seconds_left(runs[1:]) is None


COMMAND = [sys.executable, "-m", "scaling", "status", "mine", "--watch", "every=0.1", "fit=false"]


def test_watch_says_what_changes_and_ends_by_itself(place):
    first, last = make_sweep(place, sizes="10k")[:2]
    make_sweep(place, sizes="10k, 20k")
    for plan in make_sweep(place, sizes="10k"):
        write(plan)
    write(first, "running", steps=1)
    write(last, "failed", reason="out of memory")
    watching = subprocess.Popen(COMMAND, stdout=subprocess.PIPE, text=True)
    assert watching.stdout is not None
    assert "1 done, 1 running, 1 failed of 3 runs" in watching.stdout.readline()
    write(first)
    line = watching.stdout.readline()
    assert f"{first.run_id}: done, loss " in line and "2/3" in line
    assert watching.wait(timeout=60) == 0


def test_watch_of_a_folder_that_is_gone_says_so(tmp_path, capsys):
    folder = tmp_path / "mine"
    folder.mkdir()
    looks = iter([[RunLine("a", "running")], [RunLine("a", "missing")]])

    def look():
        runs = next(looks)
        if runs[0].state == "missing":
            folder.rmdir()
        return runs

    watch(View("mine", look, str, lambda: "no law", folder=folder), every=0.001)
    said = capsys.readouterr().out
    assert f"{folder} is gone" in said and "no law" not in said


def _in_terminal(command, send):
    """Run a command in a terminal; returns its exit code and what it showed once `send` was done."""
    leader, follower = pty.openpty()
    process = subprocess.Popen(command, stdin=follower, stdout=follower, stderr=follower, start_new_session=True, env={**os.environ, "TERM": "xterm"})  # fmt: skip
    os.close(follower)
    shown, sent, end = b"", False, time.monotonic() + 60
    while time.monotonic() < end:
        if not select.select([leader], [], [], 1)[0]:
            continue
        try:
            shown += os.read(leader, 4096)
        except OSError:  # the terminal's other end is closed
            break
        if not sent and b"q leaves" in shown:
            send(process, leader)
            sent = True
    os.close(leader)
    try:
        return process.wait(timeout=20), shown.decode()
    finally:
        process.kill()  # in vain, unless it was not left


@pytest.mark.parametrize("way", ["q", "ctrl-c"])
def test_watch_in_a_terminal_is_left_by_q_and_by_ctrl_c(place, way):
    plan = make_sweep(place)[0]
    write(plan, "running", steps=1)

    def leave(process, leader):
        if way == "q":
            os.write(leader, b"q")
        else:
            process.send_signal(signal.SIGINT)

    code, shown = _in_terminal(COMMAND, leave)
    assert code == 0
    assert "1 running, 8 waiting" in shown and "Traceback" not in shown


def test_repeats_of_diverged_runs_are_listed_below_what_they_repeat(place, capsys):
    make_sweep(place)
    plans = [make_plan(p.config) for p in compose_sweep(["sweeps=mine"]).points]
    write(plans[0], "diverged", val_loss=None, reason="the loss was not finite")
    for name, first in (("again", plans[0].run_id), ("once_more", "again"), ("stray", "nobody")):
        run = RunRecord(name, "done", retry_of=first, val_loss=2.0, steps=9, steps_planned=9)
        write_record(plans[0].folder.parent / name, run)
    text = said(capsys, "mine", "fit=false")
    assert "2 done" in text and "1 diverged" in text and f"of {len(plans) + 2} runs" in text
    assert f"repeats {plans[0].run_id} at a lower rate" in text and "repeats again" in text
    assert "stray" not in text


@pytest.mark.parametrize(
    ("option", "word"),
    [("good_enough=0", "ratio above 1"), ("good_enough=abc", "good_enough: expected a number"),
     ("target.flops=-1", "above 0 FLOPs"), ("fit=maybe", "true or false"), ("all=maybe", "true or false")],
)  # fmt: skip
def test_wrong_values_are_answered_before_any_table(place, capsys, option, word):
    folder = record()
    assert main(["status", folder.parent.name, option]) == 1
    out, err = capsys.readouterr()
    assert out == "" and word in err and err.count("\n") == 1


def test_time_that_cannot_be_read_is_long_ago(place):
    assert state(record("running", updated_at="yesterday")) == "interrupted"

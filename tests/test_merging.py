"""Results folders moved and merged: nothing finished is lost, nothing is overwritten, kills heal."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from small_run import small_plan
from test_leftovers import damage, everything_else, make_run, weights

from scaling.cli import main
from scaling.study.plan import make_plan
from scaling.study.record import read_record, write_atomic
from scaling.training.claim import Claim
from scaling.training.trainer import train


def names(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.glob("*/*")}


def test_merge_brings_what_is_missing_and_again_nothing(tmp_path, capsys):
    other, here = tmp_path / "其他 results", tmp_path / "results"
    run, mine = (
        make_run(other / "扫描", "1k", val_loss=2.0),
        make_run(here / "b", "2k", val_loss=2.0),
    )
    make_run(other / "b", "3k", status="failed")
    write_atomic(other / "b" / "sweep.yaml", "seed: 1\n")
    (run / "claim.json").write_text("{}")
    (run / ".run.json.half").write_text("half")
    (run / "link").symlink_to("/etc/passwd")
    before = everything_else(mine)
    assert main(["merge", str(other), f"into={here}"]) == 0
    assert "2 of 2 runs came" in capsys.readouterr().out
    copy = here / "扫描" / run.name
    assert everything_else(copy) == everything_else(run) and weights(copy)
    left = {p.name for p in run.iterdir()} - {p.name for p in copy.iterdir()}
    assert left == {"claim.json", ".run.json.half", "link"}
    assert (here / "b" / "sweep.yaml").read_text() == "seed: 1\n" and everything_else(
        mine
    ) == before
    seen = names(here)
    assert main(["merge", str(other), f"into={here}"]) == 0
    assert "0 of 2 runs came" in capsys.readouterr().out and names(here) == seen


def test_finished_beats_unfinished_and_further_beats_behind(tmp_path, capsys):
    other, here = tmp_path / "other", tmp_path / "here"
    pairs = {  # name: (other, here, who is right)
        "1k": ({"status": "done", "val_loss": 2.0}, {"status": "running", "steps": 90}, "other"),
        "2k": ({"status": "running", "steps": 9}, {"status": "done", "val_loss": 2.0}, "here"),
        "3k": ({"status": "running", "steps": 50}, {"status": "failed", "steps": 10}, "other"),
        "4k": ({"status": "failed", "steps": 10}, {"status": "running", "steps": 50}, "here"),
        "5k": (
            {"status": "done", "val_loss": 2.0},
            {"status": "done", "val_loss": 2.00001},
            "here",
        ),
        "6k": ({"status": "diverged", "reason": "x"}, {"status": "failed"}, "other"),
    }
    for name, (theirs, mine, _) in pairs.items():
        make_run(other / "a", name, **theirs), make_run(here / "a", name, **mine)
    damaged = make_run(here / "a", "7k")
    make_run(other / "a", "7k", val_loss=3.0)
    damage(damaged)
    before = {p.name: everything_else(p) for p in (here / "a").iterdir()}
    assert main(["merge", str(other / "a"), f"into={here}"]) == 0
    for name, (_, _, right) in pairs.items():
        run = next((here / "a").glob(f"llama-n{name}-*"))
        wanted = everything_else(other / "a" / run.name) if right == "other" else before[run.name]
        assert everything_else(run) == wanted, name
    assert read_record(damaged).val_loss == 3.0
    assert not [p for p in (here / "a").iterdir() if p.name[0] == "."]
    assert "4 of 7 runs came" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("theirs", "word"),
    [({"val_loss": 2.1}, "val_loss is 2 there and 2.1"), ({"val_loss": 2.0, "data_hash": "b"}, "data_hash is a there and b"), ({"status": "diverged"}, "status is done")],
)  # fmt: skip
def test_finished_runs_that_disagree_are_reported_and_stay(tmp_path, capsys, theirs, word):
    mine = make_run(tmp_path / "here" / "a", "1k", val_loss=2.0, data_hash="a")
    other = make_run(tmp_path / "other" / "a", "1k", **({"data_hash": "a"} | theirs))
    before = everything_else(mine), everything_else(other)
    assert main(["merge", str(tmp_path / "other"), f"into={tmp_path / 'here'}"]) == 1
    text = capsys.readouterr().out
    assert word in text and "as they were on both sides" in text
    assert (everything_else(mine), everything_else(other)) == before


def test_runs_in_progress_are_left_out_on_either_side(tmp_path, capsys):
    other, here = tmp_path / "other" / "a", tmp_path / "here" / "a"
    training, done = (
        make_run(other, "1k", status="running", steps=5),
        make_run(other, "2k", val_loss=1.0),
    )
    mine = make_run(here, "2k", status="running", steps=3)
    before = everything_else(mine)
    with Claim(training), Claim(mine):
        assert main(["merge", str(other.parent), f"into={here.parent}"]) == 0
    text = capsys.readouterr().out
    assert text.count("left out: being trained") >= 2 and not (here / training.name).exists()
    assert everything_else(mine) == before
    assert main(["merge", str(other.parent), f"into={here.parent}"]) == 0  # both have ended
    assert everything_else(mine) == everything_else(done) and (here / training.name).exists()


def test_merge_without_weights_and_of_a_single_run(tmp_path):
    run = make_run(tmp_path / "other" / "a", "1k", val_loss=1.0)
    open_run = make_run(tmp_path / "other" / "a", "2k", status="running", steps=5)
    assert main(["merge", str(run), f"into={tmp_path / 'one'}"]) == 0
    assert names(tmp_path / "one") == {f"a/{run.name}"} and weights(
        tmp_path / "one" / "a" / run.name
    )
    assert (
        main(["merge", str(tmp_path / "other"), f"into={tmp_path / 'all'}", "weights=false"]) == 0
    )
    # an unfinished run is nothing without its checkpoints
    assert not weights(tmp_path / "all" / "a" / run.name)
    assert weights(tmp_path / "all" / "a" / open_run.name)


def test_merge_into_itself_changes_nothing(tmp_path, capsys):
    run = make_run(tmp_path / "results" / "a", "1k", val_loss=1.0)
    before = everything_else(run)
    assert main(["merge", str(tmp_path / "results"), f"into={tmp_path / 'results'}"]) == 0
    assert everything_else(run) == before and "0 of 1" in capsys.readouterr().out


def test_killed_merges_heal_and_lose_nothing(tmp_path):
    """SIGKILL at many moments, also between the two renames of a replacement."""
    other, here = tmp_path / "other" / "a", tmp_path / "here" / "a"
    done = [make_run(other, f"{i}k", val_loss=float(i)) for i in range(1, 13)]
    for i in range(1, 13):
        make_run(here, f"{i}k", status="running", steps=i)
    command = [sys.executable, "-m", "scaling", "merge", str(other.parent), f"into={here.parent}"]
    script = (
        "import os, sys, scaling.training.merging as m\n"
        "rename, count = os.rename, int(sys.argv.pop(1))\n"
        "def slow(a, b):\n"
        "    global count\n"
        "    count -= 1\n"
        "    if count < 0: os.kill(os.getpid(), 9)\n"
        "    rename(a, b)\n"
        "m.os.rename = slow\n"
        "from scaling.cli import main\n"
        "main(['merge', *sys.argv[1:]])\n"
    )
    for count in (0, 1, 2, 5):  # odd: a copy is aside and nothing in its place
        killed = subprocess.run([sys.executable, "-c", script, str(count), *command[4:]], capture_output=True)  # fmt: skip
        assert killed.returncode == -signal.SIGKILL
        for run in done:  # each is there, or set aside where the next merge finds it
            assert (here / run.name / "run.json").exists() or (here / f".{run.name}.before-merge" / "run.json").exists()  # fmt: skip
    assert subprocess.run(command, capture_output=True).returncode == 0
    assert all(everything_else(here / run.name) == everything_else(run) for run in done)
    assert not [p for p in here.iterdir() if p.name[0] == "."]


def test_dead_claim_where_a_merge_was_killed_keeps_nothing_back(tmp_path):
    run = make_run(tmp_path / "there" / "s", "1k")
    target = tmp_path / "here" / run.parent.name / run.name
    aside = target.with_name(f".{run.name}.before-merge")
    shutil.copytree(run, aside)
    target.mkdir()
    (target / "claim.json").write_text("")
    assert main(["merge", str(run), f"into={tmp_path / 'here'}"]) == 0
    assert read_record(target).status == "done" and not aside.exists()


@pytest.mark.slow
def test_merge_killed_at_random_goes_on(tmp_path):
    other, here = tmp_path / "other" / "a", tmp_path / "here" / "a"
    done = [make_run(other, f"{i}k", val_loss=float(i)) for i in range(1, 40)]
    command = [sys.executable, "-m", "scaling", "merge", str(other.parent), f"into={here.parent}"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not here.exists() and process.poll() is None:
        time.sleep(0.005)
    process.kill()
    process.wait()
    for run in here.glob("llama-*"):  # whole, or not there
        assert everything_else(run) == everything_else(other / run.name)
    assert main(command[3:]) == 0
    assert {p.name for p in here.iterdir()} == {r.name for r in done}


def test_moved_results_are_the_same_runs(tmp_path):
    """Finished, interrupted and started-from runs, in a folder that was moved as a whole."""
    plan = small_plan(tmp_path, sweep="first", results=str(tmp_path / "old" / "results"))
    base = train(plan)
    changes = {"model.init_from": str(plan.folder), "model.layers": None, "model.width": None, "model.heads": None}  # fmt: skip
    config = plan.config.replace(**changes, sweep="second")
    tuned = train(make_plan(config))
    (tmp_path / "new home").mkdir()
    shutil.move(tmp_path / "old" / "results", tmp_path / "new home" / "results")
    moved = config.replace(results=str(tmp_path / "new home" / "results"))
    again = make_plan(moved)  # its init_from names the old place
    assert again.run_id == tuned.run_id and train(again) == tuned
    assert train(make_plan(moved.replace(**{"model.init_from": base.run_id}))) == tuned  # by name
    assert train(make_plan(plan.config.replace(results=moved.results))) == base
    assert not (tmp_path / "old" / "results").exists()


@pytest.mark.parametrize(("arguments", "word"), [([], "name what to merge"), (["nowhere"], "no such folder"), (["."], "no runs there")])  # fmt: skip
def test_merge_says_what_it_needs(tmp_path, monkeypatch, capsys, arguments, word):
    monkeypatch.chdir(tmp_path)
    assert main(["merge", *arguments]) == 1 and word in capsys.readouterr().err


def test_nothing_is_left_of_a_merge_that_a_full_disk_ended(tmp_path, monkeypatch, capsys):
    make_run(tmp_path / "other" / "a", "1k", val_loss=1.0)
    mine = make_run(tmp_path / "here" / "a", "1k", status="running")
    before = everything_else(mine)

    def full(*_):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr("scaling.training.merging._sync", full)
    assert main(["merge", str(tmp_path / "other"), f"into={tmp_path / 'here'}"]) == 1
    assert "No space left" in capsys.readouterr().err and everything_else(mine) == before
    monkeypatch.undo()
    assert main(["merge", str(tmp_path / "other"), f"into={tmp_path / 'here'}"]) == 0
    assert read_record(mine).val_loss == 1.0
    assert [p.name for p in (tmp_path / "here" / "a").iterdir()] == [mine.name]

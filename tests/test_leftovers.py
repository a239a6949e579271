"""What `scaling clean` removes, and above all what it never does."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from small_run import small_plan

from scaling.cli import main
from scaling.study.disk import disk_usage
from scaling.study.record import RunRecord, read_record, write_atomic, write_record
from scaling.training.claim import Claim
from scaling.training.leftovers import find_needed, survey_sweep
from scaling.training.trainer import train


def make_run(sweep: Path, name: str, *, status: str = "done", **fields) -> Path:
    """A run's folder as training leaves it, with 1000 bytes of weights."""
    folder = sweep / f"llama-n{name}-d1k-s0-0123abcd"
    for file, text in (
        ("config.yaml", "seed: 0\n"),
        ("metrics.jsonl", '{"step": 1}\n'),
        ("notes.log", "a note\n"),
        ("checkpoint/model.safetensors", "w" * 1000),
    ):
        write_atomic(folder / file, text)
    write_record(folder, RunRecord(run_id=folder.name, status=status, **fields))
    return folder


def damage(folder: Path) -> None:
    """Leave a run without a readable record, its copy included."""
    (folder / "run.copy.json").unlink(missing_ok=True)
    (folder / "run.json").write_text("{")


def weights(folder: Path) -> bool:
    return (folder / "checkpoint" / "model.safetensors").exists()


def everything_else(folder: Path) -> dict[str, bytes]:
    files = ("run.json", "config.yaml", "metrics.jsonl", "notes.log")
    return {name: (folder / name).read_bytes() for name in files}


def test_clean_frees_finished_runs_and_touches_no_record(tmp_path, capsys):
    sweep = tmp_path / "结果 of runs" / "扫描"
    done, diverged = make_run(sweep, "1k"), make_run(sweep, "2k", status="diverged")
    held = [make_run(sweep, n, status=s) for n, s in (("3k", "running"), ("4k", "failed"))]
    damaged = make_run(sweep, "5k")
    damage(damaged)
    before = {f: everything_else(f) for f in (done, diverged, *held, damaged)}
    command = ["clean", "扫描", f"results={sweep.parent}"]
    assert main(command) == 0
    listed = capsys.readouterr().out
    assert "1.95 KiB can be freed" in listed and "Nothing was removed" in listed
    assert weights(done) and weights(diverged)
    assert main([*command, "yes=true"]) == 0
    assert "Freed 1.95 KiB" in capsys.readouterr().out
    assert not (done / "checkpoint").exists() and not weights(diverged)
    assert all(weights(f) for f in (*held, damaged))
    assert {f: everything_else(f) for f in before} == before
    assert not (done / "claim.json").exists()


def test_clean_keeps_what_others_start_from_until_told(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    one, two, three, trunk = (make_run(tmp_path / "results" / "a", n, trunk_hash=n) for n in ("1k", "2k", "3k", "4k"))  # fmt: skip
    make_run(tmp_path / "results" / "b", "9k", init_from=one.name)
    make_run(tmp_path / "results" / "b", "8k", status="failed", trunk_hash="4k")
    # a sweep that was never launched yet, and names a run by a path of another machine
    write_atomic(tmp_path / "sweeps" / "next.yaml", f"model: {{init_from: /gone/{two.name}}}\n")
    assert main(["clean", "a", "yes=true"]) == 0
    assert weights(one) and weights(two) and weights(trunk) and not weights(three)
    text = capsys.readouterr().out
    assert "Checkpoints of 2 runs stay (others start from it)" in text
    assert "trunk has unfinished branches" in text
    assert main(["clean", "a", "needed=true", "yes=true"]) == 0
    assert not weights(one) and not weights(two)


def test_clean_keeps_all_runs_of_a_sweep_that_another_names(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = make_run(tmp_path / "results" / "a", "1k")
    other = make_run(tmp_path / "results" / "b", "2k")
    write_atomic(tmp_path / "sweeps" / "next.yaml", "sweep: b\nmodel: {init_from: 'sweep:a@2M'}\n")
    assert main(["clean", "a", "yes=true"]) == 0 and main(["clean", "b", "yes=true"]) == 0
    assert weights(run) and not weights(other)


def test_clean_leaves_a_run_alone_that_somebody_holds(tmp_path, capsys):
    """It was finished when listed; before it went, another process took it."""
    run = make_run(tmp_path / "a", "1k")
    holder = subprocess.Popen(
        [sys.executable, "-c", f"import time; from pathlib import Path; from scaling.training.claim import Claim\nwith Claim(Path({str(run)!r})): print('held', flush=True); time.sleep(60)"],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        survey = survey_sweep(tmp_path / "a", {})
        assert survey.leftovers == [] and "being trained" in next(iter(survey.kept))
    finally:
        holder.kill()
        holder.wait()
    assert main(["clean", "a", f"results={tmp_path}", "yes=true"]) == 0  # the claim is dead now
    assert not weights(run) and not (run / "claim.json").exists()


def test_run_that_is_started_again_meanwhile_loses_nothing(tmp_path, capsys):
    from scaling.training.leftovers import remove_leftovers

    run = make_run(tmp_path / "a", "1k")
    listed = survey_sweep(tmp_path / "a", {}).leftovers
    write_record(run, read_record(run).replace(status="running"))
    assert remove_leftovers(listed) == (0, "")
    with Claim(run):
        freed, why = remove_leftovers(listed)
        assert freed == 0 and "is training this run" in why
    assert weights(run)


def test_clean_takes_half_written_files_of_nobody(tmp_path):
    run = make_run(tmp_path / "a", "1k", status="failed")
    parts = [run / ".run.json.ab12", run / "checkpoint" / ".step-000000001.safetensors.77"]
    parts += [tmp_path / "a" / ".sweep.yaml.x1", tmp_path / "a" / ".sweep.yaml.fresh"]
    for part in parts:
        part.write_text("half")
    hours_ago = time.time() - 2 * 3600
    os.utime(parts[2], (hours_ago, hours_ago))
    assert main(["clean", "a", f"results={tmp_path}", "yes=true"]) == 0
    assert [p.exists() for p in parts] == [
        False,
        False,
        False,
        True,
    ]  # the last may be being written
    assert weights(run)


def test_finished_run_needs_no_weights_to_stay_finished(tmp_path):
    plan = small_plan(tmp_path, **{"sweep": "toy"})
    record = train(plan)
    used = disk_usage(plan.folder)
    assert main(["clean", "toy", f"results={plan.config.results}", "yes=true"]) == 0
    assert disk_usage(plan.folder) < used and train(plan) == record


def test_clean_without_a_name_shows_disk_used_and_removes_nothing(tmp_path, capsys):
    run = make_run(tmp_path / "a", "1k")
    make_run(tmp_path / "b", "1k", init_from=run.name)
    assert main(["clean", f"results={tmp_path}"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"Disk used in {tmp_path}"
    (b,) = (line.split() for line in lines if line.startswith("b "))
    assert b[0] == "b" and b[-2:] == ["0", "B"]  # both runs have one name: one of them is needed
    assert main(["clean", f"results={tmp_path}", "yes=true"]) == 1 and weights(run)
    assert "name the sweep" in capsys.readouterr().err


def test_needed_runs_are_found_across_sweeps(tmp_path):
    a, b = (
        make_run(tmp_path / "x", "1k"),
        make_run(tmp_path / "y", "2k", status="running", parent="P"),
    )
    make_run(tmp_path / "y", "3k", init_from=a.name)
    assert set(find_needed(tmp_path)) == {a.name} and b.name not in find_needed(tmp_path)


@pytest.mark.parametrize("wrong", ["yess=true", "yes=maybe"])
def test_clean_refuses_options_it_does_not_know(tmp_path, capsys, wrong):
    make_run(tmp_path / "a", "1k")
    assert main(["clean", "a", f"results={tmp_path}", wrong]) == 1
    assert "yes" in capsys.readouterr().err


def test_clean_says_so_where_there_is_nothing_to_remove(tmp_path, capsys):
    make_run(tmp_path / "a", "1k", status="failed")
    assert main(["clean", "a", f"results={tmp_path}", "yes=true"]) == 0
    text = capsys.readouterr().out
    assert "0 B can be freed" in text and "Checkpoints of 1 run stay (failed" in text

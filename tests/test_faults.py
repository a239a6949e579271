"""Faults from outside: damaged files, text that does not suit, signals, disks that are full."""

from __future__ import annotations

import ast
import json
import os
import pickle
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from small_run import small_plan

from scaling.analysis.data.runs import load
from scaling.analysis.fits.fitting import fit
from scaling.cli import main, quote_text
from scaling.cli.fit import sweep_file
from scaling.study.config import DataConfig
from scaling.study.errors import BusyError, DataError, FitError, RecordError, TrainError
from scaling.study.record import read_metrics, read_record, write_atomic
from scaling.training.checkpoint import list_checkpoints
from scaling.training.claim import Claim
from scaling.training.data import prepare
from scaling.training.data.build import prepared_folder
from scaling.training.data.store import shard_paths
from scaling.training.data.texts import cut_text
from scaling.training.team import is_out_of_memory
from scaling.training.trainer import train, train_together

NUMBERS = ("step", "tokens", "train_loss", "val_loss", "val_excess", "lr", "grad_norm")
OFTEN = {"train.checkpoint_seconds": 1e-6}
CHINESE = "天地玄黄宇宙洪荒日月盈昃辰宿列张寒来暑往秋收冬藏闰余成岁律吕调阳"


def test_record_that_cannot_be_opened_is_named(tmp_path):
    (tmp_path / "run.json").mkdir()
    with pytest.raises(RecordError, match=r"run\.json: cannot be read \(Is a directory\)"):
        read_record(tmp_path)


@pytest.mark.parametrize("damage", [b"[1]", b"\xff\xfe\xb9", b"{oops", b"3"])
def test_damaged_metrics_row_is_named_unless_it_is_the_last(tmp_path, damage):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n' + damage + b'\n{"step": 2}\n')
    with pytest.raises(RecordError, match=r"metrics\.jsonl: line 2 is damaged"):
        read_metrics(tmp_path)
    path.write_bytes(b'{"step": 1}\n' + damage)
    assert read_metrics(tmp_path) == [{"step": 1}]


@pytest.mark.parametrize("damage", [b"{a: [", b"\xff\xfe\xb9", b"- a\n"])
def test_damaged_sweep_copy_is_named(tmp_path, damage):
    (tmp_path / "sweep.yaml").write_bytes(damage)
    with pytest.raises(RecordError, match=r"sweep\.yaml: damaged\. Delete it"):
        sweep_file(tmp_path)


def test_long_chinese_text_is_cut_by_bytes_so_that_pieces_can_be_held_out(tmp_path):
    order = np.random.default_rng(0).integers(len(CHINESE), size=60_000)
    text = "".join(CHINESE[i] for i in order)
    pieces = list(cut_text(text, piece=1000))
    assert "".join(pieces) == text
    assert max(len(p.encode()) for p in pieces) == 999  # 333 characters of three bytes
    path = tmp_path / "text.txt"
    path.write_text(text, encoding="utf-8")
    config = DataConfig(source="text", path=str(path), val_tokens=2048, cache=str(tmp_path / "c"))
    assert len(prepare(config, context=32).train) > 100_000


def test_documents_too_long_to_be_held_out_are_answered(tmp_path):
    path = tmp_path / "long.jsonl"
    path.write_text("".join(f'{{"text": "{c * 20_000}"}}\n' for c in "abcdef"))
    config = DataConfig(source="text", path=str(path), val_tokens=2048, cache=str(tmp_path / "c"))
    with pytest.raises(DataError, match="each of its 6 documents has more than 16 KiB"):
        prepare(config, context=32)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"# @package _global_\ndesign: {grid: [1,2}\n", "not readable as YAML"),
        (b"# @package _global_\n\xff\xfe", "not readable as YAML"),
        (b"design: {grid: {seed: [1]}}\n", "its first line must be `# @package _global_`"),
        (b"# @package _global_\ndesign: 3\n", "design: expected keys below it"),
        (b"# @package _global_\ndesign: {verify: 3}\n", "verify: 3 is not one {key: value}"),
        (b"# @package _global_\ndesign: {points: [3]}\n", "points: 3 is not {key: value}"),
    ],
)
def test_broken_sweep_file_is_answered_in_one_line(text, message, tmp_path, monkeypatch, capsys):
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "sweeps" / "mine.yaml").write_bytes(text)
    monkeypatch.chdir(tmp_path)
    assert main(["train", "mine"]) == 1
    answer = capsys.readouterr().err
    assert message in answer and len(answer.splitlines()) == 1


def test_sweep_whose_runs_all_diverged_has_nothing_to_fit(tmp_path):
    for seed in (0, 1):
        train(small_plan(tmp_path, **{"optim.lr": 1e6, "seed": seed}))
    with pytest.raises(FitError, match=r"none of 2 runs is done with role fit \(2 diverged\)"):
        fit(load(tmp_path / "results"))


def test_broken_wandb_is_noted_and_the_run_goes_on(tmp_path, monkeypatch):
    (tmp_path / "wandb.py").write_text('raise RuntimeError("half installed")')
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    plan = small_plan(tmp_path, **{"tracker.name": "wandb"})
    assert train(plan).status == "done"
    assert "wandb cannot be imported (half installed)" in (plan.folder / "notes.log").read_text()


def test_refused_run_is_answered_in_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "model.params=3k", "budget.tokens=-5"]) == 1
    assert capsys.readouterr().err == (
        "scaling train: budget.tokens: must be above 0 tokens; got -5.\n"
    )
    assert main(["train", "=3"]) == 1
    assert "no key before the =" in capsys.readouterr().err


def test_names_in_other_scripts_need_no_quotes(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SCALING_CACHE", str(tmp_path / "cache"))
    run = ["model.params=3k", "budget.tokens=4k", "data=text", "data.tokenizer=bytes"]
    assert main(["train", *run, "data.vocab=256", "data.path=没有.txt"]) == 1
    assert "data.path='没有.txt': no such file" in capsys.readouterr().err
    assert quote_text("data.path=一.txt,b.txt") == "data.path='一.txt',b.txt"
    assert quote_text("data.path='一'") == "data.path='一'"


def test_disk_that_fills_up_during_a_run_is_named_and_the_run_goes_on_later(tmp_path, monkeypatch):
    whole = train(small_plan(tmp_path / "whole"))
    plan = small_plan(tmp_path, **{"train.checkpoint_seconds": 1e-6})

    def full(*_args, **_keywords):
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    with monkeypatch.context() as patch:

        def fill_up(progress):
            if progress["step"] >= 30:
                patch.setattr("scaling.training.checkpoint.save_file", full)

        with pytest.raises(TrainError, match=r"stopped by the file system \(I/O error: No space"):
            train(plan, on_progress=fill_up)
    assert read_record(plan.folder).status == "failed"
    record = train(plan)
    assert record.resumes == 1 and record.val_loss == whole.val_loss


def test_write_that_fails_names_its_file(tmp_path):
    (tmp_path / "run.json").mkdir()
    with pytest.raises(OSError) as caught:
        write_atomic(tmp_path / "run.json", "{}")
    assert caught.value.filename == str(tmp_path / "run.json")
    assert [p.name for p in tmp_path.iterdir()] == ["run.json"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    plan = small_plan(tmp_path_factory.mktemp("undisturbed"))
    return train(plan), numbers(plan.folder)


def numbers(folder):
    """Rows without what depends on the clock."""
    return [{k: row[k] for k in NUMBERS if k in row} for row in read_metrics(folder)]


def assert_alike(plan, undisturbed):
    record = train(plan)
    assert (record.status, record.val_loss, record.train_loss) == (
        "done",
        undisturbed[0].val_loss,
        undisturbed[0].train_loss,
    )
    assert numbers(plan.folder) == undisturbed[1]


def interrupted(folder, *, step=30):
    """Train to a step with a checkpoint after every one, and stop there."""
    plan = small_plan(folder, **OFTEN)

    def stop(progress):
        if progress["step"] >= step:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(plan, on_progress=stop)
    return plan


class Bomb:
    """What a pickle from somebody else may do to whoever opens it."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_pickle_in_place_of_a_checkpoint_is_refused_and_runs_nothing(tmp_path, undisturbed):
    plan, trace = interrupted(tmp_path), tmp_path / "code_was_run"
    newest, older = list_checkpoints(plan.folder)
    newest.write_bytes(pickle.dumps(Bomb(trace)))
    torch.save(Bomb(trace), older)
    assert_alike(plan, undisturbed)
    assert not trace.exists()
    notes = (plan.folder / "notes.log").read_text()
    assert notes.count(": damaged") == 2 and "starts again from the first step" in notes


def test_pickle_in_place_of_prepared_numbers_is_refused(tmp_path):
    plan, trace = small_plan(tmp_path), tmp_path / "code_was_run"
    prepare(plan.config.data, context=32)
    path = prepared_folder(plan.config.data) / "true_logprob.npy"
    np.save(path, np.array([Bomb(trace)], object), allow_pickle=True)
    with pytest.raises(DataError, match=r"true_logprob\.npy: damaged .* Delete the folder"):
        train(plan)
    assert not trace.exists()


def test_no_module_can_load_code_from_a_file():
    loaders = {
        "load": {"torch", "pickle", "joblib", "dill"},
        "loads": {"pickle", "marshal", "dill"},
    }
    unsafe = {"eval", "exec", "read_pickle", "unsafe_load", "full_load", "import_module"}
    # processes of one run, started together, talk in pickles; verbs are modules of this package
    known = {("world.py", "loads"), ("cli/__init__.py", "import_module"), ("scaling/__init__.py", "import_module")}  # fmt: skip
    root = Path(__file__).parents[1] / "scaling"
    for path in root.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            function = node.func
            name = getattr(function, "attr", getattr(function, "id", ""))
            owner = getattr(getattr(function, "value", None), "id", "")
            if any(str(path).endswith(file) and name == call for file, call in known):
                continue
            plain = isinstance(function, ast.Name)  # model.eval() is another thing
            assert owner not in loaders.get(name, ()), f"{path}:{node.lineno}"
            assert not (name in unsafe and (plain or name not in ("eval", "exec"))), f"{path}:{node.lineno}"  # fmt: skip
            assert not (name == "load" and owner == "yaml"), f"{path}:{node.lineno}"


def test_checkpoints_after_a_damaged_later_one_are_kept(tmp_path, undisturbed):
    plan = interrupted(tmp_path)
    later = plan.folder / "checkpoint" / "step-000000055.safetensors"
    later.write_bytes(b"of another text, or cut")
    plan = interrupted(tmp_path, step=36)  # goes on from 30, saves at each step
    kept = [p.stem for p in list_checkpoints(plan.folder)]
    assert len(kept) == 2 and all(30 < int(name[-9:]) < 40 for name in kept)
    assert_alike(plan, undisturbed)


def test_shard_cut_while_it_is_read_is_named_and_the_run_goes_on_later(tmp_path, undisturbed):
    plan = small_plan(tmp_path)

    def cut(progress):
        if progress["step"] >= 30:
            os.truncate(path, 5000)

    prepare(plan.config.data, context=32)
    (path,) = shard_paths(prepared_folder(plan.config.data), "train")
    with pytest.raises(DataError, match=r"train-00000\.tokens: was changed while it was read"):
        train(plan, on_progress=cut)
    with pytest.raises(DataError, match=r"Delete the folder .* rebuilt by the next run"):
        train(plan)
    shutil.rmtree(path.parent)
    assert_alike(plan, undisturbed)
    assert "continued from step 30" in (plan.folder / "notes.log").read_text()


@pytest.mark.parametrize("name", ["train", "val"])
def test_shard_that_disappears_during_a_run_does_no_harm(name, tmp_path, undisturbed):
    plan = small_plan(tmp_path)
    prepare(plan.config.data, context=32)
    (path,) = shard_paths(prepared_folder(plan.config.data), name)
    record = train(plan, on_progress=lambda _: path.unlink(missing_ok=True))
    assert record.val_loss == undisturbed[0].val_loss
    assert not path.exists()
    assert_alike(
        small_plan(tmp_path / "again", **{"data.cache": plan.config.data.cache}), undisturbed
    )
    assert path.exists()  # built again


def test_folder_deleted_under_the_run_is_written_again(tmp_path, undisturbed):
    plan = small_plan(tmp_path, **OFTEN)

    def delete(progress):
        if progress["step"] == 30:
            shutil.rmtree(plan.folder)

    record = train(plan, on_progress=delete)
    assert record.val_loss == undisturbed[0].val_loss
    assert numbers(plan.folder) == undisturbed[1]
    assert (plan.folder / "config.yaml").exists()
    assert "deleted while it trained" in (plan.folder / "notes.log").read_text()


def test_damaged_row_does_not_cost_the_run(tmp_path, undisturbed):
    plan = interrupted(tmp_path)
    path = plan.folder / "metrics.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], "{oops", '{"step": "x"}', *lines[2:]]) + "\n")
    record = train(plan)
    assert record.val_loss == undisturbed[0].val_loss
    assert numbers(plan.folder) == [undisturbed[1][0], *undisturbed[1][2:]]
    assert "2 damaged lines are left out" in (plan.folder / "notes.log").read_text()


def test_failure_of_a_team_leaves_its_finished_runs_alone(tmp_path, monkeypatch):
    plans = [small_plan(tmp_path, **{"seed": s, "train.stack": 8}) for s in (0, 1)]

    def full(folder, _tensors):
        if folder == plans[1].folder:
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("scaling.training.member.save_weights", full)
        with pytest.raises(TrainError, match="stopped by the file system"):
            train_together(plans)
    assert [read_record(p.folder).status for p in plans] == ["done", "failed"]
    assert [r.status for r in train_together(plans)] == ["done", "done"]


@pytest.mark.parametrize("limit", [20_000, 4_000, 2_000])  # bytes: checkpoint, run.json, rows
def test_file_that_cannot_grow_stops_the_run_with_a_message(limit, tmp_path, undisturbed):
    plan = small_plan(tmp_path, **OFTEN)
    prepare(plan.config.data, context=32)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        with pytest.raises(TrainError, match=r"stopped by the file system \(.*File too large"):
            train(plan)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert_alike(plan, undisturbed)


def test_memory_that_is_used_up_is_recognised():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 50)
    assert is_out_of_memory(caught.value)
    assert is_out_of_memory(MemoryError())
    assert not is_out_of_memory(RuntimeError("shape mismatch"))


def test_limit_on_memory_is_answered_before_training(tmp_path):
    plan = small_plan(tmp_path, **{"optim.batch_tokens": 32 * 8192, "train.micro_batch_tokens": 32 * 8192, "budget.tokens": 32 * 8192})  # fmt: skip
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + (200 << 20), before[1]))
    try:
        with pytest.raises(TrainError, match=r"Set train\.micro_batch_tokens="):
            train(plan)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def test_claim_of_another_host_is_judged_by_its_heartbeat_not_by_our_clock(tmp_path, monkeypatch):
    monkeypatch.setattr("scaling.training.claim.WATCH", 1.0)
    path = tmp_path / "claim.json"
    holder = {"pid": 7, "parent": 1, "host": "elsewhere", "started": "1", "token": "t"}
    path.write_text(json.dumps(holder))
    beats = iter(range(100))

    def sleep(_seconds):  # the other host's process renews, with a clock that is a day behind
        os.utime(path, (1e9 + next(beats), 1e9 + next(beats)))

    os.utime(path, (1e9, 1e9))
    with monkeypatch.context() as patch:
        patch.setattr("scaling.training.claim.time.sleep", sleep)
        with pytest.raises(BusyError, match="process 7 on elsewhere is training this run"):
            Claim(tmp_path).__enter__()
    os.utime(path, (1e9, 1e9))
    with Claim(tmp_path) as claim:  # nobody renews it
        assert "took over from process 7 on elsewhere" in claim.taken_over


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"pid": -1, "host": "h", "token": "t"}', "\x00\xff"]
)
def test_claim_that_says_nothing_is_taken_over_whatever_its_time(text, tmp_path):
    path = tmp_path / "claim.json"
    path.write_text(text)
    os.utime(path, (4e9, 4e9))  # a clock that has jumped back since
    with Claim(tmp_path) as claim:
        assert claim.taken_over


def test_process_whose_run_was_taken_over_leaves_it(tmp_path, undisturbed):
    plan = small_plan(tmp_path)

    def take(progress):
        if progress["step"] == 30:
            path = plan.folder / "claim.json"
            path.write_text(
                json.dumps(json.loads(path.read_text()) | {"token": "x", "host": "elsewhere"})
            )
            time.sleep(0.1)

    import scaling.training.claim as claim

    before, claim.BEAT_EVERY = claim.BEAT_EVERY, 0.02
    try:
        with pytest.raises(TrainError, match="on elsewhere has taken this run over"):
            train(plan, on_progress=take)
    finally:
        claim.BEAT_EVERY = before
    assert read_record(plan.folder).status == "running"  # the other's word
    (plan.folder / "claim.json").unlink()
    assert_alike(plan, undisturbed)


def start_sweep(folder, *arguments, **more):
    command = [
        "train", "-m", "model.params=3k", "data=markov", "data.vocab=64", "data.size=1.2M", "data.val_tokens=2048",
        "sweep=two", "hydra/launcher=local", "hydra.launcher.n_jobs=2", "train.stack=1", *arguments,
    ]  # fmt: skip
    environment = os.environ | {"SCALING_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "scaling", *command],
        cwd=folder, env=environment, stderr=subprocess.PIPE, text=True, **more,
    )  # fmt: skip


@pytest.mark.slow
def test_two_launchers_share_a_sweep_and_both_end_well(tmp_path):
    arguments = ("seed=1,2,3", "budget.tokens=300k")
    both = [start_sweep(tmp_path, *arguments) for _ in range(2)]
    said = [child.communicate()[1] for child in both]
    assert [child.returncode for child in both] == [0, 0]
    assert "is training" in said[0] + said[1] and "failed" not in said[0] + said[1]
    records = [read_record(p.parent) for p in (tmp_path / "results" / "two").glob("*/run.json")]
    assert [(r.status, r.resumes) for r in records] == [("done", 0)] * 3


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [2, 5, 9])
def test_ctrl_c_in_the_first_seconds_prints_no_traceback(seconds, tmp_path):
    child = start_sweep(tmp_path, "seed=1,2", "budget.tokens=10M", start_new_session=True)
    time.sleep(seconds)
    os.killpg(child.pid, signal.SIGINT)
    said = child.communicate(timeout=90)[1]
    assert child.returncode == 130
    assert "Traceback" not in said and "the same command continues" in said


@pytest.mark.slow
@pytest.mark.parametrize("notice", [signal.SIGTERM, signal.SIGKILL])
def test_stopped_launcher_leaves_saved_runs_and_no_worker(notice, tmp_path):
    arguments = [
        "train", "-m", "model.params=3k", "seed=1,2", "budget.tokens=1M", "data=markov", "data.vocab=64", "data.size=1.2M",
        "data.val_tokens=2048", "sweep=two", "hydra/launcher=local", "hydra.launcher.n_jobs=2",
    ]  # fmt: skip
    environment = os.environ | {"SCALING_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    launcher = subprocess.Popen(
        [sys.executable, "-m", "scaling", *arguments],
        cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL,
    )  # fmt: skip

    def wait_until(condition):
        end = time.time() + 300  # other work may keep the machine busy
        while not condition():
            assert time.time() < end
            time.sleep(0.05)

    folder = tmp_path / "results" / "two"
    wait_until(  # the first row is before any step
        lambda: sum(p.read_text().count("\n") > 1 for p in folder.glob("*/metrics.jsonl")) == 2
    )
    launcher.send_signal(notice)
    assert launcher.wait(120) == (143 if notice == signal.SIGTERM else -9)
    wait_until(lambda: not list(folder.glob("*/claim.json")))
    for path in folder.glob("*/run.json"):
        record = read_record(path.parent)
        assert record.status == "running" and "interrupted by SIGTERM" in record.reason
        assert list_checkpoints(path.parent)

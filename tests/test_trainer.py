"""The trainer: records, results, refusals."""

from __future__ import annotations

import json
import math
import os
import signal
import socket
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from small_run import STEPS, small_plan

from scaling.study.config import OptimConfig, RunConfig
from scaling.study.errors import ConfigError, DataError, RecordError, TrainError
from scaling.study.plan import make_plan
from scaling.study.record import METRIC_FIELDS, read_metrics, read_record
from scaling.training.calibrate import StepCost, measure_step_seconds
from scaling.training.checkpoint import load_weights
from scaling.training.data import prepare
from scaling.training.device import choose_engine
from scaling.training.evaluate import evaluate
from scaling.training.learner import Learner
from scaling.training.member import eval_points, log_points
from scaling.training.memory import memory_estimate
from scaling.training.model import Transformer
from scaling.training.trainer import train


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A plan, its record, and what it reported on the way."""
    plan = small_plan(tmp_path_factory.mktemp("finished"))
    reports: list[dict] = []
    return plan, train(plan, on_progress=reports.append), reports


def test_record_tells_what_was_trained(finished):
    plan, record, _ = finished
    assert record == read_record(plan.folder)
    assert (record.status, record.steps, record.tokens) == ("done", STEPS, plan.tokens)
    assert record.flops_counted == plan.flops_counted
    assert record.params_total == plan.counts.total
    assert record.epochs == pytest.approx(plan.tokens / 40_000)
    assert record.val_perplexity == pytest.approx(math.exp(record.val_loss))
    assert record.mfu is None  # no peak is known for a CPU
    assert record.tokens_per_second > 0 and record.memory_bytes > 1e7
    unknown = {k for k, v in record.to_dict().items() if v is None}
    trunk = {"parent", "parent_tokens", "parent_seconds", "stacked"}
    unasked = {
        "horizon",
        "base_width",
        "base_depth",
        "val_sets",
        "init_from",
        "init_hash",
        "finetune",
        "pretrain_tokens",
    }
    uneventful = {"reason", "lives", "retry_of"}
    # an encoder's, a task's, and what a meter or stated rates would say
    others = {"encoder_layers", "val_pseudo_perplexity", "measures"}
    costs = {"cost", "energy_joules", "energy_source", "parent_joules"}
    assert (
        unknown <= {"mfu", "family", "source_hash"} | trunk | unasked | uneventful | others | costs
    )
    assert (record.attempts, record.failures) == (1, [])


def test_loss_lies_between_the_source_and_its_unigram(finished):
    _, record, _ = finished
    # no model scores below the truth on the same tokens by more than chance
    assert record.val_excess > -3 * record.val_excess_se
    assert record.entropy_rate < record.val_loss < math.log(32)
    assert record.val_loss - record.true_loss == pytest.approx(record.val_excess, abs=1e-6)
    # the gap on the same tokens is known better than the loss itself
    assert record.val_excess_se < record.val_loss_se


def test_folder_holds_config_and_weights_that_give_the_recorded_loss(finished):
    plan, record, _ = finished
    again = RunConfig.from_dict(yaml.safe_load((plan.folder / "config.yaml").read_text()))
    assert make_plan(again).run_id == plan.run_id
    model = Transformer(plan.shape, attention=record.attention)
    load_weights(plan.folder, model)
    result = evaluate(model, prepare(plan.config.data, context=32), context=32)
    assert result.loss == record.val_loss
    assert sorted(p.name for p in (plan.folder / "checkpoint").iterdir()) == ["model.safetensors"]
    assert not (plan.folder / "claim.json").exists()


def test_metrics_rows_follow_the_schema(finished):
    plan, record, reports = finished
    rows = read_metrics(plan.folder)
    assert all(set(row) <= set(METRIC_FIELDS) for row in rows)
    assert [r["step"] for r in rows if "train_loss" in r] == sorted(log_points(STEPS, 20))
    assert [r["step"] for r in rows if "val_loss" in r] == sorted(eval_points(STEPS, 3))
    assert rows[-1]["val_loss"] == record.val_loss
    assert len(reports) == len(rows)
    assert set(reports[-1]) == {
        "step",
        "steps",
        "tokens",
        "train_loss",
        "val_loss",
        "tokens_per_second",
    }


def test_finished_run_is_not_trained_again(finished):
    plan, record, _ = finished
    before = (plan.folder / "run.json").stat().st_mtime_ns
    assert train(plan, on_progress=lambda _: pytest.fail("it trained")) == record
    assert (plan.folder / "run.json").stat().st_mtime_ns == before


def test_same_seed_gives_the_same_loss_and_another_does_not(finished, tmp_path):
    _, record, _ = finished
    same = train(small_plan(tmp_path))
    other = train(small_plan(tmp_path, seed=1))
    assert same.val_loss == record.val_loss
    assert other.val_loss != record.val_loss


@pytest.mark.parametrize("micro_tokens", [96, 64])
def test_accumulated_gradients_equal_the_whole_batch(micro_tokens):
    # 8 sequences in parts of 3, 3 and 2, and of 2: the mean is over all 8 in any case
    plan = small_plan(Path("unused"))
    x = np.random.default_rng(0).integers(32, size=(8, 33))
    results = []
    for tokens in (None, micro_tokens):
        run = plan.config.replace(**{"train.micro_batch_tokens": tokens})
        engine = choose_engine(plan.shape, batch_seqs=8, train=run.train)
        learner = Learner(
            plan.shape, engine, optim=OptimConfig(), lr=0.01, weight_decay=0.1, seed=0
        )
        losses = [
            learner.learn(x[None, :, :-1], x[None, :, 1:], lr=[0.01])[0].item() for _ in range(5)
        ]
        results.append(losses)
    assert results[0] == pytest.approx(results[1], abs=1e-5)  # float32 sums in another order


def test_diverged_run_is_a_recorded_result(tmp_path):
    plan = small_plan(tmp_path, **{"optim.lr": 1e4, "optim.clip": 0})
    record = train(plan)
    assert record.status == "diverged"
    assert "optim.lr_scale" in record.reason
    assert record == read_record(plan.folder) == train(plan)


def test_nan_loss_ends_the_run_as_diverged(tmp_path):
    plan = small_plan(tmp_path, **{"optim.lr": 1e38, "optim.clip": 0})
    record = train(plan)
    assert record.status == "diverged" and record.steps < STEPS and record.val_loss is None
    assert json.loads((plan.folder / "run.json").read_text())["status"] == "diverged"


def test_too_many_epochs_are_refused_with_the_cure(tmp_path):
    plan = small_plan(tmp_path, **{"data.unique_tokens": 4000})
    with pytest.raises(DataError, match=r"data\.max_epochs=4"):
        train(plan)
    assert read_record(plan.folder).status == "failed"
    assert (
        train(small_plan(tmp_path, **{"data.unique_tokens": 4000, "data.max_epochs": 4})).status
        == "done"
    )


def test_folder_that_cannot_be_written_is_refused_before_training(tmp_path):
    (tmp_path / "results").write_text("a file, not a folder")
    with pytest.raises(RecordError, match="cannot be written"):
        train(small_plan(tmp_path))


def test_damaged_record_is_set_aside_and_the_run_is_trained(tmp_path):
    plan = small_plan(tmp_path)
    plan.folder.mkdir(parents=True)
    (plan.folder / "run.json").write_text('{"run_id": "cut o')
    with pytest.raises(RecordError, match=r"run\.json: damaged"):
        read_record(plan.folder)
    assert train(plan).status == "done"
    assert (plan.folder / "run.json.damaged").read_text() == '{"run_id": "cut o'
    assert "run.json: damaged, set aside" in (plan.folder / "notes.log").read_text()


def test_record_of_another_version_is_left_alone(tmp_path):
    plan = small_plan(tmp_path)
    plan.folder.mkdir(parents=True)
    (plan.folder / "run.json").write_text('{"schema_version": 99}')
    with pytest.raises(RecordError, match="schema_version is 99"):
        train(plan)
    assert (plan.folder / "run.json").read_text() == '{"schema_version": 99}'


def test_model_too_large_for_memory_is_refused_with_a_size_that_fits(tmp_path):
    plan = small_plan(tmp_path, **{"model.layers": 96, "model.width": 16384, "model.heads": 128})
    with pytest.raises(TrainError, match=r"GiB are free.*model\.params="):
        train(plan)


def test_memory_estimate_bounds_what_a_step_allocates():
    shape = small_plan(Path("unused"), **{"model.width": 64}).shape
    learner_memory = 16 * sum(p.numel() for p in Transformer(shape).parameters())
    model = Transformer(shape, attention="matmul").init_weights(0)
    tokens = torch.zeros(64, 32, dtype=torch.long)
    kept = 0

    def pack(tensor):
        nonlocal kept
        kept += tensor.numel() * tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        model(tokens, tokens)
    estimate = memory_estimate(shape, 64, attention="matmul").total - learner_memory
    # saved tensors share storage and exclude temporaries: the estimate is the same size, not equal
    assert 0.4 * kept < estimate < 3 * kept


def test_second_process_is_refused_and_a_dead_one_is_replaced(tmp_path):
    plan = small_plan(tmp_path)
    plan.folder.mkdir(parents=True)
    claim = plan.folder / "claim.json"
    alive = {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "started": _ticks(os.getpid()),
        "token": "x",
    }
    claim.write_text(json.dumps(alive))
    with pytest.raises(TrainError, match=f"process {os.getpid()} on"):
        train(plan)
    claim.write_text(
        json.dumps(alive | {"started": "0"})
    )  # the number was given to another process
    assert train(plan).status == "done"
    assert "took over" in (plan.folder / "notes.log").read_text()


def test_claim_cut_off_by_a_kill_does_not_block(tmp_path):
    plan = small_plan(tmp_path)
    plan.folder.mkdir(parents=True)
    (plan.folder / "claim.json").write_text("")
    os.utime(plan.folder / "claim.json", (0, 0))
    assert train(plan).status == "done"


def _ticks(pid):
    from scaling.training.identity import _start_ticks

    return _start_ticks(pid)


@pytest.mark.parametrize(
    ("notice", "end"), [(signal.SIGTERM, SystemExit), (signal.SIGINT, KeyboardInterrupt)]
)
def test_notice_saves_and_the_run_goes_on_to_the_same_end(finished, tmp_path, notice, end):
    _, undisturbed, _ = finished
    plan = small_plan(tmp_path)

    def interrupt(progress):
        if progress["step"] == 30:
            os.kill(os.getpid(), notice)

    with pytest.raises(end):
        train(plan, on_progress=interrupt)
    halfway = read_record(plan.folder)
    assert (
        halfway.status == "running" and "start it again" in halfway.reason and halfway.steps == 30
    )
    record = train(plan)
    assert (record.val_loss, record.train_loss) == (undisturbed.val_loss, undisturbed.train_loss)
    assert (record.resumes, record.reason) == (1, None)


def test_trains_in_a_thread_where_signals_cannot_be_caught(tmp_path):
    records = []
    thread = threading.Thread(target=lambda: records.append(train(small_plan(tmp_path))))
    thread.start()
    thread.join()
    assert records[0].status == "done"


def test_unknown_device_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"train\.device: 'cuda:77'"):
        train(small_plan(tmp_path, **{"train.device": "cuda:77"}))


def test_eval_points_are_even_in_log_tokens_and_end_at_the_end():
    points = sorted(eval_points(1000, 5))
    assert points == [10, 32, 100, 316, 1000]
    assert eval_points(3, 12) == {1, 2, 3}
    assert eval_points(7, 1) == {7}


def test_calibration_predicts_a_step(finished):
    plan, record, _ = finished
    cost = measure_step_seconds(
        plan.shape, plan.batch_seqs, threads=1, seconds=0.4, train=plan.config.train
    )
    assert StepCost(**cost.to_dict()) == cost
    # same step, same machine; a factor of 3 leaves room for a shared machine
    assert 1 / 3 < cost.step / (plan.batch_tokens / record.tokens_per_second) < 3
    whole = cost.run_seconds(steps=100, evals=2, val_tokens=1000)
    assert whole > 100 * cost.step + 2000 * cost.val_token

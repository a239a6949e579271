"""Pairs in training: layout, counts and FLOPs, padding unseen, exact means over unequal targets."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from small_run import numbers, small_plan
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from scaling.study.errors import ConfigError
from scaling.study.objective import IGNORE
from scaling.study.record import read_record
from scaling.training.checkpoint import read_weights
from scaling.training.data import prepare
from scaling.training.model import build_model
from scaling.training.objectives import build_objective
from scaling.training.trainer import train

# sentences of four words, one to three of them: 12 words, and 12 with their end to be written
LONG = {"data.source": "translate", "data.rules": 4, "data.depth": 2, "model.context": 26, "data.size": 20_000}  # fmt: skip
LABELS = LONG | {"data.source": "classify", "data.classes": 8, "model.context": 10}
SETTINGS = {
    "decoder writes": LONG,
    "decoder labels": LABELS,
    "encoder labels": LABELS | {"model.kind": "encoder"},
    "both write": LONG | {"model.kind": "encoder_decoder"},
    "both label": LABELS | {"model.kind": "encoder_decoder"},
    "tied encoder": LABELS | {"model.kind": "encoder", "model.tied": True, "model.bias": True},
}
STEP = {"optim.batch_tokens": 416, "budget.tokens": 416 * 20, "data.max_epochs": 9}


def setting(tmp_path, name, **changes):
    return small_plan(tmp_path, **{**SETTINGS[name], **STEP, **changes})


def batch(plan, rows=12):
    data, objective = prepare(plan.config.data, context=plan.shape.context), build_objective(plan)
    found = data.batch(0, batch_seqs=rows, context=plan.shape.context, seed=0, objective=objective)
    return data, objective, *(torch.as_tensor(part.copy()) for part in found)


@pytest.mark.parametrize("name", SETTINGS)
def test_parameters_and_flops_are_counted_exactly(tmp_path, name):
    plan = setting(tmp_path, name)
    model = build_model(plan.shape).init_weights(0)
    assert sum(p.numel() for p in model.parameters()) == plan.counts.total
    _, _, inputs, targets = batch(plan)
    # torch's fused kernel for the CPU is not known to its counter; its plain form is products
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        model(inputs, targets).backward()
    places = len(inputs) * plan.shape.context
    assert counter.get_total_flops() == pytest.approx(plan.flops.counted * places, rel=1e-12)


@pytest.mark.parametrize("name", SETTINGS)
def test_losses_one_by_one_have_the_mean_loss(tmp_path, name):
    plan = setting(tmp_path, name)
    _, _, inputs, targets = batch(plan)
    model = build_model(plan.shape).init_weights(0).eval()
    with torch.no_grad():
        each, mean = model(inputs, targets, reduction="none"), model(inputs, targets)
    counted = targets != IGNORE
    assert each.shape == targets.shape and (each[~counted] == 0).all()
    # float32 sums of about a hundred numbers of order 3
    assert each[counted].mean().item() == pytest.approx(mean.item(), abs=1e-5)


def test_a_decoder_reads_the_text_and_is_to_write_what_follows(tmp_path):
    plan = setting(tmp_path, "decoder writes")
    data, objective, inputs, targets = batch(plan)
    sep, end, pad = (objective.special(n) for n in ("sep", "end", "pad"))
    assert pad == plan.shape.vocab - 1
    for x, y in zip(inputs.numpy(), targets.numpy(), strict=True):
        at = int(np.argmax(x == sep))
        words = y[y != IGNORE]
        assert (y[:at] == IGNORE).all() and words[-1] == end and end not in words[:-1]
        assert len(words) == at + 1  # a translation is as long as its text
        assert (x[at + 1 : at + len(words)] == words[:-1]).all()
        assert pad not in x[: at + len(words)] and (x[at + len(words) + 1 :] == pad).all()
    text, length = data.train.read(np.array([0]), part=0, most=12)
    first, _ = objective.make(data.train, np.array([0]), np.zeros(1, np.uint64))
    assert (first[0, : length[0]] == text[0, : length[0]]).all()


def test_texts_that_are_too_long_are_cut_at_their_end(tmp_path):
    plan = setting(tmp_path, "decoder writes", **{"data.target_tokens": 3})
    assert plan.shape.outputs == 3
    _, objective, _, targets = batch(plan)
    written = (targets != IGNORE).sum(1)
    assert (written == 3).all() and (targets.amax(1) == objective.special("end")).all()


@pytest.mark.parametrize("kernel", ["sdpa", "matmul"])
@pytest.mark.parametrize("name", ["encoder labels", "both write"])
def test_padding_is_not_seen(tmp_path, name, kernel):
    """A text alone gives what it gives with padding behind it."""
    plan = setting(tmp_path, name)
    shape, pad, _ = plan.shape, plan.shape.vocab - 1, torch.manual_seed(0)
    model = build_model(shape, attention=kernel).init_weights(0).eval()
    length, source = 5, shape.source or shape.context
    text = torch.randint(pad, (2, length))
    padded = torch.cat([text, torch.full((2, source - length), pad)], 1)
    written = torch.randint(pad, (2, shape.outputs if shape.source else 0))
    short = dataclasses.replace(shape, source=length if shape.source else 0)
    alone = build_model(short, attention=kernel).eval()
    alone.load_state_dict(model.state_dict(), strict=True)
    with torch.no_grad():
        one = alone(torch.cat([text, written], 1))
        other = model(torch.cat([padded, written], 1))
    # rounding of float32 sums over another number of terms; logits are of order 1
    assert (one - other).abs().max() < 1e-5
    with torch.no_grad():
        seen = model(torch.cat([text, padded[:, length:] * 0, written], 1))
    assert (seen - other).abs().max() > 1e-3, "without the mask it would differ"


@pytest.mark.parametrize("name", ["decoder writes", "both write", "encoder labels"])
def test_micro_batches_add_up_to_the_mean_over_targets(tmp_path, name):
    """Rows differ in targets; a mean of means would not be the mean."""
    one = train(setting(tmp_path / "one", name))
    many = train(setting(tmp_path / "many", name, **{"train.micro_batch_tokens": 78}))
    # rounding over 20 steps at a rate of 0.01; a mean of means differs by 0.01 after the first
    assert many.val_loss == pytest.approx(one.val_loss, abs=2e-4)
    rows = [numbers(setting(tmp_path / f, name).folder) for f in ("one", "many")]
    pairs = zip(rows[0], rows[1], strict=True)
    assert all(a.get("train_loss") == pytest.approx(b.get("train_loss"), abs=2e-4) for a, b in pairs if "train_loss" in a)  # fmt: skip


@pytest.mark.parametrize("name", ["decoder writes", "encoder labels"])
def test_an_interrupted_run_goes_on_to_the_bit(tmp_path, name):
    plan = setting(tmp_path / "whole", name)
    whole = train(plan)
    cut = setting(tmp_path / "cut", name, **{"train.checkpoint_seconds": 0.001})

    class Stop(Exception):
        pass

    def stop(progress):
        if progress["step"] >= 10:
            raise Stop

    with pytest.raises(Stop):
        train(cut, on_progress=stop)
    resumed = train(cut)
    assert resumed.resumes == 1 and resumed.val_loss == whole.val_loss
    first, second = read_weights(plan.folder), read_weights(cut.folder)
    assert all(torch.equal(first[n], second[n]) for n in first)


def test_records_say_what_was_learned(tmp_path):
    label, text = (train(setting(tmp_path, n)) for n in ("encoder labels", "both write"))
    assert (label.objective, text.objective) == ("classify", "seq2seq")
    for record in (label, text):
        assert record.val_perplexity is None and record.val_pseudo_perplexity is None
        assert record.val_loss_se > 0 and record.val_bits_per_byte is None
    assert label.val_groups == label.val_tokens  # each text is a draw of its own


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model.kind": "encoder"}, "encoder writes no text.*data.classes"),
        ({"data.classes": 4}, "data.classes: is 4 with data.source=translate. Set data.classes=null"),
        ({"data.source": "classify"}, "data.classes: is null with data.source=classify. Set data.classes=8"),
        ({"objective.name": "masked"}, "objective.name: masked is not what is learned"),
        ({"data.levels": 3}, "data.levels: 3 levels are more than.*data.depth=2"),
        ({"data.target_tokens": 26}, "Set model.context=27"),
        ({"data.source": "markov", "objective.name": "seq2seq"}, "seq2seq needs texts in pairs"),
    ],
)  # fmt: skip
def test_settings_that_do_not_go_together_are_refused(tmp_path, changes, said):
    with pytest.raises(ConfigError, match=said):
        setting(tmp_path, "decoder writes", **changes)


def test_keys_of_other_objectives_leave_a_run_as_it_is(tmp_path):
    plain = setting(tmp_path, "encoder labels")
    other = {"objective.rate": 0.3, "objective.next_sentence": True, "objective.masking": "plain"}
    assert setting(tmp_path, "encoder labels", **other).hash == plain.hash
    assert setting(tmp_path, "encoder labels", **{"data.noise": 0.1}).hash != plain.hash


CHILD = """
import sys
from pathlib import Path
from test_pairs import setting
from scaling.training.trainer import train
train(setting(Path(sys.argv[1]), "decoder writes", **{"train.parallel": sys.argv[2], "train.micro_batch_tokens": 78}))
"""


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_processes_take_the_mean_over_all_targets(tmp_path, parallel):
    one = train(setting(tmp_path / "one", "decoder writes"))
    script = tmp_path / "child.py"
    script.write_text(CHILD)
    here = Path(__file__).parent
    env = os.environ | {"PYTHONPATH": f"{here.parent}{os.pathsep}{here}"}
    words = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
    subprocess.run([*words, str(script), str(tmp_path / "two"), parallel], env=env, check=True, timeout=300)  # fmt: skip
    two = read_record(setting(tmp_path / "two", "decoder writes").folder)
    assert two.devices == 2 and two.parallel == parallel
    # as between micro-batches: rounding over 20 steps at a rate of 0.01
    assert two.val_loss == pytest.approx(one.val_loss, abs=2e-4)
    assert (two.measures is None) == (parallel == "fsdp")  # no process has the whole model there

"""Fine-tuning: which weights train, what becomes of adapters, and weights that meet other data."""

from __future__ import annotations

import signal

import numpy as np
import pytest
import torch
from small_run import CONTEXT, numbers, preset, small_plan

from scaling.study.adoption import map_rows
from scaling.study.errors import ConfigError
from scaling.study.objective import Layout
from scaling.study.record import read_record
from scaling.training.checkpoint import list_checkpoints, read_weights
from scaling.training.device import choose_engine
from scaling.training.export import export_run
from scaling.training.finetuning import Tuning, count_trained, merged_weights
from scaling.training.huggingface import load_pretrained
from scaling.training.learner import Learner
from scaling.training.opened import open_run
from scaling.training.rescore import read_config
from scaling.training.trainer import train

OPEN = {"model.layers": None, "model.width": None, "model.heads": None}  # left to the weights
STILL = {"optim.lr": 1e-12, "optim.weight_decay": 0.0}  # a step moves weights by 1e-12: not at all
SHORT = {"budget.tokens": 10 * 256, "train.evals": 1}
LABELS = {
    "data.source": "classify",
    "data.classes": 4,
    "data.rules": 4,
    "data.depth": 3,
    "data.val_tokens": 1000,
}
TRANSLATE = {"data.source": "translate", "data.rules": 4, "data.depth": 2, "data.val_tokens": 1000}
PARTS = ["all", "last", "head", "lora"]


def begin(plan, folder, **changes):
    """Plan a short run that starts from another."""
    return small_plan(folder, **(OPEN | SHORT | {"model.init_from": str(plan.folder)} | changes))


def pretrain(folder, **changes):
    plan = small_plan(folder, **(SHORT | {"optim.weight_decay": 0.1} | changes))
    train(plan)
    return plan


@pytest.fixture(scope="module")
def decoder(tmp_path_factory):
    return pretrain(tmp_path_factory.mktemp("decoder"))


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return pretrain(tmp_path_factory.mktemp("encoder"), **{"model.kind": "encoder"})


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    sizes = {"model.layers": 2, "model.width": 16, "model.heads": 2, "model.context": CONTEXT}
    changes = preset("bert") | sizes | {"objective.next_sentence": True}
    return pretrain(tmp_path_factory.mktemp("bert"), **changes)


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    sizes = {"model.layers": 2, "model.width": 16, "model.heads": 2, "model.context": CONTEXT}
    return pretrain(tmp_path_factory.mktemp("both"), **(preset("t5") | sizes))


# --- which weights train --------------------------------------------------------------------------


def moved(plan, after):
    """Return the names of weights that differ between a run and the one that started from it."""
    before, now = read_weights(plan.folder), read_weights(after.folder)
    assert set(before) == set(now)
    return {name for name in before if not torch.equal(before[name], now[name])}


@pytest.mark.parametrize("parts", PARTS)
def test_parts_that_do_not_train_stay_to_the_bit(decoder, tmp_path, parts):
    plan = begin(decoder, tmp_path, **{"finetune.parts": parts, "finetune.targets": "all"})
    record = train(plan)
    names = set(read_weights(plan.folder))
    products = {n for n in names if "attention.qkv" in n or "attention.out" in n or ".ffn." in n}
    expected = {
        "all": names,
        "last": {n for n in names if n.startswith(("blocks.1.", "norm.", "head."))},
        "head": {"head.weight"},
        "lora": products,
    }
    assert moved(decoder, plan) == expected[parts]
    assert record.status == "done" and record.finetune == parts
    assert record.params_trained == count_trained(plan)
    assert record.params_total == decoder.counts.total and record.pretrain_tokens == 2560


@pytest.mark.parametrize("parts", PARTS)
def test_optimiser_holds_what_trains_and_the_record_counts_it(decoder, tmp_path, parts):
    plan = begin(decoder, tmp_path, **{"finetune.parts": parts, "finetune.rank": 3})
    engine = choose_engine(plan.shape, batch_seqs=plan.batch_seqs, train=plan.config.train)
    learner = Learner.from_plan(plan, engine)
    held = sum(p.numel() for group in learner.optimizer.param_groups for p in group["params"])
    # by hand: width 16, vocabulary 32; qkv is 48 x 16, out 16 x 16; feed-forward 43 wide
    block = 4 * 16 * 16 + 3 * 16 * 43 + 2 * 16
    expected = {
        "all": plan.counts.total,
        "last": block + 16 + 32 * 16,
        "head": 32 * 16,
        "lora": 2 * 3 * ((48 + 16) + (16 + 16)),
    }
    assert plan.shape.ffn == 43
    assert held == expected[parts] == count_trained(plan)
    assert not any(n.startswith("optim") for n in learner.tensors(0))  # no step was done yet


def test_last_blocks_are_as_many_as_asked_for(decoder, tmp_path):
    plan = begin(decoder, tmp_path, **{"finetune.parts": "last", "finetune.blocks": 2})
    train(plan)
    assert moved(decoder, plan) == set(read_weights(plan.folder)) - {"embedding.weight"}
    with pytest.raises(ConfigError, match="finetune.blocks=3: the model has 2"):
        begin(decoder, tmp_path, **{"finetune.parts": "last", "finetune.blocks": 3})


def test_parts_need_weights_and_lora_the_standard_rates(decoder, tmp_path):
    with pytest.raises(ConfigError, match="finetune.parts=head: needs weights to start from"):
        small_plan(tmp_path, **{"finetune.parts": "head"})
    with pytest.raises(ConfigError, match="Set optim.parametrization=standard"):
        begin(decoder, tmp_path, **{"finetune.parts": "lora", "optim.parametrization": "mup"})
    with pytest.raises(ConfigError, match="Set finetune.rank=16 or less"):
        begin(decoder, tmp_path, **{"finetune.parts": "lora", "finetune.rank": 17})


def test_keys_that_are_not_read_leave_the_name_alone(decoder, tmp_path):
    name = begin(decoder, tmp_path).run_id
    assert begin(decoder, tmp_path, **{"finetune.rank": 2, "finetune.blocks": 2}).run_id == name
    lora = begin(decoder, tmp_path, **{"finetune.parts": "lora"}).run_id
    assert lora != name
    assert begin(decoder, tmp_path, **{"finetune.parts": "lora", "finetune.rank": 2}).run_id != lora


# --- adapters -------------------------------------------------------------------------------------


def test_adapters_change_weights_by_their_rank_and_begin_with_nothing(decoder, tmp_path):
    changes = {"finetune.parts": "lora", "finetune.rank": 2, "optim.lr": 0.02}
    plan = begin(decoder, tmp_path, **changes)
    train(plan)
    before, after = read_weights(decoder.folder), read_weights(plan.folder)
    for name in moved(decoder, plan):
        # beside singular values of order 0.1, what float32 sums leave is of order 1e-7
        change = (after[name] - before[name]).double()
        assert torch.linalg.matrix_rank(change, atol=1e-5) == 2
    still = begin(decoder, tmp_path, **{**STILL, "finetune.parts": "lora"})
    engine = choose_engine(still.shape, batch_seqs=still.batch_seqs, train=still.config.train)
    learner = Learner.from_plan(still, engine)
    learner.begin(0, {f"model.{n}": t for n, t in before.items()})
    kept = merged_weights(learner.model)
    assert all(torch.equal(kept[n], before[n]) for n in before)


@pytest.mark.parametrize("attention", ["auto", pytest.param("sdpa", marks=pytest.mark.slow)])
def test_kept_weights_have_the_recorded_loss(decoder, tmp_path, attention):
    # `auto` is the compiled kernels where they can be had; the model opened again is always plain
    changes = {"finetune.parts": "lora", "finetune.targets": "all", "train.attention": attention}
    plan = begin(decoder, tmp_path, **changes)
    record = train(plan)
    assert attention in ("auto", record.attention)
    opened = open_run(plan.folder)
    from scaling.training.data import prepare
    from scaling.training.evaluate import evaluate

    data = prepare(plan.config.data, context=CONTEXT)
    again = evaluate(opened.model, data, context=CONTEXT)
    # two kernels in float32: 1e-7 relative of a loss near 3, over 2,000 tokens
    assert again.loss == pytest.approx(record.val_loss, abs=2e-6)
    folder = tmp_path / "hub"
    export_run(plan.folder, folder)
    assert set(load_pretrained(folder)[1]) == set(read_weights(plan.folder))


@pytest.mark.parametrize("parts", ["last", "lora"])
def test_interrupted_run_goes_on_to_the_bit(decoder, tmp_path, parts):
    plans = [begin(decoder, tmp_path / name, **{"finetune.parts": parts}) for name in "ab"]
    whole = train(plans[0])

    def interrupt(progress):
        if progress["step"] == 5:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(plans[1], on_progress=interrupt)
    assert list_checkpoints(plans[1].folder)
    resumed = train(plans[1])
    assert resumed.resumes == 1 and resumed.val_loss == whole.val_loss
    assert numbers(plans[0].folder) == numbers(plans[1].folder)
    one, two = (read_weights(plan.folder) for plan in plans)
    assert all(torch.equal(one[n], two[n]) for n in one)


# --- weights that meet other data -----------------------------------------------------------------


def started(plan):
    """Return the weights that a run has before its first step, and those of a fresh run of its seed."""
    still = train(plan)
    engine = choose_engine(plan.shape, batch_seqs=plan.batch_seqs, train=plan.config.train)
    assert still.status == "done"
    fresh = {n[6:]: t for n, t in Learner(
        plan.shape, engine, optim=plan.config.optim, lr=1.0, weight_decay=0.0, seed=plan.config.seed
    ).weights(0).items()}  # fmt: skip
    return read_weights(plan.folder), fresh


def same(a, b):
    # steps of 1e-12 move no float32 of order 0.01; a bias or an entry near 0 by 1e-11 at most
    return a.shape == b.shape and torch.allclose(a, b, rtol=0, atol=1e-10)


def test_decoder_learns_labels_after_text(decoder, tmp_path):
    plan = begin(decoder, tmp_path, **LABELS, **STILL)
    now, fresh = started(plan)
    before = read_weights(decoder.folder)
    assert plan.layout.specials == ("sep", "class_0", "class_1", "class_2", "class_3", "pad")
    for table in ("embedding.weight", "head.weight"):
        assert same(now[table][:32], before[table])
        assert same(now[table][32:], fresh[table][32:])
    assert all(
        same(now[n], before[n]) for n in before if n not in ("embedding.weight", "head.weight")
    )


def test_encoder_tells_labels_with_a_fresh_head(encoder, tmp_path):
    plan = begin(encoder, tmp_path, **LABELS, **STILL)
    now, fresh = started(plan)
    before = read_weights(encoder.folder)
    assert set(now) - set(before) == {
        f"{m}.{k}" for m in ("pool", "label") for k in ("weight", "bias")
    }
    assert all(same(now[n], fresh[n]) for n in set(now) - set(before))
    assert same(now["embedding.weight"][:32], before["embedding.weight"][:32])
    assert same(
        now["embedding.weight"][32:], fresh["embedding.weight"][32:]
    )  # cls, pad; mask is gone
    blocks = [n for n in now if n.startswith(("blocks.", "norm."))]
    assert blocks and all(same(now[n], before[n]) for n in blocks)


def test_judge_of_pairs_and_its_segments_come_along(bert, tmp_path):
    plan = begin(bert, tmp_path, **LABELS, **STILL)
    now, _ = started(plan)
    before = read_weights(bert.folder)
    assert plan.config.model.segments
    for name in ("segment", "pool.weight", "position"):
        assert same(now[name], before[name])
    numbers = bert.layout.numbers(32)
    assert same(
        now["embedding.weight"][plan.layout.numbers(32)["cls"]],
        before["embedding.weight"][numbers["cls"]],
    )


@pytest.mark.slow
def test_special_tokens_keep_their_rows_by_name(both, tmp_path):
    plan = begin(both, tmp_path, **TRANSLATE, **STILL)
    now, fresh = started(plan)
    before = read_weights(both.folder)
    there, here = both.layout.numbers(32), plan.layout.numbers(32)
    for name in ("start", "end"):
        assert same(now["embedding.weight"][here[name]], before["embedding.weight"][there[name]])
    assert same(now["embedding.weight"][here["pad"]], fresh["embedding.weight"][here["pad"]])
    assert same(now["encoder_relative"], before["encoder_relative"])


@pytest.mark.slow
def test_one_task_goes_on_with_the_head_of_another_unless_labels_differ(encoder, tmp_path):
    first = begin(encoder, tmp_path / "first", **LABELS)
    train(first)
    before = read_weights(first.folder)
    same_labels, _ = started(
        begin(first, tmp_path / "same", **(LABELS | STILL | {"data.source_seed": 1}))
    )
    assert same(same_labels["label.weight"], before["label.weight"])
    other, fresh = started(
        begin(first, tmp_path / "other", **(LABELS | STILL | {"data.classes": 3}))
    )
    assert same(other["label.weight"], fresh["label.weight"])
    assert same(other["pool.weight"], before["pool.weight"])
    assert read_record(first.folder).pretrain_tokens == 2560
    assert begin(first, tmp_path).source.trained == 5120


@pytest.mark.parametrize("parts", ["last", "head", "lora"])
def test_fresh_heads_always_train(encoder, tmp_path, parts):
    plan = begin(encoder, tmp_path, **LABELS, **{"finetune.parts": parts})
    tuning = Tuning.of(plan)
    assert {"pool.weight", "label.weight"} <= tuning.fresh
    chosen = tuning.choose(read_weights(encoder.folder).keys() | tuning.fresh, plan.shape)
    assert {"pool.weight", "label.weight", "pool.bias", "label.bias"} <= chosen


@pytest.mark.slow
def test_adapters_stand_in_both_stacks_and_write_answers(both, tmp_path):
    plan = begin(
        both, tmp_path, **TRANSLATE, **{"finetune.parts": "lora", "finetune.targets": "all"}
    )
    record = train(plan)
    now, before = read_weights(plan.folder), read_weights(both.folder)
    for name in (
        "encoder.0.attention.qkv.weight",
        "blocks.1.cross.kv.weight",
        "blocks.0.ffn.up.weight",
    ):
        assert not torch.equal(now[name], before[name])
    assert torch.equal(
        now["blocks.0.attention_norm.weight"], before["blocks.0.attention_norm.weight"]
    )
    assert "bleu" in record.measures  # answers are generated from the merged weights


def test_hub_folder_of_a_language_model_learns_labels(encoder, decoder, tmp_path):
    export_run(decoder.folder, tmp_path / "hub")
    from_hub = begin(decoder, tmp_path, **LABELS, **{"model.init_from": str(tmp_path / "hub")})
    from_run = begin(decoder, tmp_path, **LABELS)
    assert from_hub.rows == from_run.rows and from_hub.shape == from_run.shape
    with pytest.raises(ConfigError, match="data.vocab=64, but the weights .* are for 32 tokens"):
        begin(decoder, tmp_path, **LABELS, **{"data.vocab": 64})


def test_rows_go_by_token_and_name(encoder):
    layout = Layout(objective="classify", specials=("cls", "mask", "pad"), padded=True)
    rows = map_rows(open_source(encoder), layout, vocab=32)
    assert rows == (*range(32), None, 32, None)  # the mask was the row behind the vocabulary


def open_source(plan):
    from scaling.study.pretrained import open_pretrained

    return open_pretrained(plan.folder)


@pytest.mark.slow
def test_configuration_of_a_fine_tuned_run_plans_the_same_run(encoder, tmp_path):
    plan = begin(encoder, tmp_path, **LABELS, **{"finetune.parts": "lora"})
    train(plan)
    again = read_config(plan.folder)
    from scaling.study.plan import make_plan

    assert make_plan(again).run_id == plan.run_id
    assert np.isfinite(read_record(plan.folder).val_loss)

"""Runs that start from weights: which, how it is known, and what does not fit."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from small_run import small_plan

from scaling.cli import main
from scaling.study.errors import CheckpointError, ConfigError, ScalingError
from scaling.study.hub import config_of
from scaling.study.plan import make_plan
from scaling.study.pretrained import open_pretrained
from scaling.study.record import read_record
from scaling.training.data import prepare
from scaling.training.evaluate import evaluate
from scaling.training.export import export_run, write_weights
from scaling.training.huggingface import load_pretrained, starting_tensors
from scaling.training.model import Transformer
from scaling.training.trainer import train, train_together

OPEN = {"model.layers": None, "model.width": None, "model.heads": None}  # left to the weights
STILL = {"optim.lr": 1e-12, "optim.weight_decay": 0.0}  # a step moves weights by 1e-12: not at all
GPT2 = {"model.family": "gpt2", "model.norm": "layernorm", "model.position": "learned", "model.activation": "gelu", "model.tied": True, "model.bias": True}  # fmt: skip


def train_origin(folder, **changes):
    plan = small_plan(folder, **changes)
    train(plan)
    export_run(plan.folder, folder / "hub")
    return plan, folder / "hub"


@pytest.fixture(scope="module")
def origin(tmp_path_factory):
    """A trained run and the same weights as a Hugging Face folder."""
    return train_origin(tmp_path_factory.mktemp("llama"), **{"model.kv_heads": 1})


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    """The same with GPT-2's parts."""
    return train_origin(tmp_path_factory.mktemp("gpt2"), **GPT2)


@pytest.fixture(params=["origin", "learned"])
def either(request):
    return request.getfixturevalue(request.param)


def plan_from(source, folder, **changes):
    return small_plan(folder, **OPEN, **{"model.init_from": str(source)}, **changes)


def test_run_starts_where_the_weights_ended(either, tmp_path):
    plan, hub = either
    records = [
        train(plan_from(source, tmp_path / name, **STILL))
        for name, source in (("run", plan.folder), ("hub", hub))
    ]
    before = read_record(plan.folder)
    for record in records:
        # the weights are those to the bit, and 60 steps of 1e-12 move no float32 of order 0.01
        assert record.val_loss == pytest.approx(before.val_loss, abs=1e-6)
        assert (record.width, record.kv_heads, record.family) == (16, before.kv_heads, before.family)  # fmt: skip
        assert record.params_total == before.params_total
    assert (
        records[0].init_from == plan.run_id and records[1].init_from == hub.name
    )  # its path says nothing elsewhere
    assert records[0].val_loss == records[1].val_loss
    assert before.init_from is None and before.init_hash is None


def test_further_training_lowers_the_loss(origin, tmp_path):
    plan, _ = origin
    record = train(plan_from(plan.folder, tmp_path, **{"optim.lr": 0.003}))
    assert record.val_loss < read_record(plan.folder).val_loss


def test_weights_are_part_of_the_name_and_their_place_is_not(origin, tmp_path):
    _, hub = origin
    here = plan_from(hub, tmp_path)
    moved = tmp_path / "elsewhere"
    shutil.copytree(hub, moved)
    assert plan_from(moved, tmp_path).run_id == here.run_id
    fresh = small_plan(
        tmp_path,
        **{f"model.{k}": v for k, v in vars(here.config.model).items() if k != "init_from"},
    )
    assert fresh.hash != here.hash and fresh.shape == here.shape
    other = Transformer(here.shape).init_weights(1)
    write_weights(moved, dict(other.named_parameters()), here.shape)
    assert plan_from(moved, tmp_path).hash != here.hash
    # a run is planned with the shape filled in; planned again from that, it is the same run
    assert make_plan(here.config).run_id == here.run_id


def test_weights_that_change_after_the_plan_are_refused(origin, tmp_path):
    _, hub = origin
    moved = tmp_path / "hub"
    shutil.copytree(hub, moved)
    plan = plan_from(moved, tmp_path)
    other = Transformer(plan.shape).init_weights(1)
    write_weights(moved, dict(other.named_parameters()), plan.shape)
    with pytest.raises(CheckpointError, match="have changed since the run was planned"):
        train(plan)
    assert read_record(plan.folder).status == "failed"


def test_interrupted_run_goes_on_from_its_checkpoint_and_not_from_the_weights(origin, tmp_path):
    plan, _ = origin
    short = {"budget.tokens": 12 * 256}
    whole = train(plan_from(plan.folder, tmp_path / "whole", **short))

    def stop(progress):
        if progress["step"] >= 6:
            raise ScalingError("stopped")

    cut = plan_from(plan.folder, tmp_path, **short, **{"train.checkpoint_seconds": 1e-6})
    with pytest.raises(ScalingError, match="stopped"):
        train(cut, on_progress=stop)
    record = train(cut)
    assert record.resumes == 1 and record.val_loss == whole.val_loss


def test_budgets_from_one_start_share_a_trunk(origin, tmp_path):
    plan, _ = origin

    def plans(folder):
        shared = {"optim.horizon": 60 * 256}
        return [
            plan_from(plan.folder, folder, **shared, **{"budget.tokens": b})
            for b in (30 * 256, 60 * 256)
        ]

    together = train_together(plans(tmp_path / "together"))
    alone = [train(p) for p in plans(tmp_path / "alone")]
    assert [r.val_loss for r in together] == [r.val_loss for r in alone]
    assert any(r.parent for r in together)


def test_shorter_context_takes_the_first_positions(learned, tmp_path):
    long, _ = learned
    short = plan_from(long.folder, tmp_path, **STILL, **{"model.context": 16})
    record = train(short)
    model = Transformer(long.shape)
    model.load_state_dict(load_pretrained(long.folder)[1], strict=False)
    expected = evaluate(model, prepare(short.config.data, context=16), context=16)
    # another order of summation at most; see above for the steps
    assert record.val_loss == pytest.approx(expected.loss, abs=1e-6)


def test_other_attention_scale_starts_from_the_same_function(tmp_path):
    wide = {"optim.parametrization": "mup", "optim.base_width": 8, "model.width": 32, "model.heads": 2}  # fmt: skip
    plan = small_plan(tmp_path, **wide)
    assert plan.shape.attention_scale is not None
    train(plan)
    usual = train(plan_from(plan.folder, tmp_path / "usual", **STILL))
    # queries are scaled instead of scores: rounding of float32
    assert usual.val_loss == pytest.approx(read_record(plan.folder).val_loss, abs=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model.layers": 3}, "model.layers=3, but model.init_from=.* has 2"),
        ({"model.ffn": 7}, "model.ffn=7, but"),
        ({"model.params": 1e6}, "model.params=1e\\+06, but .* non_embedding parameters"),
        ({"model.qk_norm": "head"}, "model.qk_norm=head, but .* has none"),
        ({"data.vocab": 64}, "data.vocab=64, but the weights of .* are for 32 tokens"),
        ({"model.init_from": "nowhere"}, "nowhere: holds neither run.json nor config.json"),
        ({"model.init_from": " "}, "model.init_from: is empty"),
    ],
)
def test_what_contradicts_the_weights_is_refused_with_its_key(origin, tmp_path, changes, message):
    plan, _ = origin
    with pytest.raises(ConfigError, match=message):
        small_plan(tmp_path, **OPEN | {"model.init_from": str(plan.folder)} | changes)


def test_context_beyond_learned_positions_is_refused(learned, tmp_path):
    plan, _ = learned
    with pytest.raises(ConfigError, match=r"model.context=64, but .* has 32 learned positions"):
        plan_from(plan.folder, tmp_path, **{"model.context": 64})


def test_size_asked_for_is_checked_against_the_weights(origin, tmp_path):
    plan, _ = origin
    asked = plan_from(plan.folder, tmp_path, **{"model.params": plan.counts.non_embedding * 1.005})
    assert asked.counts == plan.counts


# --- folders --------------------------------------------------------------------------------------

LLAMA = {"model_type": "llama", "vocab_size": 32, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}  # fmt: skip


def hub_folder(folder, **changes):
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({**LLAMA, **changes}))
    (folder / "model.safetensors").write_bytes(b"")
    return folder


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "opt"}, "model_type is 'opt'; only llama, gpt2, bert or t5"),
        ({"hidden_act": "gelu"}, "hidden_act=gelu is not supported; our model has SwiGLU"),
        ({"mlp_bias": True}, "mlp_bias=true is not supported"),
        ({"rope_scaling": {"type": "linear", "factor": 2}}, "rope_type=linear is not supported"),
        ({"rope_parameters": {"rope_type": "llama3", "rope_theta": 5e5}}, "rope_type=llama3"),
        ({"model_type": "gpt2"}, "n_head is missing"),
        ({"model_type": "gpt2", "activation_function": "gelu"}, "activation_function=gelu is not"),
    ],
)
def test_model_that_ours_cannot_be_is_refused(tmp_path, changes, message):
    with pytest.raises(ConfigError, match=message):
        open_pretrained(hub_folder(tmp_path / "hub", **changes))


def test_old_and_new_configurations_are_read_alike(tmp_path):
    # transformers 4 wrote rope_theta, 5 writes rope_parameters
    old = hub_folder(tmp_path / "old", rope_theta=5e5, rope_scaling=None, rms_norm_eps=1e-5)
    new = hub_folder(tmp_path / "new", rope_parameters={"rope_type": "default", "rope_theta": 5e5}, rms_norm_eps=1e-5)  # fmt: skip
    shapes = [open_pretrained(f).shape for f in (old, new)]
    assert shapes[0] == shapes[1] and shapes[0].rotary_base == 5e5
    assert open_pretrained(hub_folder(tmp_path / "bare")).shape.norm_eps == 1e-6  # their default


def test_folder_without_whole_weights_is_refused(tmp_path, either):
    _, hub = either
    folder = tmp_path / "hub"
    shutil.copytree(hub, folder)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="read from safetensors only, since a .bin may run"):
        open_pretrained(folder)
    (folder / "model.safetensors").write_bytes((folder / "pytorch_model.bin").read_bytes()[:-9])
    with pytest.raises(CheckpointError, match="damaged"):
        load_pretrained(folder)
    values = json.loads((hub / "config.json").read_text())
    key = "n_layer" if values["model_type"] == "gpt2" else "num_hidden_layers"
    for layers, message in ((3, "is missing"), (1, "is no weight of this family")):
        shutil.copy(hub / "model.safetensors", folder)
        (folder / "config.json").write_text(json.dumps({**values, key: layers}))
        with pytest.raises(CheckpointError, match=message):
            load_pretrained(folder)


def test_weights_in_several_files_are_one_model(tmp_path, either):
    _, hub = either
    from safetensors.torch import load_file, save_file

    tensors = load_file(hub / "model.safetensors")
    names = sorted(tensors)
    files = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for name, part in files.items():
        save_file({n: tensors[n] for n in part}, tmp_path / name)
    shutil.copy(hub / "config.json", tmp_path)
    index = {"weight_map": {n: f for f, part in files.items() for n in part}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    whole, parts = load_pretrained(hub)[1], load_pretrained(tmp_path)[1]
    assert all(torch.equal(whole[n], parts[n]) for n in whole)
    (tmp_path / "b.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"b.safetensors: not there"):
        open_pretrained(tmp_path)
    for elsewhere in ({}, {"x": "../a.safetensors"}, {"x": "/etc/a.safetensors"}):
        text = json.dumps({"weight_map": elsewhere})
        (tmp_path / "model.safetensors.index.json").write_text(text)
        with pytest.raises(CheckpointError, match="its own folder"):
            open_pretrained(tmp_path)


def test_heads_of_any_size_come_along(tmp_path):
    # Llama configurations may have heads of another size than width / heads
    plan = small_plan(tmp_path)
    shape = open_pretrained(hub_folder(tmp_path / "hub", head_dim=12)).shape
    assert shape.head_size == 12 and config_of(shape)["head_dim"] == 12
    model = Transformer(shape).init_weights(0)
    write_weights(tmp_path / "hub", dict(model.named_parameters()), shape)
    begun = plan_from(tmp_path / "hub", tmp_path)
    assert begun.shape.head_size == 12 and begun.counts.total != plan.counts.total
    assert set(starting_tensors(begun.source, begun.shape)) == {
        f"model.{n}" for n, _ in model.named_parameters()
    }


# --- the commands ---------------------------------------------------------------------------------


def test_commands_start_from_a_folder(origin, tmp_path, monkeypatch, capsys):
    plan, hub = origin
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SCALING_CACHE", str(tmp_path / "cache"))
    data = ["data=markov", "data.vocab=32", "data.order=1", "data.size=40k", "data.val_tokens=2048", "model.context=32"]  # fmt: skip
    asked = [f"model.init_from={hub}", "budget.tokens=4k", *data]
    assert main(["plan", *asked, "calibrate=false"]) == 0
    shown = capsys.readouterr().out
    assert "starts from" in shown and open_pretrained(hub).hash in shown
    assert f"{plan.counts.total:,}" in shown
    assert main(["train", *asked]) == 0
    (record,) = [read_record(p.parent) for p in (tmp_path / "results").glob("*/*/run.json")]
    assert record.init_hash == open_pretrained(hub).hash and record.status == "done"
    assert main(["plan", *asked, "model.layers=5"]) == 1
    assert "model.layers=5, but model.init_from" in capsys.readouterr().err

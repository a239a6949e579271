"""Memory before launch: what is counted, what is chosen, and what a refusal proposes."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from small_run import small_plan

from scaling.study.config import RunConfig, TrainConfig
from scaling.study.errors import ConfigError, TrainError
from scaling.study.shape import ModelShape, count_params
from scaling.training import device
from scaling.training.device import choose_engine
from scaling.training.learner import Learner
from scaling.training.memory import STATE_BYTES, fit_memory, memory_estimate

GPT2_XL = ModelShape(
    layers=48, width=1600, heads=25, kv_heads=25, head_size=64, ffn=6400, vocab=50_257,
    context=1024, norm="layernorm", position="learned", activation="gelu", tied=True, bias=True,
)  # fmt: skip
GIB = 2.0**30


def fit(free: float, *, processes: int = 1, **train):
    return fit_memory(
        GPT2_XL, batch_seqs=64, train=TrainConfig(**train), most_tokens=65_536, free=free,
        attention="sdpa", precision="bfloat16", processes=processes, device="cuda",
    )  # fmt: skip


def test_state_is_16_bytes_per_parameter_and_fsdp_divides_it():
    params = count_params(GPT2_XL).total
    alone = memory_estimate(GPT2_XL, 1, attention="sdpa")
    assert alone.state == STATE_BYTES * params
    assert (
        memory_estimate(GPT2_XL, 1, attention="sdpa", parallel="ddp", processes=8).state
        == alone.state
    )
    shared = memory_estimate(GPT2_XL, 1, attention="sdpa", parallel="fsdp", processes=8)
    assert shared.state - shared.gathered == alone.state / 8
    # what is gathered at once is a table and two blocks, not the model
    assert 0 < shared.gathered < 0.2 * alone.state


def test_recompute_keeps_a_small_part_of_the_activations():
    kept = memory_estimate(GPT2_XL, 4, attention="sdpa").activations
    again = memory_estimate(GPT2_XL, 4, attention="sdpa", recompute=True).activations
    # the input of 48 blocks and one block's inside, against 48 insides of about 20 times an input
    assert again < 0.1 * kept


def test_choice_takes_smaller_micro_batches_then_sharding_then_recompute():
    assert fit(2000 * GIB).micro_seqs == 64
    small = fit(80 * GIB)
    assert small.micro_seqs < 64 and not small.recompute and small.parallel == "none"
    assert fit(80 * GIB, processes=4).parallel == "ddp"
    assert fit(20 * GIB, processes=8).parallel == "fsdp"
    tight = fit(27 * GIB)
    assert tight.recompute and tight.need.total <= tight.free


@pytest.mark.parametrize(
    ("free", "train", "cure"),
    [
        (40, {"micro_batch_tokens": 65_536}, r"Set train\.micro_batch_tokens="),
        (27.15, {"recompute": False}, r"Set train\.recompute=true"),
        (12, {}, r"Set train\.parallel=fsdp on \d+ processes .* or a model of about"),
    ],
)
def test_run_that_does_not_fit_is_refused_with_what_would_make_it_fit(free, train, cure):
    with pytest.raises(TrainError, match=cure) as refused:
        fit(free * GIB, **train)
    # and what is proposed is then taken
    text = str(refused.value)
    if "micro_batch_tokens" in text:
        asked = float(text.rsplit("=", 1)[1].rstrip("."))
        assert fit(free * GIB, micro_batch_tokens=asked).micro_seqs * 1024 == asked
    elif "recompute=true" in text:
        assert fit(free * GIB, recompute=True).recompute
    else:
        count = int(text.split(" processes")[0].rsplit(" ", 1)[1])
        assert fit(free * GIB, processes=count).parallel == "fsdp"


def test_recompute_is_true_false_or_auto():
    assert (
        RunConfig.from_dict(
            {"train": {"recompute": True}, "model": {"params": 1e6}}
        ).train.recompute
        is True
    )
    with pytest.raises(ConfigError, match="expected true or false; got 'often'"):
        RunConfig.from_dict({"train": {"recompute": "often"}, "model": {"params": 1e6}})


def test_recomputed_blocks_give_the_same_losses_to_the_bit(tmp_path):
    losses = []
    for recompute in (False, True):
        plan = small_plan(tmp_path, **{"train.recompute": recompute})
        engine = choose_engine(plan.shape, batch_seqs=8, train=plan.config.train)
        assert engine.recompute is recompute
        learner = Learner(
            plan.shape, engine, optim=plan.config.optim, lr=0.01, weight_decay=0.1, seed=0
        )
        assert learner.model.blocks[0].recompute is recompute
        tokens = torch.randint(32, (5, 8, 33), generator=torch.Generator().manual_seed(0)).numpy()
        losses.append(
            [learner.learn(t[None, :, :-1], t[None, :, 1:], lr=[0.01])[0].item() for t in tokens]
        )
    assert losses[0] == losses[1]


def test_recompute_and_parallel_leave_the_run_the_same_run(tmp_path):
    plan = small_plan(tmp_path)
    other = small_plan(tmp_path, **{"train.recompute": True, "train.parallel": "fsdp"})
    assert plan.hash == other.hash and dataclasses.replace(plan, config=other.config) == other


def test_files_in_the_cache_of_a_container_count_as_free(tmp_path, monkeypatch):
    for name, text in {
        "max": "8000", "current": "7500", "stat": "anon 1500\nfile 6000\ninactive_file 3000\nactive_file 2500\n",
    }.items():  # fmt: skip
        (tmp_path / f"memory.{name}").write_text(text)
    monkeypatch.setattr(device, "CGROUP", tmp_path)
    assert device.available_memory(torch.device("cpu")) == 8000 - 7500 + 5500
    (tmp_path / "memory.max").write_text("max")
    assert device.available_memory(torch.device("cpu")) > GIB

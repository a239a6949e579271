"""Stacks: every model has the numbers it would have had alone, to the bit."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from scaling.study.config import ModelConfig, OptimConfig, TrainConfig
from scaling.study.errors import CheckpointError
from scaling.study.shape import ModelShape, resolve_shape
from scaling.training.device import choose_engine
from scaling.training.direct import Direct
from scaling.training.learner import Learner
from scaling.training.native import is_available
from scaling.training.stack import StackedLearner, build_stack, choose_stack, stack_key
from scaling.training.stacked import StackedTransformer
from tests.small_run import small_plan

VOCAB, CONTEXT, SEQS = 61, 32, 8
GPT2 = {
    "norm": "layernorm",
    "position": "learned",
    "activation": "gelu",
    "tied": True,
    "bias": True,
}
SWITCHES = {
    "llama": {},
    "gpt2": GPT2,
    "untied_gpt2": GPT2 | {"tied": False},
    "tied_llama": {"tied": True},
    "grouped": {"kv_heads": 2, "qk_norm": "full", "bias": True},
    "head_norm": {"qk_norm": "head"},
    "layer_norm": {"qk_norm": "head", "norm": "layernorm", "position": "none"},
    "sinusoidal": {"position": "sinusoidal", "activation": "relu2"},
}
KERNELS = ["sdpa", "matmul", "native"]


def small_shape(**switches) -> ModelShape:
    # widths that are no multiple of a vector, so that every kernel has a remainder
    model = ModelConfig(layers=2, width=44, heads=4, kv_heads=switches.pop("kv_heads", None), ffn=100,
                        context=CONTEXT, position=switches.pop("position", "none"), **switches)  # fmt: skip
    return resolve_shape(model, vocab=VOCAB)


def engine_for(shape, *, attention="sdpa", precision="float32", micro_seqs=None):
    if attention == "native" and not is_available(getattr(torch, precision)):
        pytest.skip("no compiled kernels on this machine")
    train = TrainConfig(
        device="cpu", precision=precision, attention=attention, threads=1,
        micro_batch_tokens=None if micro_seqs is None else micro_seqs * CONTEXT,
    )  # fmt: skip
    return choose_engine(shape, batch_seqs=SEQS, train=train)


def learners(shape, engine, *, count=3, optim=None):
    return [
        Learner(shape, engine, optim=optim or OptimConfig(), lr=0.01, weight_decay=0.1 * (k + 1), seed=k)
        for k in range(count)
    ]  # fmt: skip


def batches(steps, *, slots, seed=0):
    generator = np.random.default_rng(seed)
    for step in range(steps):
        tokens = generator.integers(VOCAB, size=(slots, SEQS, CONTEXT + 1))
        rates = [0.01 * (k + 1) / (step + 1) for k in range(slots)]
        yield tokens[..., :-1], tokens[..., 1:], rates


def assert_equal_over(steps, alone, stack, **options):
    """Both learn from the same batches; losses, norms and all that a checkpoint holds are equal."""
    for x, y, lr in batches(steps, slots=len(alone), **options):
        rows = [
            one.learn(x[k : k + 1], y[k : k + 1], lr=lr[k : k + 1]) for k, one in enumerate(alone)
        ]
        losses, norms = stack.learn(x, y, lr=lr)
        assert torch.equal(torch.cat([loss for loss, _ in rows]), losses)
        assert torch.equal(torch.cat([norm for _, norm in rows]), norms)
    for k, one in enumerate(alone):
        mine, theirs = stack.tensors(k), one.tensors(0)
        assert mine.keys() == theirs.keys()
        assert [n for n in mine if not torch.equal(mine[n], theirs[n])] == []


@pytest.mark.parametrize("attention", KERNELS)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_stack_equals_models_alone_to_the_bit(family, precision, attention):
    position = {"llama": "sinusoidal"}.get(family, "learned")  # 44 / 4 is odd: no rotation
    shape = small_shape(**{"position": position} | SWITCHES[family])
    engine = engine_for(shape, attention=attention, precision=precision)
    stack = StackedLearner(learners(shape, engine))
    steps = 15 if attention == "native" else 6  # what a run takes by default, for longer
    assert_equal_over(steps, learners(shape, engine), stack)


@pytest.mark.parametrize("attention", KERNELS)
@pytest.mark.parametrize("name", SWITCHES)
def test_every_part_of_a_stack_equals_the_plain_part(name, attention):
    shape = small_shape(**SWITCHES[name])
    engine = engine_for(shape, attention=attention)
    assert_equal_over(4, learners(shape, engine), StackedLearner(learners(shape, engine)))


def test_rotary_stack_equals_models_alone():
    shape = resolve_shape(
        ModelConfig(layers=2, width=32, heads=4, kv_heads=2, context=CONTEXT), vocab=VOCAB
    )
    for attention in KERNELS[: 3 if is_available() else 2]:
        engine = engine_for(shape, attention=attention)
        assert_equal_over(4, learners(shape, engine), StackedLearner(learners(shape, engine)))


@pytest.mark.parametrize("attention", ["sdpa", "native"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_micro_batches_and_waves_leave_the_numbers(family, precision, attention):
    shape = small_shape(**SWITCHES[family])
    # parts of 3, 3 and 2 sequences
    engine = engine_for(shape, attention=attention, precision=precision, micro_seqs=3)
    assert engine.micro_seqs == 3
    stack = StackedLearner(learners(shape, engine), wave=2)  # waves of 1 and 2 models
    assert_equal_over(4, learners(shape, engine), stack)


@pytest.mark.parametrize("name", ["llama", "gpt2", "head_norm"])
def test_stack_takes_the_passes_without_autograd_where_a_model_alone_does(name):
    shape = small_shape(**SWITCHES[name])
    engine = engine_for(shape, attention="native")
    stack = StackedLearner(learners(shape, engine))
    x, y, lr = next(batches(1, slots=3))
    stack.learn(x, y, lr=lr)
    kinds = {type(passes) for _, passes in stack._waves}
    assert kinds == {StackedTransformer if name == "head_norm" else Direct}


@pytest.mark.parametrize("changes", [
    {"clip": 0.0}, {"name": "muon"}, {"eps": 1e-3, "beta2": 0.9},
    {"parametrization": "completep", "base_width": 11, "base_depth": 1},
])  # fmt: skip
def test_other_optimisers_step_as_they_do_alone(changes):
    shape = small_shape(**SWITCHES["llama"])
    engine, optim = engine_for(shape), dataclasses.replace(OptimConfig(), **changes)
    stack = StackedLearner(learners(shape, engine, optim=optim))
    assert_equal_over(5, learners(shape, engine, optim=optim), stack)


def test_model_of_a_slot_scores_like_the_plain_model():
    shape = small_shape(**SWITCHES["gpt2"])
    engine = engine_for(shape, attention="matmul", precision="bfloat16")
    alone, stack = learners(shape, engine), StackedLearner(learners(shape, engine))
    assert_equal_over(3, alone, stack)
    x, y, _ = next(batches(1, slots=1, seed=5))
    x, y = torch.as_tensor(x[0]), torch.as_tensor(y[0])
    for k, one in enumerate(alone):
        with torch.inference_mode(), engine.autocast():
            scores = [module(x, y, reduction="none") for module in (one.module(0), stack.module(k))]
        assert torch.equal(*scores)


def test_diverged_model_leaves_the_others_alone():
    shape = small_shape(**SWITCHES["llama"])
    engine = engine_for(shape)
    alone, stack = learners(shape, engine), StackedLearner(learners(shape, engine))
    assert_equal_over(2, alone, stack)
    with torch.no_grad():
        for one in (alone[1].module(0), stack.module(1)):
            one.get_parameter("blocks.0.ffn.up.weight")[0, 0] = torch.nan
    for x, y, lr in batches(3, slots=3, seed=1):
        rows = [
            one.learn(x[k : k + 1], y[k : k + 1], lr=lr[k : k + 1]) for k, one in enumerate(alone)
        ]
        losses, _ = stack.learn(x, y, lr=lr)
        assert losses.isnan().tolist() == [False, True, False]
        assert [float(losses[k]) for k in (0, 2)] == [float(rows[k][0]) for k in (0, 2)]
    assert [stack.is_finite(k) for k in range(3)] == [True, False, True]


def test_checkpoint_of_a_slot_goes_on_alone_and_in_another_stack():
    shape = small_shape(**SWITCHES["gpt2"])
    engine = engine_for(shape)
    stack = StackedLearner(learners(shape, engine))
    alone = learners(shape, engine)
    assert_equal_over(3, alone, stack)
    saved = [{n: t.clone() for n, t in stack.tensors(k).items()} for k in range(3)]
    # on alone, from the stack's tensors; in another stack, in other slots, from those of the models
    fresh = learners(shape, engine)
    other = StackedLearner(learners(shape, engine))
    for k, one in enumerate(fresh):
        one.load(0, saved[k])
        other.load(k, {n: t.clone() for n, t in alone[k].tensors(0).items()})
    assert_equal_over(3, fresh, other, seed=2)
    with pytest.raises(CheckpointError, match="embedding"):
        other.load(0, {n: t for n, t in saved[0].items() if "embedding" not in n})


def test_models_that_are_not_as_far_step_as_they_do_alone():
    shape = small_shape(**SWITCHES["llama"])
    engine = engine_for(shape, attention="native")
    alone, stack = learners(shape, engine), StackedLearner(learners(shape, engine))
    for x, y, lr in batches(2, slots=1):
        alone[1].learn(x, y, lr=lr)
    stack.load(1, {n: t.clone() for n, t in alone[1].tensors(0).items()})
    assert_equal_over(3, alone, stack, seed=4)


def test_kept_models_go_on_as_before():
    shape = small_shape(**SWITCHES["llama"])
    engine = engine_for(shape)
    alone, stack = learners(shape, engine), StackedLearner(learners(shape, engine))
    assert_equal_over(3, alone, stack)
    assert_equal_over(3, [alone[0], alone[2]], stack.keep([0, 2]), seed=3)


def test_stack_of_plans_learns_what_each_plan_would(tmp_path):
    plans = [
        small_plan(tmp_path, **changes)
        for changes in ({"seed": 1}, {"seed": 2, "optim.lr": 0.003}, {"optim.weight_decay": 0.3})
    ]
    engines = [choose_engine(p.shape, batch_seqs=p.batch_seqs, train=p.config.train) for p in plans]
    assert len({stack_key(p, e) for p, e in zip(plans, engines, strict=True)}) == 1
    stack = build_stack(plans, engines[0])
    for k, plan in enumerate(plans):
        one = Learner(
            plan.shape, engines[0], optim=plan.config.optim, lr=plan.lr,
            weight_decay=plan.weight_decay, seed=plan.config.seed,
        )  # fmt: skip
        mine, theirs = stack.tensors(k), one.tensors(0)
        assert all(torch.equal(mine[n], t) for n, t in theirs.items())


@pytest.mark.parametrize(
    "changes",
    [{"model.width": 32}, {"optim.batch_tokens": 128}, {"optim.beta2": 0.99}, {"optim.clip": 0.5},
     {"train.precision": "bfloat16"}, {"optim.weight_decay": 0.0}],
)  # fmt: skip
def test_unlike_runs_do_not_share_a_key(tmp_path, changes):
    keys = []
    for plan in (small_plan(tmp_path), small_plan(tmp_path, **changes)):
        engine = choose_engine(plan.shape, batch_seqs=plan.batch_seqs, train=plan.config.train)
        keys.append(stack_key(plan, engine))
    assert keys[0] != keys[1]


def test_choice_stacks_small_steps_and_leaves_large_ones_alone():
    shape = resolve_shape(ModelConfig(layers=2, width=64, context=128), vocab=256)

    def choose(tokens, runs, **options):
        train = TrainConfig(device="cpu", precision="bfloat16", threads=1)
        engine = choose_engine(shape, batch_seqs=tokens // 128, train=train)
        engine = dataclasses.replace(engine, compile=options.pop("compile", False))
        return choose_stack(shape, engine, batch_seqs=tokens // 128, runs=runs, **options)

    assert choose(256, 8) == 8
    assert choose(1024, 8) == 4
    assert choose(8192, 8) == 1
    assert choose(256, 1) == 1
    assert choose(1024, 5) == 3  # 3 and 2 rather than 4 and 1
    assert choose(256, 8, most=1) == 1
    assert choose(8192, 8, most=4) == 4  # asked for
    assert choose(256, 8, compile=True) == 1  # a compiled model rounds otherwise

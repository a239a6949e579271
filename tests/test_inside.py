"""Logit lens against the model's own answers; induction scores of heads that are known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from small_run import small_plan

from scaling.study.errors import ConfigError
from scaling.study.record import read_record
from scaling.training.data.repeats import LONGEST, MARK, SHORTEST, RepeatSource
from scaling.training.heads import _look_back, induction, repeated_tokens, score_induction
from scaling.training.lens import logit_lens, loss_by_depth
from scaling.training.opened import open_run
from scaling.training.trainer import train

KINDS = ("decoder", "encoder", "encoder_decoder")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """One run of each kind, trained for a moment on symbols."""
    base = tmp_path_factory.mktemp("runs")
    made = {}
    for kind in KINDS:
        plan = small_plan(base, **{"model.kind": kind, "budget.tokens": 4096})
        train(plan)
        made[kind] = plan.folder
    return made


@pytest.mark.parametrize("kind", KINDS)
def test_last_depth_is_the_model_itself(folders, kind):
    opened = open_run(folders[kind])
    text = "3 1 4 1 5 9 2 6 5 3"
    target = "5 8 9" if kind == "encoder_decoder" else ""
    lens = logit_lens(opened, text, target=target, top=3)
    tokens = torch.tensor([[int(t) for t in text.split()]])
    with torch.no_grad():
        if kind == "encoder_decoder":
            start = opened.plan.layout.special("start", 32)
            tokens, memory = torch.tensor([[start, 5, 8, 9]]), opened.model.read(tokens)
            logits = opened.model.write(tokens, memory)[0]
        else:
            logits = opened.model(tokens)[0]
    log_p = logits.double().log_softmax(-1)
    best, which = log_p.topk(3)
    assert np.array_equal(lens.probability[-1], best.exp().numpy())
    assert lens.predicted.shape == (3, len(logits), 3)
    # special tokens have names instead of numbers
    names = [[opened.label(np.array([k]))[0] for k in row] for row in which.tolist()]
    assert lens.predicted[-1].tolist() == names
    follow = tokens[0] if kind == "encoder" else tokens[0, 1:]
    own = -log_p[: len(follow)].gather(1, follow[:, None])[:, 0].numpy()
    assert np.array_equal(lens.loss[-1, : len(follow)], own)
    assert np.isnan(lens.loss[:, len(follow) :]).all()


@pytest.mark.parametrize("kind", KINDS)
def test_loss_by_depth_ends_at_the_recorded_loss(folders, kind):
    found = loss_by_depth(folders[kind])
    assert len(found) == 3
    # the run was scored by another kernel, which agrees to rounding in float32
    assert found[-1][0] == pytest.approx(read_record(folders[kind]).val_loss, abs=1e-5)
    assert found[0][0] > found[-1][0]


def test_the_stream_before_all_layers_is_the_embedding(folders):
    opened = open_run(folders["decoder"])
    lens = logit_lens(opened, "3 1 4", top=1)
    model, tokens = opened.model, torch.tensor([[3, 1, 4]])
    with torch.no_grad():
        logits = model.head(model.norm(model.embed(tokens)[0]))[0]
    best = logits.double().softmax(-1).max(-1).values.numpy()
    assert lens.probability[0, :, 0] == pytest.approx(
        best, rel=1e-12
    )  # another order of float64 sums


def test_a_perfect_induction_head_scores_one_and_an_even_one_its_share():
    stretch, length = 5, 10
    perfect = torch.zeros(1, 1, length, length)
    for t in range(stretch, length - 1):
        perfect[0, 0, t, t - stretch + 1] = 1
    assert float(_look_back(perfect, stretch)) == 1
    even = torch.ones(length, length).tril() / torch.arange(1, length + 1)[:, None]
    expected = np.mean([1 / n for n in range(stretch + 1, length)])
    assert float(_look_back(even[None, None], stretch)) == pytest.approx(expected)
    # looking at the token itself, or at its first occurrence, is no induction
    for offset in (0, -stretch):
        assert not _look_back(torch.eye(length).roll(offset, 1)[None, None], stretch).any()


def test_a_head_that_looks_evenly_scores_its_share_in_a_model(folders):
    opened = open_run(folders["decoder"])
    with torch.no_grad():
        opened.model.blocks[0].attention.qkv.weight.zero_()
    found = induction(opened, sequences=4)
    assert found.scores[0] == pytest.approx(found.uniform)


def test_repeated_tokens_are_repeated_and_different():
    tokens = repeated_tokens(32, 16, sequences=50, seed=0)
    assert np.array_equal(tokens[:, :16], tokens[:, 16:])
    assert all(len(set(row)) == 16 for row in tokens[:, :16])
    assert np.array_equal(tokens, repeated_tokens(32, 16, sequences=50, seed=0))


def test_untrained_models_do_not_copy(folders):
    """60 steps on a Markov text teach no induction: head scores near an even look, no gain."""
    found = induction(folders["decoder"])
    assert found.scores.max() < 0.3
    # the second half is as strange as the first; positions differ a little
    assert abs(found.gain) < 0.3


def test_measures_land_in_the_record(folders):
    record = score_induction(folders["decoder"])
    assert read_record(folders["decoder"]).measures == record.measures
    assert set(record.measures) == {"induction_score", "repeat_gain"}
    assert set(record.measures["repeat_gain"]) == {"value", "se", "n", "better"}
    with pytest.raises(ConfigError, match="encoder.*decoders"):
        score_induction(folders["encoder"])


def test_repeats_have_their_exact_entropy():
    source = RepeatSource(32, seed=0)
    text = np.concatenate([t for t, _ in source.text(1, 200_000)])
    logprob = source.logprob(text)
    blocks = -logprob[: len(logprob) // 1024 * 1024].reshape(-1, 1024).mean(axis=1)
    # four standard errors: once in 16,000 seeds
    assert abs(blocks.mean() - source.entropy_rate) < 4 * blocks.std(ddof=1) / math.sqrt(len(blocks))  # fmt: skip
    # by hand: stretches of 8 tokens on average, of 31 kinds, and 9 lengths, in 17 tokens
    assert source.entropy_rate == pytest.approx((8 * math.log(31) + math.log(9)) / 17)


def test_repeats_say_everything_twice():
    source = RepeatSource(8, seed=1)
    text = np.concatenate([t for t, _ in source.text(1, 5000)])
    shorter = np.concatenate([t for t, _ in source.text(1, 777)])
    assert len(text) == 5000 and np.array_equal(text[:777], shorter)
    start = 0
    lengths = []
    for mark in np.flatnonzero(text == MARK):
        drawn = mark - start
        assert SHORTEST <= drawn <= LONGEST
        copy = text[mark + 1 : mark + 1 + drawn]
        assert np.array_equal(copy, text[start : start + len(copy)])
        start, lengths = mark + 1 + drawn, [*lengths, drawn]
    assert set(lengths) == set(range(SHORTEST, LONGEST + 1))

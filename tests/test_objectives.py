"""What objectives hide, and that batches depend on nothing but their keys."""

from __future__ import annotations

import numpy as np
import pytest
from small_run import small_plan

from scaling.study.errors import ConfigError
from scaling.study.objective import IGNORE, count_spans
from scaling.training.data import TokenStore
from scaling.training.data.order import sequence_keys
from scaling.training.objectives import build_objective

VOCAB, CONTEXT, ROWS = 32, 64, 400


def _batch(tmp_path, *, rows=ROWS, **changes):
    """Lay out windows of random tokens; returns the plan, their words, inputs and targets."""
    plan = small_plan(tmp_path, **{"model.context": CONTEXT, "optim.batch_tokens": None} | changes)
    tokens = np.random.default_rng(0).integers(VOCAB, size=rows * CONTEXT + 1, dtype=np.uint32)
    store = TokenStore(shards=(tokens,), vocab=VOCAB, sha256="")
    starts = np.arange(rows) * CONTEXT
    inputs, targets = build_objective(plan).make(store, starts, sequence_keys(starts, seed=1))
    return plan, store.windows(starts, CONTEXT), inputs, targets


def test_masked_hides_a_fixed_share_and_keeps_the_rest(tmp_path):
    plan, words, inputs, targets = _batch(tmp_path, **{"model.kind": "encoder"})
    chosen = targets != IGNORE
    assert (chosen.sum(1) == round(0.15 * CONTEXT)).all() and plan.shape.outputs == 10
    assert (targets[chosen] == words[chosen]).all()
    assert (inputs[~chosen] == words[~chosen]).all()


def test_masked_replaces_80_10_10(tmp_path):
    _, words, inputs, targets = _batch(tmp_path, **{"model.kind": "encoder"})
    chosen = targets != IGNORE
    hidden = (inputs[chosen] == VOCAB).mean()
    kept = (inputs[chosen] == words[chosen]).mean()
    # 4,000 chosen tokens: standard errors .0063 and .005; three and a half of them
    assert hidden == pytest.approx(0.8, abs=0.022)
    assert kept == pytest.approx(0.1 + 0.1 / VOCAB, abs=0.018)  # a random token may be the same
    assert inputs.max() == VOCAB  # the mask is the one special token


def test_plain_masking_always_hides(tmp_path):
    changes = {"model.kind": "encoder", "objective.masking": "plain"}
    _, _, inputs, targets = _batch(tmp_path, **changes)
    assert (inputs[targets != IGNORE] == VOCAB).all()


def test_masked_chooses_every_position_alike(tmp_path):
    _, _, _, targets = _batch(tmp_path, rows=2000, **{"model.kind": "encoder"})
    share = (targets != IGNORE).mean(0)
    # 2,000 draws of 10 in 64: SD .0081 per position; the largest of 64 stays below 4 of them
    assert np.abs(share - 10 / CONTEXT).max() < 0.033


def test_pairs_follow_half_of_the_time_and_are_framed(tmp_path):
    changes = {"model.kind": "encoder", "objective.next_sentence": True}
    plan, _, inputs, targets = _batch(tmp_path, **changes)
    mask, cls, sep = (plan.layout.special(n, VOCAB) for n in ("mask", "cls", "sep"))
    assert (inputs[:, 0] == cls).all() and ((inputs == sep).sum(1) == 2).all()
    assert (inputs[:, -1] == sep).all()
    # 400 fair coins: standard error .025
    assert targets[:, 0].mean() == pytest.approx(0.5, abs=0.1)
    special = np.isin(inputs, (cls, sep))
    special[:, 0] = False
    assert (targets[special] == IGNORE).all() and mask in inputs


def test_a_pair_that_follows_is_the_text_as_it_stands(tmp_path):
    changes = {"model.kind": "encoder", "objective.next_sentence": True}
    _, words, inputs, targets = _batch(tmp_path, **changes)
    seen = np.where(targets == IGNORE, inputs, targets)  # as before anything was hidden
    text = np.delete(
        seen, (0, 31, 63), axis=1
    )  # [cls], and [sep] after the first 30 and at the end
    same = (text[:, 30:] == words[:, 30 : CONTEXT - 3]).mean(1)
    follows = targets[:, 0] == 1
    assert (same[follows] == 1).all()
    assert same[~follows].mean() < 0.1  # of 32 tokens one in 32 agrees by chance
    assert (text[:, :30] == words[:, :30]).all()


def test_span_corruption_loses_no_token(tmp_path):
    plan, words, inputs, targets = _batch(tmp_path, **{"model.kind": "encoder_decoder"})
    source = plan.shape.source
    cut, spans = count_spans(plan.config.objective, CONTEXT)
    assert (cut, spans) == (10, 3)
    for row in range(20):
        read, write = inputs[row, :source], targets[row, source:]
        pieces = _pieces(write[:-1], first=VOCAB + 2)
        restored = []
        for token in read[:-1]:
            restored += pieces[token] if token >= VOCAB else [token]
        assert restored == list(words[row])
    end = plan.layout.special("end", VOCAB)
    assert (inputs[:, source - 1] == end).all() and (targets[:, -1] == end).all()


def _pieces(tokens, *, first):
    """Return the words behind each mark."""
    found: dict[int, list[int]] = {}
    for token in tokens:
        if token >= first:
            found[token] = []
            last = token
        else:
            found[last].append(token)
    return found


def test_the_decoder_sees_what_it_wrote_one_step_later(tmp_path):
    plan, _, inputs, targets = _batch(tmp_path, **{"model.kind": "encoder_decoder"})
    source, start = plan.shape.source, plan.layout.special("start", VOCAB)
    assert (inputs[:, source] == start).all()
    assert (inputs[:, source + 1 :] == targets[:, source:-1]).all()
    assert (targets[:, :source] == IGNORE).all()


def test_spans_have_their_mean_length_and_lie_anywhere(tmp_path):
    plan, _, inputs, _ = _batch(tmp_path, rows=2000, **{"model.kind": "encoder_decoder"})
    first = plan.layout.special("span_0", VOCAB)
    at = np.argmax(inputs[:, : plan.shape.source] == first, axis=1)
    # 54 kept words in 3 stretches, all ways alike: the first has 18 on average, SD 12.6 / root 2,000
    assert at.mean() == pytest.approx(18, abs=1.1)
    assert at.min() == 1  # a window begins with a word that is kept


@pytest.mark.parametrize("kind", ["encoder", "encoder_decoder"])
def test_what_is_hidden_depends_on_the_key_alone(tmp_path, kind):
    _, _, inputs, targets = _batch(tmp_path, rows=40, **{"model.kind": kind})
    _, _, fewer, fewer_targets = _batch(tmp_path, rows=10, **{"model.kind": kind})
    assert (inputs[:10] == fewer).all() and (targets[:10] == fewer_targets).all()


def test_an_objective_that_the_kind_cannot_learn_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"masked does not go with model.kind=decoder. Set model.kind=encoder"):  # fmt: skip
        small_plan(tmp_path, **{"objective.name": "masked"})


def test_keys_of_other_objectives_leave_a_run_as_it_is(tmp_path):
    plain = small_plan(tmp_path)
    assert small_plan(tmp_path, **{"objective.rate": 0.3, "objective.span": 5}).hash == plain.hash
    masked = small_plan(tmp_path, **{"model.kind": "encoder"})
    named = small_plan(tmp_path, **{"model.kind": "encoder", "objective.name": "masked"})
    assert masked.hash == named.hash != plain.hash
    more = small_plan(tmp_path, **{"model.kind": "encoder", "objective.rate": 0.3})
    assert more.hash != masked.hash

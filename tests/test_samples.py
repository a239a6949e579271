"""What models write, judged: by a source that is known, and by words."""

from __future__ import annotations

import numpy as np
import pytest
from small_run import small_plan

from scaling.cli import main
from scaling.study.errors import ConfigError
from scaling.study.record import read_record
from scaling.training import samples
from scaling.training.data import prepare
from scaling.training.model import build_model
from scaling.training.trainer import train


def test_excess_is_the_source_s_own_scatter_for_its_own_text_and_large_for_noise(tmp_path):
    """Held-out text from elsewhere in place of the model's: no excess; even noise: that of an even guess."""
    plan = small_plan(tmp_path, **{"data.val_tokens": 20_000})
    data = prepare(plan.config.data, context=32)
    known = samples.make_source(plan.config.data, tmp_path, on_progress=lambda *_: None)
    begun, real = samples._beginnings(data, plan)
    assert begun.shape[1] + real.shape[1] == 32
    same = samples._by_source(known, begun, real, real)["sample_excess"]
    assert same["value"] == 0 and same["better"] == "lower"
    other = known.text(7, 300_000)
    text = np.concatenate([piece for piece, _ in other])
    # continuations that the source itself draws: those that follow the last token of a beginning
    own = []
    for row in begun:
        at = np.flatnonzero(text[:-40] == row[-1])[len(own) % 50]
        own.append(text[at + 1 : at + 1 + real.shape[1]])
    again = samples._by_source(known, begun, np.array(own), real)["sample_excess"]
    assert abs(again["value"]) < 4 * again["se"] < 0.3  # two samples of one source
    rng = np.random.default_rng(0)
    noise = samples._by_source(known, begun, rng.integers(32, size=real.shape), real)
    # rows are Zipf's law over 32 tokens: what an even draw costs, less the entropy
    p = 1 / np.arange(1, 33) / (1 / np.arange(1, 33)).sum()
    even = -np.log(p).mean() + p @ np.log(p)  # 1.07
    assert noise["sample_excess"]["value"] == pytest.approx(
        even, abs=4 * noise["sample_excess"]["se"]
    )


def test_a_trained_model_writes_nearer_to_its_source_than_a_fresh_one(tmp_path, capsys):
    plan = small_plan(tmp_path, **{"budget.tokens": 256 * 150, "data.val_tokens": 4096})
    train(plan)
    assert main(["evaluate", str(plan.folder), "samples=true"]) == 0
    found = (read_record(plan.folder).measures or {})["sample_excess"]
    fresh = build_model(plan.shape).init_weights(0).eval()
    data = prepare(plan.config.data, context=32)
    before = samples.judge_samples(fresh, data, plan)["sample_excess"]
    assert found["value"] < before["value"] - 4 * before["se"]
    assert "sample_excess" in capsys.readouterr().out


def test_words_that_may_be_cut_are_left_out():
    assert samples.whole_words("ing def name 天地 (se") == ["def", "name", "天地"]
    assert samples.whole_words("one") == []


def test_what_cannot_be_judged_is_refused(tmp_path):
    plan = small_plan(tmp_path, **{"model.kind": "encoder"})
    with pytest.raises(ConfigError, match="has model.kind=encoder and data.source=markov"):
        samples.judge_samples(None, None, plan)

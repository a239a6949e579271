"""Special tokens: the tokenizer's own numbers are used, what it lacks comes behind its vocabulary."""

from __future__ import annotations

import json

import numpy as np
import pytest
from small_run import preset, small_plan

from scaling.study.errors import ConfigError, DataError
from scaling.study.plan import make_plan
from scaling.study.specials import read_specials
from scaling.training.data.store import TokenStore
from scaling.training.objectives import build_objective

BERT, T5 = preset("bert"), preset("t5")
# numbers as in the released files, at the vocabulary of a test: BERT's come first, T5's sentinels
# last and counting down (transformers' T5Tokenizer: <extra_id_0> is the last entry)
BERT_TOKENS = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "[MASK]": 4}
T5_TOKENS = {"<pad>": 0, "</s>": 1, "<unk>": 2} | {f"<extra_id_{i}>": 31 - i for i in range(4)}


def tokenizer(folder, tokens):
    folder.mkdir(parents=True, exist_ok=True)
    added = [{"id": number, "content": text, "special": True} for text, number in tokens.items()]
    (folder / "tokenizer.json").write_text(json.dumps({"added_tokens": added}), encoding="utf-8")
    return str(folder)


def batch(plan, rows=6):
    """What the objective makes of windows of a store of the tokens 8 to 20."""
    tokens = np.random.default_rng(0).integers(8, 20, size=2000, dtype=np.uint32)
    store = TokenStore(shards=(tokens,), vocab=plan.config.data.vocab, sha256="")
    keys = np.arange(rows, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    return build_objective(plan).make(store, np.arange(rows) * 40, keys)


def test_numbers_of_a_tokenizer_are_used_and_the_model_grows_by_none(tmp_path):
    name = tokenizer(tmp_path / "bert", BERT_TOKENS)
    plan = small_plan(tmp_path, **BERT, **{"data.tokenizer": name, "objective.next_sentence": True})
    assert plan.shape.vocab == plan.config.data.vocab
    assert plan.config.objective.specials == {"mask": 4, "cls": 2, "sep": 3}
    inputs, _ = batch(plan)
    assert (inputs[:, 0] == 2).all() and (inputs == 4).any() and ((inputs == 3).sum(1) == 2).all()
    # planned again from what it saved, with the tokenizer gone, it is the same run
    (tmp_path / "bert" / "tokenizer.json").unlink()
    assert make_plan(plan.config).run_id == plan.run_id


def test_what_a_tokenizer_lacks_comes_behind_its_vocabulary(tmp_path):
    name = tokenizer(tmp_path / "half", {"[MASK]": 4, "[UNK]": 1})
    plan = small_plan(tmp_path, **BERT, **{"data.tokenizer": name, "objective.next_sentence": True})
    assert plan.layout.numbers(32) == {"mask": 4, "cls": 32, "sep": 33}
    assert plan.shape.vocab == 34
    assert small_plan(tmp_path, **BERT).shape.vocab == 33  # of no folder: one mask, as ever


def test_sentinels_may_count_down_and_marks_agree_on_both_sides(tmp_path):
    name = tokenizer(tmp_path / "t5", T5_TOKENS)
    plan = small_plan(tmp_path, **T5, **{"data.tokenizer": name, "objective.rate": 0.25})
    numbers = plan.layout.numbers(32)
    assert [numbers[f"span_{i}"] for i in range(5)] == [31, 30, 29, 28, 32]  # the fifth is ours
    assert (numbers["start"], numbers["end"]) == (0, 1)
    inputs, targets = batch(plan)
    source = plan.shape.source
    for row, wanted in zip(inputs, targets, strict=True):
        marks = [t for t in row[:source] if t >= 28]
        assert marks == [31, 30, 29][: len(marks)] == [t for t in wanted[source:] if t >= 28]
        assert row[source] == 0 and row[source - 1] == wanted[-1] == 1


def test_numbers_that_are_named_go_before_the_folder(tmp_path):
    name = tokenizer(tmp_path / "bert", BERT_TOKENS)
    for given, expected in (({"mask": 7}, 7), ({}, 32)):
        changes = {"data.tokenizer": name, "objective.specials": given}
        assert small_plan(tmp_path, **BERT, **changes).layout.numbers(32) == {"mask": expected}


def test_decoders_look_at_no_special_token(tmp_path):
    name = tokenizer(tmp_path / "bert", BERT_TOKENS)
    plan = small_plan(tmp_path, **{"data.tokenizer": name})
    assert plan.config.objective.specials is None and plan.shape.vocab == 32
    named = small_plan(tmp_path, **{"data.tokenizer": name, "objective.specials": {"mask": 4}})
    assert named.hash == plan.hash


@pytest.mark.parametrize(
    ("specials", "message"),
    [
        ({"mask": 32}, r"objective.specials.mask=32: the tokenizer has the numbers 0 to 31"),
        ({"mask": 4, "cls": 4}, "mask and cls are both 4"),
        ({"msk": 4}, "objective.specials.msk: no such token. Name one of mask, cls"),
    ],
)
def test_numbers_that_cannot_be_are_refused(tmp_path, specials, message):
    with pytest.raises(ConfigError, match=message):
        small_plan(tmp_path, **BERT, **{"objective.specials": specials})


def test_a_file_that_is_no_tokenizer_is_refused_with_the_cure(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(DataError, match=r"objective\.specials\.mask=4"):
        read_specials(str(tmp_path))

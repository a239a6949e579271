"""Tasks with a known answer: each answer found again from the tree, ceilings, independence of size."""

from __future__ import annotations

import math

import numpy as np
import pytest

from scaling.study.config import DataConfig
from scaling.training.data import prepare
from scaling.training.data.tasks import TRAIN, VAL, Task, best_scores


def task(source, **changes):
    values = {"vocab": 16, "rules": 4, "depth": 3, "levels": 2} | changes
    return Task(DataConfig(source=source, **values))


def tree(grammar, words, depth):
    """Return the tree of a sentence as (symbol, rule, left, right), found from its words alone."""
    if len(words) == 1:
        return int(words[0]), None, None, None
    half = len(words) // 2
    left, right = (tree(grammar, part, depth + 1) for part in (words[:half], words[half:]))
    for symbol in range(grammar.vocab):  # the one whose rules have this pair
        for rule in range(len(grammar.p)):
            level = grammar.levels[depth]
            if (level.left[symbol, rule], level.right[symbol, rule]) == (left[0], right[0]):
                return symbol, rule, left, right
    raise AssertionError("no such pair")


def height(node):
    return 0 if node[1] is None else 1 + height(node[2])


def test_a_label_is_the_root(tmp_path):
    made = task("classify", classes=5)
    for text, label in list(made.pairs(TRAIN, 400)):
        assert label[0] == tree(made.grammar, text, 0)[0] % 5


def test_a_summary_is_the_symbols_above(tmp_path):
    made = task("summarize")

    def above(node):
        return [node[0]] if height(node) == 2 else above(node[2]) + above(node[3])

    for text, summary in list(made.pairs(TRAIN, 400)):
        trees = [tree(made.grammar, s, 0) for s in text.reshape(-1, 8)]
        assert list(summary) == [s for t in trees for s in above(t)]


@pytest.mark.parametrize("levels", [0, 1, 3])
def test_a_translation_exchanges_halves_by_their_rule(levels):
    made = task("translate", levels=levels)

    def write(node):
        if node[1] is None:
            return [int(made.code[node[0]])]
        left, right = write(node[2]), write(node[3])
        return right + left if node[1] % 2 and height(node) <= levels else left + right

    moved = 0
    for text, written in list(made.pairs(TRAIN, 400)):
        trees = [tree(made.grammar, s, 0) for s in text.reshape(-1, 8)]
        assert list(written) == [w for t in trees for w in write(t)]
        moved += int((written != made.code[text]).sum())
    assert (moved > 0) == (levels > 0)


def test_texts_have_one_to_three_sentences():
    lengths = np.array([len(t) // 8 for t, _ in task("translate").pairs(TRAIN, 30_000)])
    shares = np.bincount(lengths, minlength=4)[1:] / len(lengths)
    # about 940 draws, standard error .015 each; three of them
    assert np.abs(shares - 1 / 3).max() < 0.046


def test_labels_drawn_at_random_lower_the_ceiling_to_what_is_stated():
    made, clean = (task("classify", classes=4, noise=e) for e in (0.4, 0.0))
    pairs = list(zip(made.pairs(TRAIN, 40_000), clean.pairs(TRAIN, 40_000), strict=True))
    agree = np.mean([noisy[1][0] == true[1][0] for noisy, true in pairs])
    best = best_scores(made.config)
    # 4,444 texts: standard error .0069; three of them
    assert agree == pytest.approx(best["accuracy"], abs=0.021)
    assert best["accuracy"] == pytest.approx(0.7)
    assert best["loss"] == pytest.approx(-(0.7 * math.log(0.7) + 0.3 * math.log(0.1)))


def test_more_pairs_begin_as_fewer_do_and_streams_differ():
    made = task("translate")
    few, many, other = list(made.pairs(TRAIN, 300)), list(made.pairs(TRAIN, 900)), list(made.pairs(VAL, 300))  # fmt: skip
    assert all((a == c).all() and (b == d).all() for (a, b), (c, d) in zip(few, many, strict=False))
    assert not np.array_equal(few[0][0], other[0][0])


def test_a_pair_takes_a_place_whatever_its_length(tmp_path):
    config = DataConfig(source="translate", vocab=16, rules=4, depth=2, size=3000, val_tokens=600, cache=str(tmp_path))  # fmt: skip
    data = prepare(config, context=26)
    count = len(data.train.lengths)
    assert len(data.train) == 26 * count + 1 == data.unique_tokens
    assert data.val_tokens == 26 * len(data.val.lengths)
    again = prepare(config, context=30)
    assert again.unique_tokens == 30 * count + 1 and again.data_hash == data.data_hash
    made = Task(config)
    expected = list(made.pairs(TRAIN, 3000))
    for i in (0, 7, count - 1):
        for part in (0, 1):
            words, length = data.train.read(np.array([26 * i]), part=part, most=12)
            assert (words[0, : length[0]] == expected[i][part]).all()


def test_two_alphabets_write_the_same_sentences_and_each_is_a_group(tmp_path):
    values = {
        "source": "classify",
        "classes": 5,
        "rules": 4,
        "depth": 3,
        "size": 4000,
        "val_tokens": 900,
    }
    mixed = DataConfig(**values, vocab=32, second_share=0.25, cache=str(tmp_path))
    made, plain = Task(mixed), Task(DataConfig(**values, vocab=16))
    texts = list(made.pairs(TRAIN, 4000))
    second = np.array([text.min() >= 16 for text, _ in texts])
    assert all(
        (text.max() < 16) != is_second for (text, _), is_second in zip(texts, second, strict=True)
    )
    # 444 texts: four standard errors of a share of a quarter are 0.08
    assert abs(second.mean() - 0.25) < 0.08
    for (text, label), (same, its) in zip(texts, plain.pairs(TRAIN, 4000), strict=True):
        assert (text % 16 == same).all() and label == its
    data = prepare(mixed, context=9)
    assert [held.group for held in data.sets] == ["first", "second"]

"""English and Chinese of equal meaning: exact entropies, the share, and held-out texts by language."""

from __future__ import annotations

import math

import numpy as np
import pytest
from small_run import small_plan

from scaling.study.config import DataConfig
from scaling.study.errors import ConfigError
from scaling.training.data import prepare
from scaling.training.data.bilingual import LAST, BilingualSource
from scaling.training.data.lexicon import LANGUAGES, ORDER, SLOTS, spell

SENTENCE = sum(  # nats: Zipf's law over 24, 64, 16, 32 and 64 words
    -sum(w / z * math.log(w / z) for w in (1 / i for i in range(1, n + 1)))
    for n, z in ((n, sum(1 / i for i in range(1, n + 1))) for n in (24, 64, 16, 32, 64))
)


def _text(source, length=300_000, stream=1, **more):
    return np.concatenate([tokens for tokens, _ in source.text(stream, length, **more)])


def _documents(text):
    """The whole documents of a text, as strings."""
    return bytes(text.astype(np.uint8)).decode("utf-8", errors="replace").split("\0")[:-1]


def test_no_word_of_a_slot_begins_another():
    for language, slots in ORDER.items():
        for slot in slots:
            words = spell(language, slot)
            assert len(set(words)) == len(SLOTS[slot])
            assert not [(a, b) for a in words for b in words if a != b and b.startswith(a)]


@pytest.mark.parametrize("share", [0.5, 0.05])
def test_cross_entropy_of_a_sample_is_the_stated_entropy(share):
    source = BilingualSource(share=share, seed=0)
    logprob = source.logprob(_text(source))
    blocks = -logprob[: len(logprob) // 2048 * 2048].reshape(-1, 2048).mean(axis=1)
    error = blocks.std(ddof=1) / math.sqrt(len(blocks))
    assert abs(blocks.mean() - source.entropy_rate) < 4 * error  # once in 16,000 seeds


def test_a_sentence_has_one_entropy_in_both_languages():
    source = BilingualSource(share=0.3, seed=1)
    assert source.sentence_entropy == pytest.approx(SENTENCE, abs=1e-9)
    for language in LANGUAGES:
        text = _text(source, language=language)
        cost = -source.logprob(text).sum()
        sentences, documents = (text == ord("\n")).sum(), (text == 0).sum()
        cost += documents * math.log(
            source.language_p[language]
        )  # which language is not its matter
        ending = -(LAST * math.log(LAST) + (1 - LAST) * math.log1p(-LAST)) / LAST
        # A sentence's -log p has an SD of 2.8 nats (five Zipf draws), over 6,000 sentences 0.04; how
        # many documents they make adds sqrt(8) 1.9 nats a document over 800 documents. Four errors.
        assert cost / sentences == pytest.approx(SENTENCE + LAST * ending, abs=0.16)


@pytest.mark.parametrize("share", [0.5, 0.02])
def test_share_is_the_share_of_chinese_bytes(share):
    source = BilingualSource(share=share, seed=0)
    documents = _documents(_text(source, 2_000_000))
    chinese = sum(len(d.encode()) for d in documents if "。" in d)
    found = chinese / sum(len(d.encode()) for d in documents)
    # Documents have 340 bytes on average and their lengths are geometric, so that 5,800 of them tell
    # a share p to sqrt(2 p (1-p) / 5800). Four errors.
    assert abs(found - share) < 4 * math.sqrt(2 * share * (1 - share) / 5800)


def test_document_is_in_one_language_and_reads_as_sentences():
    documents = _documents(_text(BilingualSource(share=0.5, seed=0)))
    assert {("The " in d, "。" in d) for d in documents} == {(True, False), (False, True)}
    one = next(d for d in documents if "。" in d).splitlines()[0]
    assert "的" in one and "在" in one and one.endswith("。")


def test_languages_say_the_same_meanings():
    """One stream draws one sequence of meanings, whichever language says it."""
    source = BilingualSource(share=0.5, seed=0)
    english, chinese = (_text(source, 20_000, language=name) for name in LANGUAGES)
    nouns = dict(SLOTS["noun"])
    pairs = list(zip(_documents(english), _documents(chinese), strict=False))
    for one, other in pairs:
        for left, right in zip(one.splitlines(), other.splitlines(), strict=True):
            assert f"的{nouns[left.split()[2]]}在" in right
    assert len(pairs) > 20


def test_text_is_a_function_of_seed_and_stream():
    source = BilingualSource(share=0.2, seed=0)
    assert np.array_equal(
        _text(source, 3000), _text(BilingualSource(share=0.2, seed=0), 9000)[:3000]
    )
    assert not np.array_equal(_text(source, 3000), _text(source, 3000, stream=0))


def test_text_of_another_source_has_no_probability():
    source = BilingualSource(share=0.2, seed=0)
    with pytest.raises(ValueError, match="byte 65 at 4"):
        source.logprob(np.frombuffer(b"The A", np.uint8))


def test_share_of_one_language_alone_is_refused():
    with pytest.raises(ConfigError, match="data.share=0: "):
        BilingualSource(share=0.0, seed=0)


def test_prepared_text_has_a_slice_of_each_language(tmp_path):
    config = DataConfig(
        source="bilingual", share=0.1, size=50_000, val_tokens=20_000, cache=str(tmp_path)
    )
    data = prepare(config, context=64)
    english, chinese = data.sets
    assert (english.name, chinese.name) == LANGUAGES
    assert (english.share, chinese.share) == (0.9, 0.1)
    assert len(english.val) == len(chinese.val) == len(chinese.true_logprob) == 20_001
    assert len(chinese.document_ends) > 40 and len(data.document_ends) > 40
    assert chinese.characters_per_token == pytest.approx(
        0.37, abs=0.02
    )  # three bytes to a character
    assert english.characters_per_token == 1.0
    other = prepare(DataConfig(source="bilingual", share=0.5, size=50_000, val_tokens=20_000, cache=str(tmp_path)), context=64)  # fmt: skip
    assert [s.data_hash for s in other.sets] == [s.data_hash for s in data.sets]
    assert other.data_hash != data.data_hash


def test_share_is_part_of_a_run_where_it_is_read(tmp_path):
    def hashed(**changes):
        return small_plan(tmp_path, **{k.replace("_", ".", 1): v for k, v in changes.items()}).hash

    assert hashed(data_source="repeats", data_share=0.1) == hashed(data_source="repeats")
    bilingual = {"data_source": "bilingual", "data_vocab": 256}
    assert hashed(**bilingual, data_share=0.1) != hashed(**bilingual)

"""Tokenizers: round trips, end of text, vocabulary."""

from __future__ import annotations

import json

import numpy as np
import pytest

from scaling.study.config import DataConfig
from scaling.study.errors import ConfigError, DataError
from scaling.training.data import prepare
from scaling.training.data.tokenizers import (
    ByteTokenizer,
    check_vocab,
    encode_documents,
    load_tokenizer,
    train_bpe,
)

CHINESE = "天地玄黄，宇宙洪荒。日月盈昃，辰宿列张。𠀀 and English, naïve café 🙂\n\ttabs  spaces"
TEXTS = [f"{CHINESE} {i}" for i in range(50)]


@pytest.fixture
def hf_folder(tmp_path):
    """A tokenizer.json folder as Hugging Face saves it, with its end-of-text token elsewhere."""
    import tokenizers as hf

    backend = hf.Tokenizer(hf.models.BPE())
    backend.pre_tokenizer = hf.pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = hf.decoders.ByteLevel()
    trainer = hf.trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<pad>", "<stop>"],
        initial_alphabet=hf.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(TEXTS, trainer)
    folder = tmp_path / "tok"
    folder.mkdir()
    backend.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": {"content": "<stop>"}}))
    return folder


@pytest.mark.parametrize("kind", ["bytes", "bpe", "folder"])
def test_chinese_text_survives_a_round_trip(kind, hf_folder):
    tokenizer = (
        train_bpe(TEXTS, vocab=300)
        if kind == "bpe"
        else load_tokenizer("bytes" if kind == "bytes" else str(hf_folder))
    )
    (tokens,) = tokenizer.encode([CHINESE])
    assert tokenizer.decode(tokens) == CHINESE
    assert tokens.max() < tokenizer.vocab


@pytest.mark.parametrize("kind", ["bytes", "bpe", "folder"])
def test_chinese_text_survives_the_store(kind, hf_folder, tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_text(
        "".join(json.dumps({"text": text}) + "\n" for text in TEXTS * 3), encoding="utf-8"
    )
    name, vocab = {"bytes": ("bytes", 256), "bpe": ("bpe", 300), "folder": (str(hf_folder), 300)}[
        kind
    ]
    config = DataConfig(
        source="text",
        path=str(path),
        tokenizer=name,
        vocab=vocab,
        val_tokens=300,
        cache=str(tmp_path / "c"),
    )
    data = prepare(config, context=16)
    folder = next((tmp_path / "c").iterdir())
    tokenizer = load_tokenizer(str(folder) if kind == "bpe" else name)
    end = tokenizer.end_of_text
    tokens = np.split(
        data.train[0 : len(data.train)], np.flatnonzero(data.train[0 : len(data.train)] == end) + 1
    )
    documents = [tokenizer.decode(part[:-1]) for part in tokens[:-1]]
    assert documents and set(documents) < set(TEXTS)
    assert data.tokenizer == name and data.vocab == vocab


def test_bytes_per_token_counts_the_held_out_text(hf_folder, tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_text(
        "".join(json.dumps({"text": f"{i} " + "word " * 50}) + "\n" for i in range(100))
    )
    config = DataConfig(
        source="text",
        path=str(path),
        tokenizer=str(hf_folder),
        vocab=300,
        val_tokens=500,
        cache=str(tmp_path / "c"),
    )
    data = prepare(config, context=16)
    tokenizer = load_tokenizer(str(hf_folder))
    tokens = data.val[0 : len(data.val)]
    size = len(tokenizer.decode(tokens).encode()) + np.sum(tokens == tokenizer.end_of_text)
    assert data.bytes_per_token == pytest.approx(
        size / len(tokens), rel=0.02
    )  # the last document is cut


def test_documents_are_closed_by_end_of_text(hf_folder):
    for tokenizer, end in ((ByteTokenizer(), 0), (load_tokenizer(str(hf_folder)), 1)):
        tokens = np.concatenate(list(encode_documents(tokenizer, ["one", "two"])))
        assert tokenizer.end_of_text == end
        assert np.sum(tokens == end) == 2 and tokens[-1] == end


def test_bpe_training_is_deterministic():
    assert (
        train_bpe(TEXTS, vocab=280).backend.to_str() == train_bpe(TEXTS, vocab=280).backend.to_str()
    )


def test_bpe_never_sees_held_out_text(tmp_path):
    """The saved tokenizer is what the training documents alone give, and not what all give."""
    rng = np.random.default_rng(0)
    texts = [
        "".join(chr(97 + c) for c in rng.integers(0, 26, 6)) + " " + CHINESE for _ in range(40)
    ]
    path = tmp_path / "t.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    config = DataConfig(
        source="text", path=str(path), tokenizer="bpe", vocab=330, val_tokens=300, cache=str(tmp_path / "c")
    )  # fmt: skip
    data = prepare(config, context=16)
    saved = load_tokenizer(str(next((tmp_path / "c").iterdir())))
    tokens = data.train[0 : len(data.train)]
    ends = np.flatnonzero(tokens == saved.end_of_text)
    training = [saved.decode(part) for part in np.split(tokens, ends + 1)[:-1]]
    assert 0 < len(training) < len(texts)
    assert train_bpe(training, vocab=330).backend.to_str() == saved.backend.to_str()
    assert train_bpe(texts, vocab=330).backend.to_str() != saved.backend.to_str()


def test_vocabulary_that_does_not_fit_is_answered(hf_folder, tmp_path):
    with pytest.raises(ConfigError, match=r"data.vocab=512, .* has 300 tokens"):
        check_vocab(load_tokenizer(str(hf_folder)), 512)
    with pytest.raises(ConfigError, match=r"data\.vocab=200"):
        train_bpe(TEXTS, vocab=200)
    with pytest.raises(DataError, match="yields only"):
        train_bpe(["aaa"], vocab=5000)


def test_unreadable_tokenizer_is_answered(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(DataError, match=r"is not a tokenizer\.json"):
        load_tokenizer(str(tmp_path))
    with pytest.raises(DataError, match=r"data.tokenizer='nobody/nothing'"):
        load_tokenizer("nobody/nothing")

"""Sources whose truth is known: every token comes with the probability it was drawn with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from scaling.study.config import DataConfig
from scaling.study.errors import ConfigError
from scaling.training.data.bilingual import BilingualSource
from scaling.training.data.chain import sample_chain
from scaling.training.data.corpus import ENDS, Progress
from scaling.training.data.documents import END_OF_TEXT, DocumentPool
from scaling.training.data.grammar import GrammarSource
from scaling.training.data.lexicon import LANGUAGES
from scaling.training.data.ngram import NgramModel, build_ngram
from scaling.training.data.randomness import draw, entropy_of, hash_table, uniforms, zipf
from scaling.training.data.repeats import RepeatSource
from scaling.training.data.slices import write_slice
from scaling.training.data.sources import stdlib_documents
from scaling.training.data.store import write_store

VAL, TRAIN = 0, 1  # streams: independent texts of one source
MARKOV_VOCAB = 8192  # the table of next tokens has vocab^2 entries: 128 MiB


class Source(Protocol):
    """A random text with exactly known probabilities."""

    entropy_rate: float | None  # nats/token in closed form; None: estimated on the training text
    source_hash: str

    def text(self, stream: int, length: int) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
        """Yield a text in pieces: tokens and their log p [nats], None where not at hand.

        Token i depends on the source, its seed and the stream; a longer text begins like a shorter.
        """
        ...

    def logprob(self, tokens: np.ndarray) -> np.ndarray:
        """Return log p [nats] of each token of a text given all tokens before it."""
        ...


def build_generated(config: DataConfig, folder: Path, *, on_progress: Progress) -> dict[str, Any]:
    """Write the stores `train` and `val` and log p_true of the held-out tokens into a folder.

    Returns:
        What the manifest says of it, entropy rate included.
    """
    source = make_source(config, folder, on_progress=on_progress)
    entropy = EntropyMeter()
    wanted = int(config.val_tokens) + 1
    val = np.concatenate([tokens for tokens, _ in source.text(VAL, wanted)])
    write_store(folder, "val", [val], vocab=config.vocab)
    np.save(folder / "true_logprob.npy", source.logprob(val).astype(np.float32))
    train = _watch(source.text(TRAIN, int(config.size)), int(config.size), entropy, on_progress)
    write_store(folder, "train", train, vocab=config.vocab)
    slices = _write_languages(source, config, folder, val)
    return {
        "tokenizer": "bytes" if config.source in ("ngram", "bilingual") else "none",
        "slices": slices,
        "bytes_per_token": 1.0,  # symbols that are not text count as one byte
        "source_hash": source.source_hash,
        **(_exactly(source.entropy_rate) if source.entropy_rate else entropy.summary()),
    }


def _write_languages(
    source: Source, config: DataConfig, folder: Path, val: np.ndarray
) -> list[dict[str, Any]]:
    """Write where documents end, and a held-out text of each language; only the bilingual source has any.

    The texts of the languages do not depend on the share, so that runs of all shares are judged by
    the same documents.
    """
    if not isinstance(source, BilingualSource):
        return []
    np.save(folder / ENDS, _ends(val))
    slices, limit = [], int(config.val_tokens) + 1
    for number, language in enumerate(LANGUAGES):
        pieces = source.text(TRAIN + 1 + number, limit, language=language)
        text = np.concatenate([tokens for tokens, _ in pieces])
        characters = int((text & 0xC0 != 0x80).sum())  # bytes that begin one
        slices.append(
            write_slice(
                folder, number, np.split(text, _ends(text)), group=language, vocab=config.vocab, limit=limit,
                bytes_per_token=1.0, characters_per_token=characters / len(text),
                share=config.share if language == "zh" else 1 - config.share, logprob=source.logprob(text),
            )
        )  # fmt: skip
    return slices


def _ends(text: np.ndarray) -> np.ndarray:
    """Return where documents end, each with a byte 0, before the end of the text."""
    return np.flatnonzero(text[:-1] == ord(END_OF_TEXT)) + 1


def _exactly(entropy_rate: float) -> dict[str, Any]:
    return {
        "entropy_rate": float(entropy_rate),
        "entropy_rate_se": 0.0,
        "entropy_method": "closed form",
    }


def make_source(config: DataConfig, folder: Path, *, on_progress: Progress) -> Source:
    """Return the generated source a configuration names.

    Raises:
        ConfigError: the vocabulary or the tokenizer does not go with the source.
    """
    seed, vocab = config.source_seed, config.vocab
    if config.source == "ngram":
        on_progress("counting the standard library", 0.0)
        return NgramSource(build_ngram(_library_text(folder), order=config.order), seed=seed)
    if config.source == "bilingual":
        return BilingualSource(share=config.share, seed=seed)
    if config.source == "unigram":
        return UnigramSource(vocab, seed=seed)
    if config.source == "markov":
        return MarkovSource(vocab, seed=seed)
    if config.source == "repeats":
        return RepeatSource(vocab, seed=seed)
    return GrammarSource(vocab, rules=config.rules, depth=config.depth, seed=seed)


class UnigramSource:
    """Independent tokens with Zipf's law: p(i) ∝ 1 / (i + 1)."""

    def __init__(self, vocab: int, *, seed: int):
        """Make the source of one vocabulary size and seed."""
        self.p = zipf(vocab)
        self.seed = seed
        self.entropy_rate: float | None = entropy_of(self.p)
        self.source_hash = hash_table(self.p)

    def text(self, stream: int, length: int) -> Iterator[tuple[np.ndarray, None]]:
        """Yield a text of one stream."""
        for uniform in uniforms(self.seed, stream, length):
            yield draw(self.p, uniform), None

    def logprob(self, tokens: np.ndarray) -> np.ndarray:
        """Return log p of each token [nats]."""
        return np.log(self.p)[tokens]


class MarkovSource:
    """Each token decides the next: every row of the table is Zipf's law in an order of its own.

    All rows have the same entropy, which therefore is the entropy rate whatever the row's share.
    The text follows a token 0 that is not part of it.
    """

    def __init__(self, vocab: int, *, seed: int):
        """Make the source of one vocabulary size and seed."""
        if vocab > MARKOV_VOCAB:
            raise ConfigError(
                f"data.vocab={vocab}: source=markov keeps a table of vocab^2. Set data.vocab to "
                f"{MARKOV_VOCAB} or less."
            )
        self.seed = seed
        self.p = zipf(vocab)
        rows = np.tile(np.arange(vocab, dtype=np.uint16), (vocab, 1))
        self.next = np.random.default_rng([seed, 2]).permuted(rows, axis=1)  # [token, rank] -> next
        self.entropy_rate: float | None = entropy_of(self.p)
        self.source_hash = hash_table(self.p, self.next)
        # The least frequent token's probability is common to all entries of all rows. That share
        # of draws ignores the present token, which makes chains meet within some steps.
        self.shared = vocab * self.p[-1]
        self.edges = np.cumsum((self.p - self.p[-1]) / (1 - self.shared))

    def step(self, state: np.ndarray, uniform: np.ndarray) -> tuple[np.ndarray, ...]:
        """Draw the next token of each chain."""
        vocab = len(self.p)
        free = (uniform / self.shared * vocab).astype(np.int64)
        rank = np.searchsorted(
            self.edges, (uniform - self.shared) / (1 - self.shared), side="right"
        )
        bound = self.next[state, np.minimum(rank, vocab - 1)].astype(np.int64)
        token = np.where(uniform < self.shared, np.minimum(free, vocab - 1), bound)
        return token, token.astype(np.int32), np.ones(len(token))  # see logprob

    def text(self, stream: int, length: int) -> Iterator[tuple[np.ndarray, None]]:
        """Yield a text of one stream."""
        state = 0
        for uniform in uniforms(self.seed, stream, length):
            tokens, _, state = sample_chain(self.step, uniform, state)
            yield tokens, None

    def logprob(self, tokens: np.ndarray) -> np.ndarray:
        """Return log p of each token given the one before [nats]."""
        rank = np.argsort(self.next, axis=1)  # [token, next] -> rank
        return np.log(self.p)[rank[np.concatenate([[0], tokens[:-1]]), tokens]]


class NgramSource:
    """Bytes drawn from a Witten-Bell model; the text begins as after the end of a document."""

    entropy_rate: float | None = None

    def __init__(self, model: NgramModel, *, seed: int):
        """Make the source of one model and seed."""
        self.model = model
        self.seed = seed
        self.start = model.walk(np.frombuffer(END_OF_TEXT.encode(), np.uint8))
        self.source_hash = model.source_hash

    def text(self, stream: int, length: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield a text of one stream with log p of each byte [nats]."""
        state = self.start
        for uniform in uniforms(self.seed, stream, length):
            tokens, logprob, state = sample_chain(self.model.step, uniform, state)
            yield tokens, logprob

    def logprob(self, tokens: np.ndarray) -> np.ndarray:
        """Return log p of each byte given all before it [nats]."""
        return sample_chain(self._follow, tokens.astype(np.int64), self.start)[1]

    def _follow(self, state: np.ndarray, token: np.ndarray) -> tuple[np.ndarray, ...]:
        """Take the step that the text takes; the text stands in for uniform numbers."""
        return token, *self.model.look_up(state, token)


def _library_text(folder: Path) -> bytes:
    """Return the standard library in shuffled order, documents closed by the end-of-text byte."""
    pool = DocumentPool(stdlib_documents(), folder / "spool.tmp")
    texts = list(pool.read(np.arange(len(pool))))
    (folder / "spool.tmp").unlink()
    return "".join(text + END_OF_TEXT for text in texts).encode()


def _watch(
    pieces: Iterator[tuple[np.ndarray, np.ndarray | None]],
    size: int,
    entropy: EntropyMeter,
    on_progress: Progress,
) -> Iterator[np.ndarray]:
    """Pass tokens on, measure their entropy where log p is at hand, and report how far they are."""
    done = 0
    for tokens, logprob in pieces:
        yield tokens
        if logprob is not None:
            entropy.add(logprob)
        done += len(tokens)
        on_progress("sampling text", done / size)


class EntropyMeter:
    """Mean of -log p over a long text and its standard error from means over blocks.

    Blocks are much longer than the text's memory, so that their means are nearly independent.
    """

    BLOCK = 1 << 14  # tokens

    def __init__(self) -> None:
        """Start with nothing seen."""
        self.tokens = 0
        self._sum = 0.0
        self._blocks: list[np.ndarray] = []

    def add(self, logprob: np.ndarray) -> None:
        """Take in log p [nats] of a stretch of text."""
        self.tokens += len(logprob)
        self._sum -= float(np.sum(logprob))
        whole = len(logprob) // self.BLOCK * self.BLOCK
        self._blocks.append(-logprob[:whole].reshape(-1, self.BLOCK).mean(axis=1))

    def summary(self) -> dict[str, Any]:
        """Return the entropy rate, its standard error and how both were found."""
        return {
            "entropy_rate": self.mean,
            "entropy_rate_se": self.standard_error,
            "entropy_method": f"mean of -log p over {self.tokens} sampled tokens; "
            f"standard error from means of {self.BLOCK}",
        }

    @property
    def mean(self) -> float | None:
        """Nats per token; None if nothing was seen."""
        return self._sum / self.tokens if self.tokens else None

    @property
    def standard_error(self) -> float | None:
        """Standard error of the mean; None below eight blocks."""
        means = np.concatenate([*self._blocks, np.array([])])
        return float(np.std(means, ddof=1) / np.sqrt(len(means))) if len(means) >= 8 else None

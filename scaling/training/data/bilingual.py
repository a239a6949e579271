"""English and Chinese documents that mean the same things, mixed at a share, with exact entropies.

A meaning is drawn first: adjective, noun given adjective, place, verb given noun, object given
verb, each by Zipf's law in an order of its own for each word it depends on. Then it is said in the
document's language. Both languages say a meaning in one way only and never share a byte sequence,
so that a sentence has the same entropy in either: per byte, character or token they differ, per
sentence they do not. What differs between the languages is how much of them a run reads.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from scaling.study.errors import ConfigError
from scaling.training.data.documents import END_OF_TEXT
from scaling.training.data.lexicon import LANGUAGES, ORDER, SLOTS, spell
from scaling.training.data.randomness import draw, entropy_of, hash_table, uniforms, zipf

GIVEN = {"noun": "adjective", "verb": "noun", "object": "verb"}  # what a slot depends on
LAST = 1 / 8  # probability that a sentence is the last of its document
SENTENCES = 50_000  # drawn at a time; bounds memory
DRAWS = len(SLOTS) + 2  # uniform numbers of a sentence: its slots, whether it is last, the language


class BilingualSource:
    """Documents of sentences, each document in one language.

    Args:
        share: of the bytes that are Chinese, above 0 and below 1.
        seed: of the meanings and of the text.
    """

    def __init__(self, *, share: float, seed: int):
        if not 0 < share < 1:
            raise ConfigError(
                f"data.share={share:g}: the bilingual source has both languages. Set it above 0 and below 1."
            )
        self.seed = seed
        rng = np.random.default_rng([seed, 2])
        self.p = {slot: zipf(len(words)) for slot, words in SLOTS.items()}
        self.order = {  # [word it depends on, rank] -> word
            slot: rng.permuted(np.tile(np.arange(len(words)), (self._rows(slot), 1)), axis=1)
            for slot, words in SLOTS.items()
        }
        length = {language: self._document_bytes(language) for language in LANGUAGES}
        other = (1 - share) * length["zh"]
        self.chinese = share * length["en"] / (share * length["en"] + other)  # of the documents
        self.language_p = {"en": 1 - self.chinese, "zh": self.chinese}
        mean = sum(self.language_p[name] * length[name] for name in LANGUAGES)
        self.document_entropy = self.sentence_entropy / LAST + _binary(LAST) / LAST
        self.entropy_rate: float | None = (self.document_entropy + _binary(self.chinese)) / mean
        self.source_hash = hash_table(*self.order.values(), np.array([self.chinese]))

    @property
    def sentence_entropy(self) -> float:
        """Nats of a sentence given its language, the same in both: rows of one table are alike."""
        return sum(entropy_of(p) for p in self.p.values())

    def entropy(self, language: str) -> float:
        """Return the entropy of one language's documents [nats/byte], given the language."""
        return self.document_entropy / self._document_bytes(language)

    def text(
        self, stream: int, length: int, *, language: str | None = None
    ) -> Iterator[tuple[np.ndarray, None]]:
        """Yield a text of one stream in bytes; `language`: documents of this one only."""
        left, start = length, True
        chinese = {None: self.chinese, "en": 0.0, "zh": 1.0}[language]
        spoken = False  # of the document that goes on
        most = -(-length // SENTENCES) * SENTENCES  # a sentence has more than one byte
        for numbers in uniforms(self.seed, stream, most * DRAWS, size=SENTENCES * DRAWS):
            u = numbers.reshape(-1, DRAWS)
            last = u[:, -2] < LAST
            begins = np.concatenate([[start], last[:-1]])
            of = np.maximum.accumulate(np.where(begins, np.arange(len(u)), -1))
            in_chinese = np.where(of < 0, spoken, u[of, -1] < chinese)
            start, spoken = bool(last[-1]), bool(in_chinese[-1])
            piece = np.frombuffer(self._say(u, in_chinese, last), np.uint8)[:left]
            left -= len(piece)
            yield piece.astype(np.int32), None
            if not left:
                return

    def logprob(self, tokens: np.ndarray) -> np.ndarray:
        """Return log p of each byte given all before it [nats], of the mixture of both languages.

        Raises:
            ValueError: the bytes are no text of this source.
        """
        out = np.zeros(len(tokens))
        language: str | None = None  # null: a document begins
        slots: list[str] = []  # still to come in this sentence
        words: dict[str, int] = {}
        node = 0
        for i, byte in enumerate(np.asarray(tokens).tolist()):
            if not slots:
                if language is not None and byte == ord(END_OF_TEXT):
                    out[i], language = math.log(LAST), None
                    continue
                if language is None:
                    language = "en" if byte == ord("T") else "zh"
                    out[i] = math.log(self.language_p[language])
                elif i:
                    out[i] = math.log1p(-LAST)
                slots, words = list(ORDER[language]), {}
            assert language is not None
            tree = _tree(language, slots[0])
            mass = self._mass(language, slots[0], words.get(GIVEN.get(slots[0], ""), 0))
            step = tree["next"][node].get(byte)
            if step is None:
                raise ValueError(f"byte {byte} at {i} is no text of the bilingual source")
            out[i] += math.log(mass[step] / mass[node])
            node = step
            if not tree["next"][node]:
                words[slots.pop(0)], node = tree["word"][node], 0
        return out

    def _rows(self, slot: str) -> int:
        return len(SLOTS[GIVEN[slot]]) if slot in GIVEN else 1

    def _say(self, u: np.ndarray, in_chinese: np.ndarray, last: np.ndarray) -> bytes:
        """Return sentences as bytes; u is [n, DRAWS], its first columns draw the slots."""
        words: dict[str, np.ndarray] = {}
        for i, slot in enumerate(SLOTS):
            row = words[GIVEN[slot]] if slot in GIVEN else np.zeros(len(u), int)
            words[slot] = self.order[slot][row, draw(self.p[slot], u[:, i])]
        pieces = np.empty((len(u), len(SLOTS) + 1), object)
        for language, rows in (("en", ~in_chinese), ("zh", in_chinese)):
            for column, slot in enumerate(ORDER[language]):
                spelt = np.array(spell(language, slot), object)
                pieces[rows, column] = spelt[words[slot][rows]]
        pieces[:, -1] = b""
        pieces[last, -1] = END_OF_TEXT.encode()
        return b"".join(pieces.ravel().tolist())

    @functools.cache  # noqa: B019  one source per build
    def _mass(self, language: str, slot: str, row: int) -> np.ndarray:
        """Return [nodes] how probable it is that a word of the slot passes each node of its tree."""
        p = np.empty(len(SLOTS[slot]))
        p[self.order[slot][row]] = self.p[slot]
        return _tree(language, slot)["passes"] @ p

    def _document_bytes(self, language: str) -> float:
        """Return the expected bytes of a document, its end included."""
        marginal: dict[str, np.ndarray] = {}
        total = 0.0
        for slot in SLOTS:
            before = marginal[GIVEN[slot]] if slot in GIVEN else np.ones(1)
            marginal[slot] = np.zeros(len(SLOTS[slot]))
            np.add.at(marginal[slot], self.order[slot], before[:, None] * self.p[slot])
            total += float(marginal[slot] @ [len(word) for word in spell(language, slot)])
        return total / LAST + 1


def _binary(p: float) -> float:
    """Return the entropy of a yes or no [nats]."""
    return -p * math.log(p) - (1 - p) * math.log1p(-p)


@functools.cache
def _tree(language: str, slot: str) -> dict[str, Any]:
    """Return the words of a slot as a tree of bytes; node 0 is before the first byte.

    Returns:
        next: per node {byte: node}; word: the word that ends at a leaf; passes: [nodes, words].
    """
    following: list[dict[int, int]] = [{}]
    word, paths = {}, []
    for number, spelt in enumerate(spell(language, slot)):
        node, path = 0, [0]
        for byte in spelt:
            if byte not in following[node]:
                following[node][byte] = len(following)
                following.append({})
            node = following[node][byte]
            path.append(node)
        word[node] = number
        paths.append(path)
    passes = np.zeros((len(following), len(paths)))
    for number, path in enumerate(paths):
        passes[path, number] = 1.0
    return {"next": following, "word": word, "passes": passes}

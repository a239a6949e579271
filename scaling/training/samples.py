"""How good the text is that a model writes, as measures: against a source that is known, or by its words.

A model goes on from beginnings of held-out text, each token drawn from its own probabilities. Shapes
in names: B beginnings, T tokens.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from scaling.study.errors import ConfigError
from scaling.study.plan import RunPlan
from scaling.training.data import TokenData
from scaling.training.data.generated import Source, make_source
from scaling.training.data.tokenizers import Tokenizer
from scaling.training.generation import Decoding, write_tokens
from scaling.training.measures import find_tokenizer
from scaling.training.model import Transformer
from scaling.training.scores import Measure, measure

TEXTS, AT_ONCE = 256, 64  # beginnings; a quarter of them as one batch
BEGUN = 4  # a beginning has a quarter of the context
KNOWN = ("ngram", "markov", "unigram", "bilingual")  # sources that say the probability of any text
PLAIN = ("stdlib", "text")
READ = 4_000_000  # training tokens whose words are known words
_WORD = re.compile(r"[^\W\d_]{2,}")  # two letters or more, of any script


def judge_samples(model: Transformer, data: TokenData, plan: RunPlan) -> dict[str, Measure]:
    """Return measures of what a decoder writes behind held-out beginnings, at temperature 1.

    Of a source that is known: `sample_excess`, by how many nats a token that is written is less likely
    under the source than the token that really stands there (0: as likely; below 0 the model writes likelier text than the source);
    where the source rules texts out, `sample_possible`, the share of texts that it could have written. Of
    other text: `sample_words`, the share of words that occur in the training text, and `sample_distinct`, of
    pairs of neighbouring words that are different ones.

    Raises:
        ConfigError: the run is no decoder of text.
    """
    source = plan.config.data.source
    if plan.shape.kind != "decoder" or source not in (*KNOWN, *PLAIN):
        raise ConfigError(
            f"samples: {plan.run_id} has model.kind={plan.shape.kind} and data.source={source}; what is written can be judged of decoders "
            f"of {', '.join((*KNOWN, *PLAIN))}. Leave the run out."
        )
    begun, real = _beginnings(data, plan)
    written = _write(model, begun, tokens=real.shape[1])
    if source in PLAIN:
        return _by_words(written, data, find_tokenizer(plan.config.data))
    with tempfile.TemporaryDirectory() as folder:
        known = make_source(plan.config.data, Path(folder), on_progress=lambda *_: None)
    return _by_source(known, begun, written, real)


def _beginnings(data: TokenData, plan: RunPlan) -> tuple[np.ndarray, np.ndarray]:
    """Return held-out beginnings [B, T] and what really follows [B, T], together a context."""
    context = plan.shape.context
    starts = np.arange(0, len(data.val) - context, context)[:TEXTS]
    windows = data.val.windows(starts, context)
    cut = max(1, context // BEGUN)
    return windows[:, :cut], windows[:, cut:]


def _write(model: Transformer, begun_BT: np.ndarray, *, tokens: int) -> np.ndarray:
    rows: list[np.ndarray] = []
    for first in range(0, len(begun_BT), AT_ONCE):
        how = Decoding(tokens=tokens, temperature=1.0, seed=first)
        rows += write_tokens(model, list(begun_BT[first : first + AT_ONCE]), how)
    return np.stack(rows)


def _by_source(
    source: Source, begun: np.ndarray, written: np.ndarray, real: np.ndarray
) -> dict[str, Measure]:
    """Compare the true log-probabilities of what was written with those of what really follows."""
    cut = begun.shape[1]
    with np.errstate(divide="ignore"):
        ours, true = (
            np.array([source.logprob(np.concatenate(r))[cut:].mean() for r in zip(begun, text, strict=True)])
            for text in (written, real)
        )  # fmt: skip
    possible = np.isfinite(ours)
    share = float(possible.mean())
    found = {}
    if share == 1:
        gap = true - ours
        found["sample_excess"] = measure(float(gap.mean()), _error(gap), len(gap)) | {"better": "lower"}  # fmt: skip
    else:
        found["sample_possible"] = measure(share, _error(possible.astype(float)), len(possible))
    return found


def _by_words(written: np.ndarray, data: TokenData, tokenizer: Tokenizer) -> dict[str, Measure]:
    most = min(len(data.train), READ)
    known = set(_WORD.findall(tokenizer.decode(data.train.windows(np.array([0]), most)[0])))
    texts = [whole_words(tokenizer.decode(row)) for row in written]
    texts = [words for words in texts if words]
    shares = np.array([np.mean([word in known for word in words]) for words in texts])
    found = {}
    if len(shares):
        found["sample_words"] = measure(float(shares.mean()), _error(shares), len(shares))
    pairs = [pair for words in texts for pair in pairwise(words)]
    if pairs:
        found["sample_distinct"] = measure(len(set(pairs)) / len(pairs), None, len(pairs))
    return found


def whole_words(text: str) -> Sequence[str]:
    """Return the words of a text whose first and last may be cut: those are left out."""
    found = list(_WORD.finditer(text))
    return [m.group() for m in found if m.start() > 0 and m.end() < len(text)]


def _error(values: np.ndarray) -> float | None:
    return float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else None

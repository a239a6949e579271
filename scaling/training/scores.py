"""Scores of answers: accuracy and F1 of labels, BLEU, chrF and ROUGE of texts, with standard errors.

BLEU and chrF are `sacrebleu`'s, ROUGE is `rouge_score`'s; both come with the extra `measures`.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from scaling.study.errors import ScalingError

RESAMPLES = 200  # of a bootstrap: the standard error is itself known within 5 %
SEED = 12345
# characters that are words by themselves: Chinese, Japanese kana, and their punctuation
_WORDLESS = "\u3000-\u303f\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff00-\uffef"

Measure = dict[str, Any]


class MissingScores(ScalingError):
    """A library that scores texts is not installed."""


def measure(value: float, se: float | None, count: int, **more: Any) -> Measure:
    """Return what a record holds of a measure of which more is better."""
    error = None if se is None or not math.isfinite(se) else float(se)
    return {"value": float(value), "se": error, "n": count, "better": "higher", **more}


def score_share(right: np.ndarray) -> Measure:
    """Return a share of right answers with its binomial standard error; `right` is bool [n]."""
    share, count = float(np.mean(right)), len(right)
    return measure(share, math.sqrt(share * (1 - share) / count), count)


def score_labels(told: np.ndarray, true: np.ndarray, *, classes: int) -> dict[str, Measure]:
    """Return accuracy, and F1 as a mean over labels that are told or true.

    Args:
        told, true: int [n], labels below `classes`.
    """
    table = np.zeros((classes, classes))
    np.add.at(table, (true, told), 1)
    draws = np.random.default_rng(SEED).multinomial(len(true), table.ravel() / len(true), RESAMPLES)
    drawn = [_macro_f1(t.reshape(classes, classes)) for t in draws]
    error = float(np.std(drawn, ddof=1))
    return {
        "accuracy": score_share(told == true),
        "macro_f1": measure(_macro_f1(table), error, len(true)),
    }


def _macro_f1(table: np.ndarray) -> float:
    """Return the mean over labels of 2 hits / (told + true), of a table [true, told]."""
    both = table.sum(0) + table.sum(1)
    there = both > 0
    return float(np.mean(2 * np.diag(table)[there] / both[there]))


def score_texts(
    written: Sequence[str], wanted: Sequence[str], *, tokenize: str | None = None
) -> dict[str, Measure]:
    """Return BLEU, chrF (of 100), ROUGE-1, -2, -L (F1) and the share of texts that are right to the letter.

    Args:
        written, wanted: texts, one each.
        tokenize: sacrebleu's name of a tokenizer; null: `zh` where the wanted texts have Chinese
            characters, else `13a`. ROUGE takes such characters as words by themselves.

    Raises:
        MissingScores: sacrebleu or rouge_score is not installed.
    """
    try:
        from absl.logging import get_absl_handler
        from rouge_score.rouge_scorer import RougeScorer
        from sacrebleu.metrics import BLEU, CHRF
    except ImportError as error:
        raise MissingScores(
            f"measures: {error.name} is not installed, so texts are not scored. Install it, pip install 'scaling-lab[measures]', "
            "then `scaling evaluate RUN measures=true`."
        ) from None
    # rouge_score brings a log handler that closes the stream it began with, even one that somebody
    # had put in the place of stderr for a while, as notebooks and tests do
    get_absl_handler().python_handler.stream = sys.__stderr__
    tokenize = tokenize or ("zh" if any(is_wordless(text) for text in wanted) else "13a")
    out = {}
    for name, metric in (("bleu", BLEU(tokenize=tokenize)), ("chrf", CHRF())):
        # one text cannot be drawn anew
        drawn = RESAMPLES if len(wanted) > 1 else 1
        score = metric.corpus_score(list(written), [list(wanted)], n_bootstrap=drawn)
        se = score._ci / 1.96 if drawn > 1 else None  # half of the middle 95 %
        out[name] = measure(score.score, se, len(wanted), signature=str(metric.get_signature()))
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"], tokenizer=Words())
    rows = [scorer.score(a, b) for a, b in zip(wanted, written, strict=True)]
    for name in ("rouge1", "rouge2", "rougeL"):
        values = np.array([row[name].fmeasure for row in rows])
        se = float(np.std(values, ddof=1) / math.sqrt(len(values))) if len(values) > 1 else None
        out[f"rouge_{name[5:].lower()}"] = measure(float(values.mean()), se, len(values))
    right = np.array([a == b for a, b in zip(wanted, written, strict=True)])
    return out | {"exact_match": score_share(right)}


class Words:
    """Words for ROUGE: rouge_score's own where letters make words, else each character."""

    def tokenize(self, text: str) -> list[str]:
        """Return words in lower case, without punctuation."""
        return _WORD.findall(text.lower())


_WORD = re.compile(f"[a-z0-9]+|[{_WORDLESS}]")


def is_wordless(text: str) -> bool:
    """Return whether a text has characters that are words by themselves, as Chinese has."""
    return re.search(f"[{_WORDLESS}]", text) is not None

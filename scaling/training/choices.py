"""Multiple choice: the answer whose text a decoder finds likeliest behind the question.

Two measures each: by the sum of log-probabilities, and by that sum per character of the answer, which
does not favour short ones. Source: Gao et al., lm-evaluation-harness, whose acc and acc_norm they are like.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from scaling.study.errors import ConfigError, DataError
from scaling.study.plan import RunPlan
from scaling.training.data.texts import decode
from scaling.training.data.tokenizers import Tokenizer
from scaling.training.evaluate import EVAL_TOKENS
from scaling.training.model import Transformer
from scaling.training.scores import Measure, is_wordless, measure, score_share

EXAMPLE = '{"question": "2 + 2 =", "choices": ["3", "4"], "answer": 1}'


@dataclass(frozen=True)
class Question:
    """A question, what may be answered, and the number of the right answer, from 0."""

    text: str
    choices: tuple[str, ...]
    answer: int


def read_questions(path: str | Path) -> list[Question]:
    """Return the questions of a .jsonl file with the keys question, choices and answer.

    Raises:
        DataError: the file is not there or not of that kind; names the line.
    """
    file = Path(path).expanduser()
    if file.suffix != ".jsonl" or not file.is_file():
        raise DataError(f"{file}: no such .jsonl file. Each of its lines is like {EXAMPLE}.")
    questions = []
    for number, line in enumerate(decode(file, file.read_bytes()).split("\n"), 1):
        if line.strip():
            questions.append(_read(line, f"{file}, line {number}"))
    if not questions:
        raise DataError(f"{file}: no question in it. Each line is like {EXAMPLE}.")
    return questions


def _read(line: str, where: str) -> Question:
    try:
        row: Any = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(f"{where}: not JSON ({error.msg}). Write it like {EXAMPLE}.") from error
    row = row if isinstance(row, dict) else {}
    text, choices, answer = (row.get(key) for key in ("question", "choices", "answer"))
    texts = isinstance(choices, list) and all(isinstance(c, str) and c for c in choices)
    if not isinstance(text, str) or not text or not texts or len(choices) < 2:
        raise DataError(
            f"{where}: needs a question and two choices or more, all of them texts. Write it like {EXAMPLE}."
        )
    if not isinstance(answer, int) or isinstance(answer, bool) or not 0 <= answer < len(choices):
        raise DataError(
            f"{where}: answer is {answer!r}, not the number of a choice, 0 to {len(choices) - 1}. Write it like {EXAMPLE}."
        )
    return Question(text, tuple(choices), answer)


def score_choices(
    model: Transformer, questions: Sequence[Question], plan: RunPlan, tokenizer: Tokenizer
) -> dict[str, Measure]:
    """Return `accuracy` and `accuracy_norm` of the likeliest answers, with the share that guessing has.

    A question too long for the context loses its beginning.

    Raises:
        ConfigError: the run is no decoder of text.
    """
    if plan.objective != "next_token":
        raise ConfigError(
            f"{plan.run_id}: is trained for {plan.objective}. Multiple choice asks decoders that were trained on next tokens."
        )
    pairs = [(q.text, _join(q.text, c)) for q in questions for c in q.choices]
    logs = log_probabilities(model, pairs, plan, tokenizer)
    right, right_norm, first = [], [], 0
    for q in questions:
        part = logs[first : first + len(q.choices)]
        right.append(int(np.argmax(part)) == q.answer)
        per_character = part / np.array([len(c) for c in q.choices])
        right_norm.append(int(np.argmax(per_character)) == q.answer)
        first += len(q.choices)
    chance = float(np.mean([1 / len(q.choices) for q in questions]))
    found = {"accuracy": right, "accuracy_norm": right_norm}
    return {name: _with_chance(score_share(np.array(r)), chance) for name, r in found.items()}


def _with_chance(found: Measure, chance: float) -> Measure:
    return measure(found["value"], found["se"], found["n"], chance=chance)


def _join(question: str, choice: str) -> str:
    """Put a space between words; none where a script has none, or one is there."""
    joint = question[-1] + choice[0]
    return choice if any(c.isspace() for c in joint) or is_wordless(joint) else f" {choice}"


@torch.inference_mode()
def log_probabilities(
    model: Transformer, pairs: Sequence[tuple[str, str]], plan: RunPlan, tokenizer: Tokenizer
) -> np.ndarray:
    """Return log p [nats] of the second text of each pair behind the first, float64 [pairs]."""
    device, context = model.embedding.weight.device, plan.shape.context
    whole = tokenizer.encode([a + b for a, b in pairs])
    heads = tokenizer.encode([a for a, _ in pairs])
    model.eval()
    rows = max(1, EVAL_TOKENS.get(device.type, 4096) // context)
    out = np.zeros(len(pairs))
    for first in range(0, len(pairs), rows):
        part = range(first, min(first + rows, len(pairs)))
        tokens = [np.asarray(whole[i], np.int64)[-(context + 1) :] for i in part]
        # a token may span both texts; it counts as the answer's
        counts = [max(1, len(whole[i]) - _shared(heads[i], whole[i])) for i in part]
        width = max(map(len, tokens))
        batch = np.stack([np.pad(t, (0, width - len(t))) for t in tokens])
        x, y = (torch.as_tensor(a).to(device) for a in (batch[:, :-1], batch[:, 1:]))
        loss = model(x, y, reduction="none").double().cpu().numpy()
        for row, (i, t, n) in enumerate(zip(part, tokens, counts, strict=True)):
            out[i] = -loss[row, max(0, len(t) - 1 - n) : len(t) - 1].sum()
    return out


def _shared(a: np.ndarray, b: np.ndarray) -> int:
    """Return how many first tokens two texts share."""
    count = min(len(a), len(b))
    apart = np.flatnonzero(np.asarray(a[:count]) != np.asarray(b[:count]))
    return int(apart[0]) if len(apart) else count

"""Beam search: of the continuations that K beams can take, the K likeliest are followed.

At each step the 2 K likeliest continuations of a prompt's beams are looked at. Of the first K, those
that end (by the end-of-text token or at the last step) are finished, with the score
log-probability / tokens ** length_penalty; the K likeliest that do not end go on. A prompt is done
when K are finished and its best open beam, scored at its present length, is no better than the worst
of them. These are the rules of `transformers` with early_stopping=False (its documentation of
`generate`), so that results agree token for token.

Shapes in names: B prompts, K beams, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from scaling.training.generation import Decoding, batches, most_tokens, open_reader
from scaling.training.model import Transformer

NEVER = -1e9  # score of the beams that do not exist yet


@dataclass
class _Hypotheses:
    """The beams of one prompt: those that go on, and the finished ones with their scores."""

    beams: int
    open: list[list[int]] = field(default_factory=list)
    finished: list[tuple[float, list[int]]] = field(default_factory=list)
    done: bool = False

    def finish(self, score: float, tokens: list[int]) -> None:
        """Keep the K best; of equal ones the earlier."""
        self.finished.append((score, tokens))
        self.finished.sort(key=lambda pair: -pair[0])
        del self.finished[self.beams :]

    def close(self, best_open: float) -> None:
        """Call it done if no open beam looks better than the worst finished one."""
        full = len(self.finished) == self.beams
        self.done = self.done or (full and best_open <= self.finished[-1][0])


def search_beams(
    model: Transformer,
    prompts: Sequence[np.ndarray],
    how: Decoding,
    *,
    end: int | None = None,
    start: int | None = None,
    cache: bool = True,
) -> list[np.ndarray]:
    """Return the best continuation of each prompt; arguments as of `write_tokens`."""
    found: list[np.ndarray] = [np.zeros(0, np.int64)] * len(prompts)
    for group in batches(model, prompts):
        # every beam of a prompt is a row; at first all are the prompt itself, and one of them counts
        rows = [prompts[i] for i in group for _ in range(how.beams)]
        best = _search(model, rows, how, end=end, start=start, cache=cache)
        for i, tokens in zip(group, best, strict=True):
            found[i] = np.array([t for t in tokens if t != end], np.int64)
    return found


@torch.inference_mode()
def _search(
    model: Transformer,
    rows: Sequence[np.ndarray],
    how: Decoding,
    *,
    end: int | None,
    start: int | None,
    cache: bool,
) -> list[list[int]]:
    K, B, V = how.beams, len(rows) // how.beams, model.shape.vocab
    reader = open_reader(model, rows, start=start, cache=cache)
    prompts = [_Hypotheses(K, open=[[]] * K) for _ in range(B)]
    scores_BK = torch.zeros(B, K, device=reader.device)
    scores_BK[:, 1:] = NEVER
    logits_NV = reader.read()
    count = most_tokens(model.shape, how.tokens)
    for length in range(1, count + 1):
        # 1. the likeliest continuations of each prompt's beams
        log_p_BKV = logits_NV.float().log_softmax(-1).view(B, K, V) + scores_BK.unsqueeze(2)
        top_BJ, at_BJ = log_p_BKV.view(B, K * V).topk(min(2 * K, K * V))
        # 2. which of them end, and which go on
        parents, tokens, scores = [], [], []
        last = length == count
        for b, prompt in enumerate(prompts):
            kept = _divide(prompt, top_BJ[b].tolist(), at_BJ[b].tolist(), V, how, length=length, end=end, last=last)  # fmt: skip
            parents += [b * K + parent for parent, _, _ in kept]
            tokens += [token for _, token, _ in kept]
            scores += [score for _, _, score in kept]
        if last or all(prompt.done for prompt in prompts):
            break
        # 3. read on
        scores_BK = torch.tensor(scores, device=reader.device).view(B, K)
        reader.pick(torch.tensor(parents, device=reader.device))
        logits_NV = reader.add(torch.tensor(tokens, device=reader.device))
    return [prompt.finished[0][1] for prompt in prompts]


def _divide(
    prompt: _Hypotheses,
    top: list[float],
    at: list[int],
    V: int,
    how: Decoding,
    *,
    length: int,
    end: int | None,
    last: bool,
) -> list[tuple[int, int, float]]:
    """Finish the continuations that end; return (parent, token, score) of the K that go on."""
    going: list[tuple[int, int, float]] = []
    for rank, (score, place) in enumerate(zip(top, at, strict=True)):
        parent, token = divmod(place, V)
        if not last and token != end:
            going.append((parent, token, score))
        elif rank < how.beams and not prompt.done:
            prompt.finish(score / length**how.length_penalty, [*prompt.open[parent], token])
    # a vocabulary of a token or two may leave fewer than K that go on
    spare = (0, 0 if end != 0 else 1, NEVER)
    going = (going + [spare] * how.beams)[: how.beams]
    prompt.open = [[*prompt.open[parent], token] for parent, token, _ in going]
    prompt.close(going[0][2] / length**how.length_penalty)
    return going

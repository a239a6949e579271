"""From prompts to continuations, in tokens: greedy, by sampling, or the best of several beams.

A model sees at most its context. When that is full, the older half is forgotten and the rest read
again at positions 0, 1 ..., with the key-value cache and without it: both give the same tokens. An
encoder-decoder stops instead, at the length that it was trained to write.

Shapes in names: B rows, T positions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from scaling.study.errors import ConfigError
from scaling.study.shape import ModelShape
from scaling.training.data.order import draws, sequence_keys
from scaling.training.encoder import EncoderDecoder, find_text
from scaling.training.model import Transformer
from scaling.training.past import Past

NONE = -1  # stands where a row has ended and writes no token


@dataclass(frozen=True)
class Decoding:
    """How the next token is chosen.

    Args:
        tokens: written at most.
        temperature: logits are divided by it; 0: the most likely token (greedy).
        top_k: draw among this many of the most likely; null: all.
        top_p: draw among the fewest whose probabilities sum to this (Holtzman et al. 2020,
            arXiv:1904.09751); null: all.
        beams: continuations that are followed at once; 1: none but the chosen one.
        length_penalty: the score of a beam is its log-probability / tokens ** this.
        seed: of what is drawn: one seed gives the same text, row by row, in any batch.
    """

    tokens: int = 64
    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    beams: int = 1
    length_penalty: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Raise ConfigError where a number makes no sense."""
        if self.tokens < 1:
            raise ConfigError(f"tokens: {self.tokens} is nothing to write. Set tokens=64.")
        if not 0 <= self.temperature < float("inf"):
            raise ConfigError(f"temperature: {self.temperature} is not 0 (greedy) or above. Set temperature=0.8.")  # fmt: skip
        if self.top_k is not None and self.top_k < 1:
            raise ConfigError(f"top_k: {self.top_k} tokens to choose among. Set top_k=40, or leave it out.")  # fmt: skip
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ConfigError(f"top_p: {self.top_p} is not in (0, 1]. Set top_p=0.95, or leave it out.")  # fmt: skip
        if self.beams < 1:
            raise ConfigError(f"beams: {self.beams} beams follow nothing. Set beams=4, or leave it out.")  # fmt: skip
        drawn = self.temperature > 0
        if drawn and self.beams > 1:
            raise ConfigError(f"beams: {self.beams} beams look for the likeliest text, temperature={self.temperature:g} draws one. Leave one out.")  # fmt: skip
        if not drawn and (self.top_k is not None or self.top_p is not None):
            raise ConfigError("top_k, top_p: nothing is drawn at temperature 0. Set temperature=0.8, or leave them out.")  # fmt: skip


def write_tokens(
    model: Transformer,
    prompts: Sequence[np.ndarray],
    how: Decoding,
    *,
    end: int | None = None,
    start: int | None = None,
    cache: bool = True,
) -> list[np.ndarray]:
    """Continue prompts, all of them as one batch; for an encoder-decoder: answer sources.

    Args:
        model: a decoder or an encoder-decoder; it is used as it is, gradients off.
        prompts: tokens of each, one at least; lengths may differ.
        how: how tokens are chosen.
        end: the token that ends a text; null: all have `how.tokens`.
        start: the token that an encoder-decoder's answers begin behind.
        cache: keep keys and values; without, every token reads all before it anew.

    Returns:
        The tokens written for each prompt, int64, without the prompt and without `end`.

    Raises:
        ConfigError: the model is an encoder, or a prompt is empty.
    """
    if how.beams > 1:
        from scaling.training.beams import search_beams

        return search_beams(model, prompts, how, end=end, start=start, cache=cache)
    rows: list[list[int]] = [[] for _ in prompts]
    for tokens_B in stream_tokens(model, prompts, how, end=end, start=start, cache=cache):
        for row, token in zip(rows, tokens_B.tolist(), strict=True):
            if token != NONE:
                row.append(token)
    return [np.array(row, np.int64) for row in rows]


def stream_tokens(
    model: Transformer,
    prompts: Sequence[np.ndarray],
    how: Decoding,
    *,
    end: int | None = None,
    start: int | None = None,
    cache: bool = True,
) -> Iterator[np.ndarray]:
    """Yield the next token of every prompt [B] as it is chosen, NONE where a text has ended.

    Arguments are those of `write_tokens`; beams cannot be streamed.
    """
    keys = sequence_keys(np.arange(len(prompts)), seed=how.seed)
    for group in batches(model, prompts):
        reader = open_reader(model, [prompts[i] for i in group], start=start, cache=cache)
        lots_BT = torch.as_tensor(_uniform(keys[group], how.tokens), device=reader.device)
        count = min(how.tokens, most_tokens(model.shape, how.tokens))
        open_B = np.ones(len(group), bool)
        with torch.inference_mode():
            logits_BV = reader.read()
        for step in range(count):
            with torch.inference_mode():  # not around a yield, which would leak it to the caller
                tokens_B = choose(logits_BV, how, lots_BT[:, step])
                chosen_B = tokens_B.cpu().numpy()
                open_B = open_B & (chosen_B != end)
                out_B = np.full(len(prompts), NONE, np.int64)
                out_B[group] = np.where(open_B, chosen_B, NONE)
            if not open_B.any():
                break
            yield out_B
            if step + 1 < count:
                with torch.inference_mode():
                    logits_BV = reader.add(tokens_B)


def choose(logits_BV: Tensor, how: Decoding, lots_B: Tensor) -> Tensor:
    """Return the next tokens [B]: the likeliest, or that at which a lot falls.

    Args:
        logits_BV: of the next token.
        how: temperature 0 is greedy.
        lots_B: float64 in [0, 1).
    """
    if how.temperature == 0:
        return logits_BV.argmax(-1)
    below_BV = likelihoods(logits_BV, how).cumsum(-1)
    # a lot below 1 stays below the sum, so that a token of probability 0 is never drawn
    return torch.searchsorted(below_BV, (lots_B.unsqueeze(1) * below_BV[:, -1:]), right=True)[:, 0]


def likelihoods(logits_BV: Tensor, how: Decoding) -> Tensor:
    """Return the probabilities [B, V], float64, that tokens are drawn with.

    Temperature first, then the most likely `top_k`, then of these the fewest that reach `top_p`.
    """
    logits_BV = logits_BV.double() / how.temperature
    if how.top_k is not None and how.top_k < logits_BV.shape[-1]:
        least_B1 = logits_BV.topk(how.top_k).values[:, -1:]
        logits_BV = logits_BV.masked_fill(logits_BV < least_B1, -torch.inf)
    p_BV = logits_BV.softmax(-1)
    if how.top_p is not None and how.top_p < 1:
        sorted_BV, order_BV = p_BV.sort(descending=True, stable=True)
        spare_BV = sorted_BV.cumsum(-1) - sorted_BV >= how.top_p  # enough without this one
        p_BV = p_BV.masked_fill(torch.zeros_like(spare_BV).scatter(1, order_BV, spare_BV), 0.0)
    return p_BV / p_BV.sum(-1, keepdim=True)


def _uniform(keys: np.ndarray, count: int) -> np.ndarray:
    """Return float64 in [0, 1) [len(keys), count], each a multiple of 2^-52."""
    return (draws(keys, count, salt=7) >> np.uint64(12)) * 2.0**-52


def most_tokens(shape: ModelShape, asked: int) -> int:
    """Return how many tokens a model writes at most: an encoder-decoder no more than in training."""
    return min(asked, shape.predicted) if shape.kind == "encoder_decoder" else asked


def batches(model: Transformer, prompts: Sequence[np.ndarray]) -> list[list[int]]:
    """Return the prompts that are continued together: all, or for an encoder those of one length.

    Raises:
        ConfigError: the model writes nothing, or a prompt is empty.
    """
    if model.shape.kind == "encoder":
        raise ConfigError(
            "model.kind=encoder: it fills in hidden tokens and writes no text. Take a run of model.kind=decoder or encoder_decoder."
        )
    if any(len(prompt) == 0 for prompt in prompts):
        raise ConfigError("prompt: empty. Give at least one token.")
    if not isinstance(model, EncoderDecoder):
        return [list(range(len(prompts)))] if prompts else []
    groups: dict[int, list[int]] = {}
    for i, prompt in enumerate(prompts):
        groups.setdefault(len(prompt), []).append(i)
    return list(groups.values())


def open_reader(
    model: Transformer, prompts: Sequence[np.ndarray], *, start: int | None, cache: bool
) -> Reader:
    """Return a reader of prompts, or of answers that begin with `start` to sources of one length."""
    device = model.embedding.weight.device
    rows = [torch.as_tensor(np.asarray(p, np.int64), device=device) for p in prompts]
    if not isinstance(model, EncoderDecoder):
        return Reader(model, rows, cache=cache)
    assert start is not None, "an encoder-decoder's answers begin behind a token"
    source_BS = torch.stack(rows)[:, -model.shape.source :]
    with torch.inference_mode():
        source = model.read(source_BS), find_text(source_BS, model.shape)
    begin = torch.full((1,), start, device=device)
    return Reader(model, [begin] * len(rows), cache=cache, source=source)


class Reader:
    """Reads rows token by token, as far back as the context reaches.

    Args:
        rows: tokens of each.
        source: what an encoder made of the rows' sources [B, S, D], and which of their positions are
            no padding [B, S], null: all; for a decoder both are null.
    """

    def __init__(
        self,
        model: Transformer,
        rows: Sequence[Tensor],
        *,
        cache: bool = True,
        source: tuple[Tensor | None, Tensor | None] = (None, None),
    ) -> None:
        self.model, self.cache, (self.memory_BSD, self.seen_BS) = model, cache, source
        self.room = model.shape.context if source[0] is None else model.shape.positions
        self.past: Past | None = None
        self.text_BS, self.empty_B = _align([row[-self.room :] for row in rows])

    @property
    def device(self) -> torch.device:
        return self.text_BS.device

    def read(self) -> Tensor:
        """Read all rows from their first token on; return logits [B, V] of the next."""
        if not self.cache:
            return self._read_anew()
        source = {"memory_BSD": self.memory_BSD, "seen_BS": self.seen_BS}
        self.past = Past(self.model, len(self.text_BS), room=self.room, **source)
        return self.past.read(self.model, self.text_BS, self.empty_B)

    def add(self, tokens_B: Tensor) -> Tensor:
        """Add a token to each row; return logits [B, V] of the next."""
        if self.text_BS.shape[1] == self.room:
            self._forget()
            self.text_BS = torch.cat([self.text_BS, tokens_B.unsqueeze(1)], dim=1)
            return self.read()
        self.text_BS = torch.cat([self.text_BS, tokens_B.unsqueeze(1)], dim=1)
        if self.past is None:
            return self._read_anew()
        return self.past.read(self.model, tokens_B.unsqueeze(1))

    def pick(self, rows_B: Tensor) -> None:
        """Go on with these rows, some of them perhaps several times."""
        self.text_BS, self.empty_B = self.text_BS[rows_B], self.empty_B[rows_B]
        if self.memory_BSD is not None:
            self.memory_BSD = self.memory_BSD[rows_B]
        if self.seen_BS is not None:
            self.seen_BS = self.seen_BS[rows_B]
        if self.past is not None:
            self.past.pick(rows_B)

    def _forget(self) -> None:
        """Drop the older half of the rows that are full; the others keep what they have."""
        kept = [
            row[self.room // 2 if empty == 0 else empty :]
            for row, empty in zip(self.text_BS, self.empty_B.tolist(), strict=True)
        ]
        self.text_BS, self.empty_B = _align(kept)

    def _read_anew(self) -> Tensor:
        """Read every row whole by the model's own forward pass, rows of one length at once."""
        out: list[Tensor] = [self.text_BS] * len(self.text_BS)
        empty = self.empty_B.tolist()
        for length in sorted(set(empty)):
            at = [i for i, e in enumerate(empty) if e == length]
            tokens_BT = self.text_BS[at, length:]
            if isinstance(self.model, EncoderDecoder):
                assert self.memory_BSD is not None
                seen_BS = None if self.seen_BS is None else self.seen_BS[at]
                logits_BTV = self.model.write(tokens_BT, self.memory_BSD[at], seen_BS)
            else:
                logits_BTV = self.model(tokens_BT)
            for i, row in zip(at, logits_BTV[:, -1], strict=True):
                out[i] = row
        return torch.stack(out)


def _align(rows: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Let rows end together [B, S], with token 0 before the shorter ones; return how much of it [B]."""
    longest = max(len(row) for row in rows)
    text_BS = torch.stack([torch.nn.functional.pad(row, (longest - len(row), 0)) for row in rows])
    lengths_B = torch.tensor([len(row) for row in rows], device=text_BS.device)
    return text_BS, longest - lengths_B

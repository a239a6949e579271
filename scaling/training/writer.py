"""Text from kept weights: a run's model and words, which continue prompts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from scaling.study.pretrained import Pretrained, open_pretrained
from scaling.study.record import read_record
from scaling.study.shape import count_params
from scaling.training.checkpoint import copy_parameters
from scaling.training.generation import NONE, Decoding, stream_tokens, write_tokens
from scaling.training.huggingface import load_pretrained
from scaling.training.model import Transformer, build_model
from scaling.training.words import Speller, SymbolWords, TextWords, Words, open_words


@dataclass(frozen=True)
class Writer:
    """A model that continues text.

    name: the run's id, or the folder. params: non-embedding parameters. loss: the run's validation
    loss in nats/token, null for a folder from elsewhere.
    """

    model: Transformer
    words: Words
    name: str
    params: int
    loss: float | None

    def write(self, prompts: Sequence[str], how: Decoding, *, cache: bool = True) -> list[str]:
        """Return the continuation of each prompt (an encoder-decoder's answer), without the prompt."""
        given = [self.words.encode(prompt) for prompt in prompts]
        made = write_tokens(
            self.model, given, how, end=self.words.end, start=self.words.start, cache=cache
        )
        spellers = [Speller(self.words, self._before(tokens)) for tokens in given]
        return [
            "".join(map(speller.add, tokens.tolist())) + speller.finish()
            for speller, tokens in zip(spellers, made, strict=True)
        ]

    def stream(self, prompt: str, how: Decoding) -> Iterator[str]:
        """Yield the continuation piece by piece, in whole characters; beams come as one piece."""
        if how.beams > 1:
            yield self.write([prompt], how)[0]
            return
        given = self.words.encode(prompt)
        speller = Speller(self.words, self._before(given))
        steps = stream_tokens(self.model, [given], how, end=self.words.end, start=self.words.start)
        for tokens_B in steps:
            if tokens_B[0] != NONE and (piece := speller.add(int(tokens_B[0]))):
                yield piece
        if rest := speller.finish():
            yield rest

    @property
    def continues(self) -> bool:
        """Whether what is written goes on from the prompt; else it is an answer to it."""
        return isinstance(self.words, TextWords | SymbolWords)

    def _before(self, given: np.ndarray) -> list[int]:
        """Return the tokens that stand before the first one written, as text shows them."""
        return given[given != self.words.end].tolist() if self.continues else []


def open_writer(folder: str | Path | Pretrained, *, device: str = "auto") -> Writer:
    """Open a finished run whose weights were kept, or a Hugging Face folder (llama, gpt2).

    Args:
        folder: its path.
        device: cpu, cuda, or auto: a GPU where there is one. Numbers are float32.

    Raises:
        CheckpointError: the weights were not kept, or are damaged.
        DataError: the tokenizer cannot be had any more.
    """
    source = folder if isinstance(folder, Pretrained) else open_pretrained(folder)
    words = open_words(source)
    shape, tensors = load_pretrained(source)
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    model = build_model(shape)
    copy_parameters(model, tensors)
    loss = read_record(source.folder).val_loss if source.kind == "run" else None
    return Writer(
        model.to(device).eval(), words, source.name, count_params(shape).non_embedding, loss
    )


def generate(
    run: str | Path,
    prompt: str | Sequence[str],
    *,
    tokens: int = 64,
    temperature: float = 0.0,
    samples: int = 1,
    device: str = "auto",
    **how: Any,
) -> list[str]:
    """Continue a prompt, or several at once, by a run's model.

    Args:
        run: folder of a finished run whose weights were kept, or of a Hugging Face model.
        prompt: text; numbers where the run's symbols stand for no text. For an encoder-decoder the
            text to complete, with marks <extra_id_0> ... for what is missing.
        tokens: written at most, for each.
        temperature: 0: the likeliest token each time.
        samples: continuations of each prompt.
        device: cpu, cuda or auto.
        how: top_k, top_p, beams, length_penalty, seed; see `Decoding`.

    Returns:
        The continuations without their prompts: all of the first prompt, then of the next.

    Raises:
        ConfigError: a way to decode that makes no sense, or a model that writes no text.
        CheckpointError: the weights were not kept, or are damaged.
    """
    decoding = Decoding(tokens=tokens, temperature=temperature, **how)
    prompts = [prompt] if isinstance(prompt, str) else list(prompt)
    writer = open_writer(run, device=device)
    return writer.write([p for p in prompts for _ in range(samples)], decoding)

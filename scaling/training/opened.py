"""A finished run opened for a look inside: its model, and texts in its tokens."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scaling.study.errors import DataError
from scaling.study.plan import RunPlan, make_plan
from scaling.study.record import RunRecord, read_record
from scaling.training.checkpoint import load_weights
from scaling.training.data.portable import run_tokenizer
from scaling.training.data.tokenizers import Tokenizer
from scaling.training.model import Transformer, build_model
from scaling.training.rescore import read_config

TEXTLESS = "[{}]"  # how a token without text is shown


@dataclass(frozen=True, repr=False)
class OpenRun:
    """A run with its kept weights, in float32 on the CPU, with the plain kernel.

    tokenizer: null where tokens stand for no text.
    """

    folder: Path
    record: RunRecord
    plan: RunPlan
    model: Transformer
    tokenizer: Tokenizer | None

    def __repr__(self) -> str:
        """Return one line: the run and its kind."""
        return f"OpenRun({self.record.run_id}, {self.plan.shape.kind})"

    def encode(self, text: str, *, key: str = "text") -> np.ndarray:
        """Return a text's tokens, int64 [T]; of a source of bare symbols the text is their numbers.

        Raises:
            DataError: no token at all, more than the context, or a number that is no token.
        """
        tokens = self._numbers(text, key) if self.tokenizer is None else self.tokenizer.encode([text])[0]  # fmt: skip
        most = self.plan.shape.context
        if not 0 < len(tokens) <= most:
            raise DataError(
                f"{key}: {len(tokens)} tokens in {text[:40]!r}, where the run reads 1 to {most} (model.context). Give a {'shorter' if len(tokens) else 'longer'} text."
            )
        return np.asarray(tokens, np.int64)

    def _numbers(self, text: str, key: str) -> list[int]:
        """Read `3 1 4`."""
        words, vocab = text.replace(",", " ").split(), self.plan.config.data.vocab
        if not all(w.isdecimal() and int(w) < vocab for w in words):
            raise DataError(
                f"{key}: {text[:40]!r}; the tokens of data.source={self.plan.config.data.source} stand for no text. Give numbers below {vocab}, e.g. {key}='3 1 4 1 5'."
            )
        return [int(w) for w in words]

    def label(self, tokens: np.ndarray) -> list[str]:
        """Return what each token shows: its text, `▁` for a space; bytes of one character together.

        A character of several byte tokens is shown at its last, `·` at those before it.
        """
        vocab, specials = self.plan.config.data.vocab, self.plan.layout.specials
        if self.tokenizer is None:
            return [specials[t - vocab] if t >= vocab else str(t) for t in tokens.tolist()]
        labels: list[str] = []
        open_from = 0
        for i, token in enumerate(tokens.tolist()):
            if token >= vocab:
                labels.append(TEXTLESS.format(specials[token - vocab]))
                open_from = i + 1
                continue
            text = self.tokenizer.decode(tokens[open_from : i + 1])
            if "\ufffd" in text and i - open_from < 3:  # UTF-8 has at most four bytes
                labels.append("·")
                continue
            labels.append(_visible(text) or TEXTLESS.format(token))
            open_from = i + 1
        return labels


def _visible(text: str) -> str:
    """Show blanks; a control character by its name in a literal."""
    return "".join("▁" if c == " " else c if c.isprintable() else repr(c)[1:-1] for c in text)


def open_run(run: str | Path) -> OpenRun:
    """Load a finished run from its folder.

    Raises:
        RecordError: the folder holds no finished run, or is damaged.
        CheckpointError: its weights were not kept, or are damaged.
    """
    folder = Path(run)
    record = read_record(folder)
    config = read_config(folder)
    config = config.replace(
        **{"data.validation": None, "train.compile": False, "train.device": "cpu"}
    )
    plan = make_plan(config)
    model = build_model(plan.shape, attention="sdpa")
    load_weights(folder, model)
    model.eval()
    return OpenRun(folder, record, plan, model, run_tokenizer(config.data, context=config.model.context, data_hash=record.data_hash))  # fmt: skip

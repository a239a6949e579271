"""What a run is judged by beside its loss: what it tells, hides or writes, against what is right.

Shapes in names: B pairs, T positions, C labels, V vocabulary.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager

import numpy as np
import torch
from torch import Tensor, nn

from scaling.study.config import DataConfig
from scaling.study.objective import IGNORE, PAIRS
from scaling.study.plan import RunPlan
from scaling.training.answers import Answers
from scaling.training.data import HeldOut, TokenData, prepared_folder
from scaling.training.data.tokenizers import Tokenizer, load_tokenizer
from scaling.training.encoder import Classifier, Encoder, EncoderDecoder, find_text
from scaling.training.evaluate import EVAL_TOKENS, standard_error
from scaling.training.generation import Decoding, write_tokens
from scaling.training.model import Transformer
from scaling.training.objectives import build_objective
from scaling.training.scores import Measure, measure, score_labels, score_share, score_texts

WRITTEN = 512  # held-out pairs that are written for BLEU and ROUGE, the first ones
AT_ONCE = 128  # of them
# words of generated symbols: a consonant and a vowel each, so that they are different and readable
_SYLLABLES = [c + v for c in "bcdfghjklmnpqrstvwxz" for v in "aeiou"]

Autocast = Callable[[], AbstractContextManager]


def take_measures(
    model: nn.Module,
    data: TokenData | HeldOut,
    plan: RunPlan,
    *,
    autocast: Autocast = contextlib.nullcontext,
) -> dict[str, Measure]:
    """Return the measures of a trained model on held-out text, by name; none for next tokens.

    masked: masked_accuracy, and next_sentence_accuracy beside it; classify: accuracy, macro_f1;
    seq2seq: bleu, chrf, rouge_1, rouge_2, rouge_l, exact_match of greedy answers to the first WRITTEN pairs.

    Args:
        model: of the plan's shape, on the device where it is to run.
        data: held-out text in the run's tokens.
        plan: the run's.
        autocast: gives the precision context that the run trains in.

    Raises:
        MissingScores: texts are to be scored and a library for it is not installed.
    """
    objective = build_objective(plan)
    if objective is None or not isinstance(model, Transformer):
        return {}
    model.eval()
    with torch.inference_mode(), autocast():
        if isinstance(objective, Answers):
            take = _texts if objective.writes else _labels
            found = take(model, data, plan, objective)
        elif isinstance(model, Encoder):
            found = _hidden(model, data, plan)
        else:
            found = {}
    model.train()
    return found


def take_all(
    model: nn.Module,
    data: TokenData,
    plan: RunPlan,
    *,
    autocast: Autocast = contextlib.nullcontext,
) -> dict[str, Measure]:
    """Return the measures of a trained model on its held-out text, and on each group of it.

    Those of a group NAME have its name behind theirs, accuracy_NAME. Arguments and errors as `take_measures`.
    """
    found = take_measures(model, data, plan, autocast=autocast)
    return found | group_measures(model, data.sets, plan, autocast=autocast)


def group_measures(
    model: nn.Module,
    sets: Iterable[HeldOut],
    plan: RunPlan,
    *,
    autocast: Autocast = contextlib.nullcontext,
) -> dict[str, Measure]:
    """Return the measures on the sets that are groups of the run's data, as NAME_GROUP."""
    return {
        f"{name}_{s.name}": value | {"group": s.group}
        for s in sets
        if s.group is not None
        for name, value in take_measures(model, s, plan, autocast=autocast).items()
    }


def _batches(data: TokenData | HeldOut, plan: RunPlan) -> Iterator[tuple[Tensor, Tensor]]:
    rows = max(1, EVAL_TOKENS["cpu"] // plan.shape.context)
    batches = data.val_batches(
        context=plan.shape.context, batch_seqs=rows, objective=build_objective(plan)
    )
    for inputs, targets, _ in batches:
        yield torch.as_tensor(inputs), torch.as_tensor(targets)


def _hidden(model: Encoder, data: TokenData | HeldOut, plan: RunPlan) -> dict[str, Measure]:
    """How many hidden tokens are found, and of how many pairs it is told whether they follow."""
    device, right, counts, follows = model.embedding.weight.device, [], [], []
    for inputs, targets in _batches(data, plan):
        h_BTD = model.read(inputs.to(device))
        if plan.shape.pairs:
            follows.append(model.judge(h_BTD).argmax(-1).cpu() == targets[:, 0])
            targets[:, 0] = IGNORE
        counted = targets != IGNORE
        hits = torch.zeros_like(counted)
        hits[counted] = (
            model.predict(h_BTD[counted.to(device)]).argmax(-1).cpu() == targets[counted]
        )
        right.append(hits.sum(1).double())
        counts.append(counted.sum(1).double())
    hits_N, counts_N = torch.cat(right).numpy(), torch.cat(counts).numpy()
    # tokens of one sequence are hidden together
    se, total = standard_error(hits_N, counts_N), int(counts_N.sum())
    found = {"masked_accuracy": measure(float(hits_N.sum() / total), se, total)}
    if follows:
        found["next_sentence_accuracy"] = score_share(torch.cat(follows).numpy())
    return found


def _labels(
    model: Transformer, data: TokenData | HeldOut, plan: RunPlan, objective: Answers
) -> dict[str, Measure]:
    classes, told, true = plan.config.data.classes or 0, [], []
    first = 0 if plan.layout.classes else objective.special("class_0")
    for inputs, targets in _batches(data, plan):
        logits_BC = tell(model, inputs.to(model.embedding.weight.device), targets)
        told.append(logits_BC[:, first : first + classes].argmax(-1).cpu())
        true.append(targets[targets != IGNORE] - first)
    return score_labels(torch.cat(told).numpy(), torch.cat(true).numpy(), classes=classes)


def tell(model: Transformer, inputs_BT: Tensor, targets_BT: Tensor) -> Tensor:
    """Return the logits of what stands at the one target of each row [B, C or V]."""
    if isinstance(model, Classifier):
        return model(inputs_BT)
    if isinstance(model, EncoderDecoder):
        read_BS = inputs_BT[:, : model.shape.source]
        written_B1 = inputs_BT[:, model.shape.source :]
        return model.write(written_B1, model.read(read_BS), find_text(read_BS, model.shape))[:, 0]
    at_B = (targets_BT != IGNORE).int().argmax(1).to(inputs_BT.device)
    h_BTD = model.trace(inputs_BT)
    return model.predict(h_BTD[torch.arange(len(at_B), device=at_B.device), at_B])


def _texts(
    model: Transformer, data: TokenData | HeldOut, plan: RunPlan, objective: Answers
) -> dict[str, Measure]:
    pairs = answer_texts(model, data, plan, objective)
    # words of generated symbols are words already; of real text sacrebleu says what a word is
    generated = plan.config.data.source != "pairs"
    written, wanted = ([pair[i] for pair in pairs] for i in (1, 2))
    return score_texts(written, wanted, tokenize="none" if generated else None)


def answer_texts(
    model: Transformer,
    data: TokenData | HeldOut,
    plan: RunPlan,
    objective: Answers,
    *,
    most: int = WRITTEN,
) -> list[tuple[str, str, str]]:
    """Return the first held-out pairs as (text, what the model writes greedily, what is right)."""
    reader = Reading(plan.config.data)
    starts = np.arange(0, min(len(data.val) - 1, most * plan.shape.context), plan.shape.context)
    how = Decoding(tokens=plan.layout.outputs)
    end = objective.special("end")
    start = objective.special("start") if plan.shape.kind == "encoder_decoder" else None
    pairs = []
    for first in range(0, len(starts), AT_ONCE):
        part = starts[first : first + AT_ONCE]
        read_BS, length_B = objective.sources(data.val, part)
        prompts = [row[:n] for row, n in zip(read_BS, length_B, strict=True)]
        written = write_tokens(model, prompts, how, end=end, start=start)
        for row, wrote, right in zip(
            prompts, written, objective.targets(data.val, part), strict=True
        ):
            pairs.append((reader.text(row), reader.text(wrote), reader.text(right)))
    return pairs


def find_tokenizer(data: DataConfig) -> Tokenizer:
    """Return the tokenizer of prepared text; a trained one is beside the tokens."""
    trained = prepared_folder(data) / "tokenizer.json"
    return load_tokenizer(str(trained) if data.tokenizer == "bpe" else data.tokenizer)


class Reading:
    """Turns tokens of pairs into text; generated symbols become words of one or more syllables."""

    def __init__(self, data: DataConfig) -> None:
        self.vocab = data.vocab
        self.tokenizer: Tokenizer | None = None
        if data.source not in PAIRS or data.source == "pairs":
            self.tokenizer = find_tokenizer(data)

    def text(self, tokens: np.ndarray) -> str:
        """Return the text of tokens, without special tokens and what is not predicted."""
        words = tokens[(tokens >= 0) & (tokens < self.vocab)]
        if self.tokenizer is not None:
            return self.tokenizer.decode(words)
        return " ".join(_word(int(number)) for number in words)


def _word(number: int) -> str:
    word = _SYLLABLES[number % len(_SYLLABLES)]
    while number := number // len(_SYLLABLES):
        word += _SYLLABLES[number % len(_SYLLABLES)]
    return word

"""Does the standard error of a validation loss say how far losses of other texts lie apart?

    OMP_NUM_THREADS=1 python -m benchmarks.scatter [params=100k] [tokens=2M] [results=results/scatter]

Two seeds of one model learn from the long files of Python's library and are scored on 2M bytes of
its short ones, at most 16 kB as in a validation text of usual size, cut into texts of 32k to 131k. The SD of the losses of these texts is what a standard error
ought to state; beside it stand errors over documents (the jackknife that records hold, and the
linear formula of a ratio), over blocks of sequences and over sequences. One minute on one core.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from scaling.study.config import RunConfig
from scaling.study.plan import RunPlan, make_plan
from scaling.study.table import Table
from scaling.study.units import format_quantity
from scaling.training.checkpoint import load_weights
from scaling.training.data import TokenStore
from scaling.training.data.dataset import sequences
from scaling.training.data.sources import stdlib_documents
from scaling.training.device import choose_engine
from scaling.training.evaluate import EVAL_TOKENS, group_starts, standard_error
from scaling.training.model import Transformer
from scaling.training.trainer import train

CONTEXT = 128
LONGEST = 16_384  # bytes of a short file
UNSEEN = 2_031_616  # bytes scored: 62 texts of 32k
TEXTS = (32_768, 65_536, 131_072)


def main(arguments: Sequence[str]) -> None:
    """Train what is missing, score, print both tables."""
    given = dict(a.split("=", 1) for a in arguments)
    folder = Path(given.get("results", "results/scatter"))
    long, short = split_library()
    text = folder / "long.jsonl"
    folder.mkdir(parents=True, exist_ok=True)
    text.write_text("".join(json.dumps({"text": d}) + "\n" for d in long))
    tokens = np.frombuffer("".join(short).encode(), np.uint8)[: UNSEEN + 1]
    losses = [token_losses(plan_of(seed, text, given), tokens) for seed in (0, 1)]
    ends = np.cumsum([len(d.encode()) for d in short])
    ends = ends[ends < len(losses[0])] - 1  # losses are those of targets, from the second token
    print(errors(losses[0], ends).markdown(), end="\n\n")
    print(differences(*losses).markdown())


def plan_of(seed: int, text: Path, given: dict[str, str]) -> RunPlan:
    """Plan one of the two runs."""
    values = {
        "model": {"params": given.get("params", "100k"), "context": CONTEXT},
        "data": {"source": "text", "path": str(text), "val_tokens": 524_288},
        "budget": {"tokens": given.get("tokens", "2M")},
        "train": {"threads": 1, "evals": 1},
        "results": str(text.parent),
        "sweep": "runs",
        "seed": seed,
    }
    return make_plan(RunConfig.from_dict(values))


def split_library() -> tuple[list[str], list[str]]:
    """Return the long files and the short ones, the latter in an order that means nothing."""
    files = list(stdlib_documents())
    long = [f for f in files if len(f.encode()) > LONGEST]
    short = [f for f in files if len(f.encode()) <= LONGEST]
    order = np.random.default_rng(0).permutation(len(short))
    return long, [short[i] for i in order]


def token_losses(plan: RunPlan, tokens: np.ndarray) -> np.ndarray:
    """Train the run if it is not there; return the loss of every unseen token [nats]."""
    train(plan)
    engine = choose_engine(plan.shape, batch_seqs=1, train=plan.config.train)
    model = Transformer(plan.shape, attention=engine.attention)
    load_weights(plan.folder, model)
    store = TokenStore(shards=(tokens,), vocab=plan.shape.vocab, sha256="")
    rows = []
    with torch.inference_mode():
        for x, y, _ in sequences(store, context=CONTEXT, batch_seqs=EVAL_TOKENS["cpu"] // CONTEXT):
            loss_BT = model(torch.as_tensor(x), torch.as_tensor(y), reduction="none")
            rows.append(loss_BT.double().numpy().ravel())
    return np.concatenate(rows)


def texts(count: int, size: int) -> Iterator[slice]:
    """Yield the texts of a size that so many tokens hold."""
    for first in range(0, count - size + 1, size):
        yield slice(first, first + size)


def by_group(loss: np.ndarray, first: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return sums [nats] and tokens of groups that begin at some places of a text."""
    return np.add.reduceat(loss, first), np.diff([*first, len(loss)])


def jackknife_error(loss: np.ndarray, ends: np.ndarray) -> float:
    """What records state: leaving out documents."""
    first = group_starts(ends + 1, tokens=len(loss) + 1, context=CONTEXT) - 1
    return standard_error(*by_group(loss, first)) or np.nan


def linear_error(loss: np.ndarray, ends: np.ndarray) -> float:
    """The linear formula of a ratio over documents (Cochran 1977, section 6.4)."""
    sums, counts = by_group(loss, np.concatenate([[0], ends]))
    rest = sums - loss.mean() * counts
    groups = len(sums)
    return float(np.sqrt(rest @ rest * groups / (groups - 1)) / len(loss))


def block_error(loss: np.ndarray, ends: np.ndarray) -> float:
    """Over blocks of n^(1/3) of n sequences, for want of documents."""
    first = group_starts(None, tokens=len(loss) + 1, context=CONTEXT) - 1
    return standard_error(*by_group(loss, first)) or np.nan


def sequence_error(loss: np.ndarray, ends: np.ndarray) -> float:
    """Over sequences, as if they were independent."""
    means = loss.reshape(-1, CONTEXT).mean(1)
    return float(means.std(ddof=1) / np.sqrt(len(means)))


ERRORS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "over documents": jackknife_error,
    "linear formula": linear_error,
    "over blocks": block_error,
    "over sequences": sequence_error,
}


def errors(loss: np.ndarray, ends: np.ndarray) -> Table:
    """Return, by size of text: scatter, root mean square of each error, and how often it held.

    Args:
        loss: of every unseen token [nats].
        ends: the place after each document's last token.
    """
    rows = []
    for size in TEXTS:
        parts = list(texts(len(loss), size))
        means = np.array([loss[p].mean() for p in parts])
        inner = [ends[(ends > p.start) & (ends < p.stop)] - p.start for p in parts]
        stated = {
            name: np.array([error(loss[p], e) for p, e in zip(parts, inner, strict=True)])
            for name, error in ERRORS.items()
        }
        held = np.abs(means - loss.mean()) < 1.96 * stated["over documents"]
        documents = np.mean([len(e) + 1 for e in inner])
        rows.append(
            [format_quantity(size), len(parts), f"{documents:.0f}", f"{means.std(ddof=1):.3f}"]
            + [f"{np.sqrt(np.mean(s**2)):.3f}" for s in stated.values()]
            + [f"{held.mean():.0%}"]
        )
    header = ["tokens", "texts", "documents in each", "scatter", *ERRORS, "95 % interval holds"]
    return Table(header, rows)


def differences(one: np.ndarray, other: np.ndarray) -> Table:
    """Return the scatter between texts of the difference between two seeds."""
    rows = []
    for size in TEXTS:
        gaps = [(one[p] - other[p]).mean() for p in texts(len(one), size)]
        rows.append([format_quantity(size), f"{np.std(gaps, ddof=1):.4f}"])
    return Table(["tokens", "scatter of the difference of two seeds"], rows)


if __name__ == "__main__":
    main(sys.argv[1:])

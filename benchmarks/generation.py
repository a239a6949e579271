"""Tokens per second of our generation against that of `transformers` on the same exported weights.

python -m benchmarks.generation            one thread, CPU time, about five minutes
python -m benchmarks.generation 3e4 3e5    models of these sizes

Both sides write the same tokens (greedy, float32, key-value cache), interleaved; ratios are medians
over rounds with quartiles, above 1 where ours is faster. Weights are random: speed does not depend
on them. `whole` is a prompt of 16 tokens continued to the end of the context.
"""

from __future__ import annotations

import itertools
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
from transformers import AutoModelForCausalLM, logging

from scaling.study.config import ModelConfig, TrainConfig
from scaling.study.shape import count_params, resolve_shape
from scaling.study.table import Table
from scaling.study.units import format_quantity
from scaling.training.calibrate import machine_label
from scaling.training.export import write_weights
from scaling.training.generation import Decoding, write_tokens
from scaling.training.model import build_model

CONTEXT, PROMPT, VOCAB = 128, 16, 256
SIZES = (3e4, 3e5, 3e6, 3e7)
CASES = ((1, 1), (16, 1), (1, 4))  # prompts, beams
ROUNDS, SECONDS = 7, 15.0  # rounds at most, and seconds after which a case has had enough of them
GPT2 = {"norm": "layernorm", "position": "learned", "activation": "gelu", "tied": True, "bias": True}  # fmt: skip


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    logging.set_verbosity_error()
    sizes = [float(s) for s in sys.argv[1:]] or SIZES
    rows = []
    for family, size, (prompts, beams) in itertools.product(("llama", "gpt2"), sizes, CASES):
        rows.append(_row(family, size, prompts, beams))
        print(*rows[-1], flush=True, file=sys.stderr)
    header = ("family", "N", "prompts", "beams", "ours, tokens/s", "transformers, tokens/s", "ratio", "without cache")  # fmt: skip
    title = f"Prompts of {PROMPT} tokens continued to {CONTEXT}, one thread, CPU time; {machine_label(TrainConfig())}"
    print(Table(header, rows, title=title).markdown())


def _row(family: str, size: float, prompts: int, beams: int) -> list[str]:
    config = ModelConfig(params=size, context=CONTEXT, **(GPT2 if family == "gpt2" else {}))  # type: ignore[arg-type]
    shape = resolve_shape(config, vocab=VOCAB)
    model = build_model(shape).init_weights(0).eval()
    with tempfile.TemporaryDirectory() as folder:
        write_weights(Path(folder), dict(model.named_parameters()), shape)
        other = AutoModelForCausalLM.from_pretrained(folder).eval()
    tokens_BT = torch.randint(VOCAB, (prompts, PROMPT), generator=torch.Generator().manual_seed(0))
    new = CONTEXT - PROMPT
    how = Decoding(tokens=new, beams=beams)

    def ours(*, cache: bool = True) -> np.ndarray:
        return np.stack(write_tokens(model, list(tokens_BT.numpy()), how, cache=cache))

    def theirs() -> np.ndarray:
        with torch.inference_mode():
            out = other.generate(
                tokens_BT, attention_mask=torch.ones_like(tokens_BT), do_sample=False, num_beams=beams,
                max_new_tokens=new, pad_token_id=0, eos_token_id=None,
            )  # fmt: skip
        return out[:, PROMPT:].numpy()

    same = (ours() == theirs()).mean()
    if same < 1:
        print(f"{family} {size:g} {prompts} {beams}: {same:.1%} of the tokens are the same")
    ratios, mine, others = _interleave(ours, theirs)
    low, middle, high = np.quantile(ratios, [0.25, 0.5, 0.75])
    plain = _seconds(lambda: ours(cache=False))
    rates = [format_quantity(prompts * new / np.median(t)) for t in (mine, others)]
    return [family, format_quantity(count_params(shape).non_embedding), str(prompts), str(beams), *rates,
            f"{middle:.2f} [{low:.2f}, {high:.2f}]", f"{plain / np.median(mine):.1f} times slower"]  # fmt: skip


def _interleave(
    ours: Callable[[], object], theirs: Callable[[], object]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the ratio of each round, and the seconds of both sides."""
    pairs: list[tuple[float, float]] = []
    begin = time.perf_counter()
    while len(pairs) < ROUNDS and (len(pairs) < 3 or time.perf_counter() - begin < SECONDS):
        pairs.append((_seconds(ours), _seconds(theirs)))
    mine, others = np.array(pairs).T
    return others / mine, mine, others


def _seconds(work: Callable[[], object]) -> float:
    begin = time.process_time()
    work()
    return time.process_time() - begin


if __name__ == "__main__":
    main()

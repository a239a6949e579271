"""Memory and time of the loss of a large vocabulary, whole and in chunks of tokens, on the CPU.

python -m benchmarks.logits [tokens] [vocabulary]       default 4,096 and 50,304; about half a minute

Forward and backward pass of a head of width 384 under bfloat16 autocast. Peak memory is what the
process held at most beyond its inputs, each way in a process of its own.
"""

from __future__ import annotations

import os
import sys

os.environ.setdefault("OMP_NUM_THREADS", "1")

import multiprocessing
import resource
import time

import torch
import torch.nn.functional as F

from scaling.study.table import Table
from scaling.study.units import format_bytes
from scaling.training.loss import chunked_cross_entropy

WIDTH = 384


def run(way: str, tokens: int, vocab: int, out) -> None:
    """Do one pass; report loss, CPU seconds and extra peak bytes."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    h, weight = (
        torch.randn(tokens, WIDTH, requires_grad=True),
        torch.randn(vocab, WIDTH, requires_grad=True),
    )
    targets = torch.randint(vocab, (tokens,))
    torch.mm(h[:8].bfloat16(), h[:8].bfloat16().t())  # the library's own start is not the loss's
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with torch.autocast("cpu", torch.bfloat16):
        if way == "chunks":
            loss = chunked_cross_entropy(h, weight, targets)
        else:
            loss = F.cross_entropy(F.linear(h, weight).float(), targets)
    loss.backward()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    out.put((loss.item(), time.process_time() - start, 1024 * peak))


def main(tokens: int = 4096, vocab: int = 50_304) -> None:
    """Print both ways beside each other."""
    context = multiprocessing.get_context("spawn")
    rows = []
    for way in ("whole", "chunks"):
        out = context.Queue()
        worker = context.Process(target=run, args=(way, tokens, vocab, out))
        worker.start()
        loss, seconds, peak = out.get()
        worker.join()
        rows.append([way, f"{loss:.6f}", f"{seconds:.2f}", format_bytes(peak)])
    title = f"Loss of {tokens:,} tokens, vocabulary {vocab:,}, width {WIDTH}"
    print(
        Table(("logits", "loss", "CPU seconds", "extra peak memory"), rows, title=title).markdown()
    )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))

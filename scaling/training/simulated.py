"""A run without training: the exact Zipf-memory law writes the records that a trainer would.

For trying sweeps, launchers, fits and pages on thousands of runs that take milliseconds each.
"""

from __future__ import annotations

import math
import random

from scaling.study.plan import RunPlan
from scaling.study.record import RunRecord
from scaling.study.zipf_memory import zipf_excess
from scaling.training.evaluate import Evaluation
from scaling.training.logbook import Logbook

FLOOR = 1.0  # nats/token, the entropy rate of the imagined source


def simulate_run(plan: RunPlan, book: Logbook) -> RunRecord:
    """Write curve and record of a run whose loss is the law's, with seed noise if asked for."""
    data, count = plan.config.data, plan.config.train.evals
    rng = random.Random(plan.hash)  # the same run has the same luck
    book.refresh(
        entropy_rate=FLOOR, unique_tokens=plan.tokens, tokenizer="none", bytes_per_token=1.0,
        data_hash=f"zipf-{data.alpha:g}", device="simulated", precision="exact",
    )  # fmt: skip
    book.go_on_from(0)
    for i in range(1, count + 1):
        step = max(1, round(plan.steps ** (i / count)))
        tokens = step * plan.batch_tokens
        excess = zipf_excess(plan.params, tokens, data.alpha)
        loss = (FLOOR + excess) * math.exp(data.noise * rng.gauss(0, 1))
        book.add(
            {
                "step": step,
                "tokens": tokens,
                "seconds": 0.0,
                "val_loss": loss,
                "val_excess": loss - FLOOR,
            }
        )
    book.evaluated(
        Evaluation(
            loss, None, 0, bits_per_byte=loss / math.log(2), true_loss=FLOOR, excess=loss - FLOOR
        )
    )
    return book.end("done")

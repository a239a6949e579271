"""scaling next [SWEEP or TABLE] [key=value ...]: propose the next sweep, as a file to train.

  scaling next quickstart target.flops=1e14 allowance=5e12     runs that say most about N* at 1e14 FLOPs
  scaling next quickstart target.flops=1e14 target.decide=loss points=8
  scaling next quickstart target.flops=1e14 limits.largest=300k limits.flops=5e11
  scaling next runs.csv target.flops=1e22 allowance=1e21       for anybody's table of runs
  scaling next quickstart                                      IsoFLOP curves at 3 and 10 times the largest compute

With target.flops the runs are chosen, under an allowance of compute, so that the interval of what will
be decided there (the best size, or the lowest loss) becomes as narrow as it can; how much narrower is said.
Writes sweeps/quickstart_next.yaml; then `scaling plan quickstart_next`, `scaling train quickstart_next`, and
`scaling auto` does all of this until the interval is narrow enough.

The other keys are those of `scaling fit --help`, above all law=, params= and level=.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scaling.cli import split_sweep
from scaling.cli.analyse import Analysis, analyse
from scaling.cli.compose import compose_fit
from scaling.cli.progress import say
from scaling.study.config import FitConfig
from scaling.study.paths import set_aside


def run_next(arguments: Sequence[str]) -> int:
    """Propose the next sweep and write it as a file that `scaling train` reads."""
    analysis = analyse(compose_fit(*split_sweep(arguments)))
    sweep = propose(analysis)
    path = Path("sweeps") / f"{Path(analysis.config.sweep).stem}_next.yaml"
    path.parent.mkdir(exist_ok=True)
    if former := set_aside(path, sweep.yaml(path.stem)):
        say(f"{path}: there was another one; it is now {former}.", file=sys.stderr)
    sweep.save(path)
    print(f"{sweep}\n\n{path}\nTrain it: scaling train {path.stem}")
    return 0


def propose(analysis: Analysis) -> Any:
    """Return the sweep that the configuration asks for."""
    from scaling.analysis.allocation.design import next_sweep

    config = analysis.config
    if config.target.flops is None:
        budgets = [c * float(max(analysis.runs.C)) for c in (3, 10)]
        return next_sweep(analysis.fit, C=budgets, points=config.points)
    return next_sweep(
        analysis.fit, target_flops=config.target.flops, allowance=config.allowance, points=config.points,
        decide=config.target.decide, caps=read_caps(config), seed=config.seed,
    )  # fmt: skip


def read_caps(config: FitConfig) -> Any:
    """Return the limits of a single run."""
    from scaling.analysis.allocation.choice import Caps

    limits = config.limits
    return Caps(
        flops=limits.flops, smallest=limits.smallest, largest=limits.largest,
        least_ratio=limits.least_ratio, most_ratio=limits.most_ratio,
    )  # fmt: skip

"""scaling demo [SWEEP]: plan, train, fit, predict, verify, report, on an embedded example.

  scaling demo                  real text: Python's own sources
  scaling demo known_floor      its twin on text whose entropy is exactly known

Runs that are finished are found and not trained again.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from rich.console import Console

from scaling.cli import known_sweep, split_sweep
from scaling.cli.compose import compose_fit, compose_sweep
from scaling.cli.drawing import save_figures
from scaling.cli.fit import (
    Analysis,
    analyse,
    describe,
    save_report,
    with_new_runs,
)
from scaling.cli.plan import describe_plan
from scaling.cli.sweep import unique_plans
from scaling.cli.train import run_train
from scaling.cli.verify import verify
from scaling.study.units import format_duration


def run_demo(arguments: Sequence[str]) -> int:
    """Run the whole loop; every step is a verb that can be typed by itself."""
    name, rest = split_sweep(arguments)
    name = known_sweep(name or "quickstart")
    console, start = Console(highlight=False), time.perf_counter()

    def step(number: int, text: str, command: str) -> None:
        console.print(f"\n[bold]{number}. {text}[/bold]   [dim]{command}[/dim]")

    # 1. what will be run
    step(1, "Plan", f"scaling plan {name}")
    sweep = compose_sweep([f"sweeps={name}", *rest])
    print(describe_plan(sweep, [plan for _, plan in unique_plans(sweep.points)], None))

    # 2. train what is missing
    step(2, "Train", f"scaling train {name}")
    if run_train([name, *rest]):
        return 1

    # 3. the law
    step(3, "Fit", f"scaling fit {name}")
    results = [a for a in rest if a.startswith("results=")]
    analysis = analyse(compose_fit(name, results))
    print(describe(analysis))

    # 4. a prediction, stated before its run is trained
    step(4, "Verify", f"scaling verify {name}")
    text, verification = verify(name, analysis, rest)
    print(text)

    # 5. pictures and page
    step(5, "Report", f"scaling report {name}")
    analysis = with_new_runs(analysis)
    figures = save_figures(analysis, verification=verification)
    report = save_report(analysis, verification=verification)
    print("\n".join(f"  {path}" for path in figures))
    print("\n" + conclusion(analysis, verification))
    console.print(f"\nOpen in a browser: [bold]{report}[/bold]")
    console.print(f"[dim]Whole loop: {format_duration(time.perf_counter() - start)}.[/dim]")
    return 0


def conclusion(analysis: Analysis, verification: Any) -> str:
    """Say what was found, the floor beside the true one where it is known, and the limits of it all."""
    from scaling.present.verdict import floor_table, limits, verdict

    parts = [verdict(analysis.fit, analysis.iso)]
    floor = floor_table(analysis.fit, analysis.runs)
    if floor is not None:
        parts.append(floor.text())
    parts.append("What this law can and cannot tell:")
    parts += [f"- {sentence}" for sentence in limits(analysis.fit, verification)]
    return "\n".join(parts)

"""How close `scaling plan` comes to the time that a finished sweep really took.

    python -m benchmarks.estimates quickstart [results=FOLDER]

Measures afresh (in a cache of its own) and compares with the seconds in the records.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence

from scaling.study.table import Table
from scaling.study.units import format_duration, format_flops


def main(arguments: Sequence[str]) -> None:
    """Print estimated against recorded seconds by budget."""
    from scaling.cli.compose import compose_sweep
    from scaling.cli.estimate import estimate_seconds
    from scaling.cli.sweep import unique_plans
    from scaling.study.record import read_record

    sweep = compose_sweep([f"sweeps={arguments[0]}", *arguments[1:]])
    plans = [plan for _, plan in unique_plans(sweep.points)]
    with tempfile.TemporaryDirectory() as folder:
        os.environ["SCALING_CACHE"] = folder
        estimate = estimate_seconds(plans, sweep.jobs)
    sums: dict[float, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for plan in plans:
        record = read_record(plan.folder)
        budget = plan.config.budget.flops or 0.0
        sums[budget][0] += estimate.seconds[plan.run_id]
        sums[budget][1] += record.seconds or 0.0
    sums[float("inf")] = [sum(v[0] for v in sums.values()), sum(v[1] for v in sums.values())]
    rows = [
        [
            "all" if budget == float("inf") else format_flops(budget),
            format_duration(a),
            format_duration(b),
            f"{100 * (a / b - 1):+.0f} %",
        ]
        for budget, (a, b) in sorted(sums.items())
    ]
    print(
        Table(
            ("budget [FLOPs]", "estimated", "recorded", "error"),
            rows,
            title=f"{arguments[0]}: seconds of one worker",
        ).markdown()
    )


if __name__ == "__main__":
    main(sys.argv[1:])

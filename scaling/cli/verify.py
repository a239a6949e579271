"""scaling verify [SWEEP] [key=value ...]: state a prediction, train the run it is about, compare.

  scaling verify quickstart                               the run that the sweep file names
  scaling verify quickstart design.verify.budget.flops=8e12 ...

The prediction is written to results/<sweep>/forecast.json before the run is trained, and kept: running
the command again trains nothing and compares the same prediction.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from scaling.cli import known_sweep, split_sweep
from scaling.cli.compose import (
    compose,
    compose_fit,
    compose_sweep,
    run_config,
    without_hydra,
)
from scaling.cli.fit import Analysis, analyse
from scaling.cli.overrides import as_override
from scaling.cli.progress import run_progress
from scaling.cli.stopping import import_whole
from scaling.study.errors import ConfigError, RecordError, ScalingError
from scaling.study.plan import RunPlan, make_plan
from scaling.study.record import RunRecord, read_record, write_atomic
from scaling.study.units import format_flops, format_quantity


def run_verify(arguments: Sequence[str]) -> int:
    """Predict, train, compare."""
    name, rest = split_sweep(arguments)
    if name is None:
        raise ConfigError("name a sweep, e.g. `scaling verify quickstart`.")
    analysis = analyse(
        compose_fit(known_sweep(name), [a for a in rest if a.startswith("results=")])
    )
    text, _ = verify(name, analysis, rest)
    print(text)
    return 0


def verify(name: str, analysis: Analysis, overrides: Sequence[str]) -> tuple[str, Any]:
    """Run the whole check of one prediction.

    Returns:
        The comparison in text, and the table that figures and report draw.
    """
    from scaling.present.verification import explain, verification_table
    from scaling.present.verification import verify as compare

    # 1. state the prediction before its run exists, or find the one that was stated
    path = analysis.folder / "forecast.json"
    forecast = _stated(path, analysis) or _state(path, name, analysis, overrides)
    print(_describe(forecast), flush=True)

    # 2. train the run (or find it trained)
    config = run_config_of(name, overrides, forecast["overrides"])
    record = _train(make_plan(config))

    # 3. compare
    checked = compare(analysis.fit, _row(record, forecast, analysis))
    lines = [verification_table(checked, analysis.fit.level).text(), ""]
    lines += [explain(row, analysis.fit) for row in checked.to_dict("records")]
    lines += _baselines(analysis, record)
    return "\n".join(lines), checked


def stated_check(analysis: Analysis) -> Any | None:
    """Return the comparison of a stated prediction whose run is done, as figures and page draw it.

    None if no prediction was stated from these runs, or its run is not finished.
    """
    from scaling.present.verification import verify as compare

    forecast = _stated(analysis.folder / "forecast.json", analysis)
    if forecast is None:
        return None
    try:
        record = read_record(analysis.folder / forecast["run_id"])
    except RecordError:
        return None
    if record.status != "done":
        return None
    return compare(analysis.fit, _row(record, forecast, analysis))


def _stated(path: Path, analysis: Analysis) -> dict[str, Any] | None:
    """Read the prediction on disk, if it was made from the runs that are there now."""
    try:
        forecast = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except ValueError:  # not JSON, or not UTF-8
        forecast = None
    if not isinstance(forecast, dict) or "data_hash" not in forecast:
        raise ScalingError(f"{path}: damaged. Delete it to state the prediction again.")
    if forecast["data_hash"] != data_hash(analysis):
        print(
            f"{path}: made from other runs or other conventions than are there now; stating it again.",
            file=sys.stderr,
        )
        return None
    return forecast


def data_hash(analysis: Analysis) -> str:
    """Hash of what the prediction rests on: runs, losses, level and conventions (it stacks laws)."""
    rows = analysis.runs.fit_rows
    text = json.dumps(
        [
            sorted(zip(rows["run_id"], rows["L"], strict=True)),
            analysis.config.level,
            analysis.runs.conventions,
        ]
    )
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _state(path: Path, name: str, analysis: Analysis, overrides: Sequence[str]) -> dict[str, Any]:
    """Predict the loss of the sweep's verification run and write it down."""
    sweep = compose_sweep([f"sweeps={name}", *overrides])
    wanted = dict(sweep.design.verify)
    if not wanted:
        raise ConfigError(
            f"design.verify: sweep {name!r} names no run to verify. Add it to the sweep file, e.g. verify: {{budget.flops: 4e12, model.params: optimal}}."
        )
    if wanted.get("model.params") == "optimal":
        budget = wanted.get("budget.flops")
        if budget is None:
            raise ConfigError("design.verify: model.params: optimal needs budget.flops beside it.")
        wanted["model.params"] = float(
            f"{float(analysis.fit.optimal([float(budget)])['N'].iloc[0]):.3g}"
        )
    chosen = [as_override(key, value) for key, value in wanted.items()]
    plan = make_plan(run_config_of(name, overrides, chosen))
    forecast = {
        "stated_at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "sweep": name, "run_id": plan.run_id, "overrides": chosen, "data_hash": data_hash(analysis), "runs": len(analysis.runs),
        "conventions": analysis.runs.conventions, **_predict(analysis, plan),
    }  # fmt: skip
    write_atomic(path, json.dumps(forecast, indent=1) + "\n")
    return forecast


def _predict(analysis: Analysis, plan: RunPlan) -> dict[str, Any]:
    """Loss of the run with its intervals, in the analysis' conventions."""
    import numpy as np

    from scaling.analysis.forecasts.forecasting import forecast

    params = {"total": plan.counts.total, "non_embedding": plan.counts.non_embedding}.get(
        analysis.runs.params, plan.counts.non_embedding + plan.shape.vocab * plan.shape.width
    )
    flops = plan.flops_counted if analysis.runs.flops == "counted" else 6.0 * params * plan.tokens
    p = forecast(analysis.runs, N=params, D=plan.tokens, level=analysis.config.level)
    values = {
        "predicted": p.loss,
        "lo": p.lo,
        "hi": p.hi,
        "next_lo": p.next_lo,
        "next_hi": p.next_hi,
    }
    numbers = {k: float(np.ravel(v)[0]) for k, v in values.items()}
    laws = {
        str(row.law): round(float(row.weight), 3)
        for row in (p.laws.itertuples() if p.laws is not None else ())
    }
    return {
        "laws": laws,
        "stretch": float(p.stretch),
        "level": analysis.config.level,
        "N": params,
        "D": plan.tokens,
        "C": flops,
        **numbers,
    }


def run_config_of(name: str, overrides: Sequence[str], chosen: Sequence[str]) -> Any:
    """Return the configuration of the verification run: the sweep's, with the chosen keys, held out."""
    asked = [f"sweeps={name}", *overrides]
    sweep = compose_sweep(asked)
    keys = {c.split("=", 1)[0] for c in chosen}
    others = [
        f"budget.{k}=null"
        for k in ("tokens", "flops", "tokens_per_param")
        if f"budget.{k}" not in keys
    ]
    return run_config(
        sweep.base, [*others, *chosen, "role=verify"], lambda extra: without_hydra(compose("train", [*asked, *extra]))
    )  # fmt: skip


def _train(plan: RunPlan) -> RunRecord:
    train = import_whole("scaling.training.trainer").train
    with run_progress(plan) as on_progress:
        record: RunRecord = train(plan, on_progress=on_progress)
    if record.status != "done":
        raise ScalingError(
            f"{plan.run_id}: {record.status} ({record.reason}); there is nothing to compare. Its record: {plan.folder}"
        )
    return record


def _describe(forecast: dict[str, Any]) -> str:
    percent = f"{100 * forecast['level']:g} %"
    return (
        f"Stated {forecast['stated_at']} from {forecast['runs']} runs, before the run is trained: N {format_quantity(forecast['N'])}, "
        f"D {format_quantity(forecast['D'])}, C {format_flops(forecast['C'])} will reach {forecast['predicted']:.4f} nats/token "
        f"({percent} interval of one run {forecast['next_lo']:.4f} to {forecast['next_hi']:.4f}).\n"
        f"Laws, weighted by how well they foresaw larger runs: {', '.join(f'{law} {weight:.0%}' for law, weight in forecast['laws'].items())}."
    )


def _row(record: RunRecord, forecast: dict[str, Any], analysis: Analysis) -> Any:
    import pandas as pd

    names = ("N", "D", "C", "predicted", "lo", "hi", "next_lo", "next_hi")
    measured = getattr(record, analysis.runs.loss)
    return pd.DataFrame(
        [{"run_id": record.run_id, "measured": measured, **{n: forecast[n] for n in names}}]
    )


def _baselines(analysis: Analysis, record: RunRecord) -> list[str]:
    """What one would have guessed without a law: the best loss so far."""
    best = float(min(analysis.runs.L))
    measured = getattr(record, analysis.runs.loss)
    return [
        f"For comparison, the best loss among the fitted runs is {best:.4f}: {abs(best / measured - 1):.1%} from the measured {measured:.4f}."
    ]

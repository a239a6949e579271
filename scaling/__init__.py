"""Scaling-law experiments for language models: plan, train, fit, predict, verify.

    import scaling as sl
    runs = sl.load("results/quickstart")
    fit = sl.fit(runs, law="chinchilla")
    fit.predict(N=1e6, D=2e7)

Names are loaded when they are first used, so that `import scaling` is quick.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_NAMES = {
    "load": "scaling.analysis.data.runs",
    "Runs": "scaling.analysis.data.runs",
    "fit": "scaling.analysis.fits.fitting",
    "Fit": "scaling.analysis.fits.fitting",
    "fit_groups": "scaling.analysis.fits.groups",
    "transferred": "scaling.analysis.fits.worth",
    "read_schedules": "scaling.analysis.data.schedule",
    "multi_power_law": "scaling.analysis.laws.schedules",
    "tissue_law": "scaling.analysis.laws.schedules",
    "predict_curve": "scaling.analysis.laws.schedules",
    "published_hyperparameters": "scaling.analysis.allocation.hyperparameters",
    "fit_isoflops": "scaling.analysis.frontier.isoflops",
    "fit_envelope": "scaling.analysis.frontier.envelope",
    "collapse": "scaling.analysis.frontier.normalised",
    "approaches": "scaling.analysis.frontier.sidebyside",
    "parabola_bias": "scaling.analysis.frontier.bias",
    "fit_exponent": "scaling.analysis.frontier.exponents",
    "Surface": "scaling.analysis.allocation.decided",
    "as_surface": "scaling.analysis.allocation.decided",
    "best_size": "scaling.analysis.allocation.decisions",
    "smallest_compute": "scaling.analysis.allocation.decisions",
    "misallocation": "scaling.analysis.allocation.decisions",
    "deadweight": "scaling.analysis.allocation.decisions",
    "cheapest_lifetime": "scaling.analysis.allocation.lifetime",
    "overtrained": "scaling.analysis.allocation.lifetime",
    "data_limited": "scaling.analysis.allocation.lifetime",
    "write_results": "scaling.analysis.writing",
    "forecast": "scaling.analysis.forecasts.forecasting",
    "compare": "scaling.analysis.forecasts.comparison",
    "backtest": "scaling.analysis.forecasts.backtesting",
    "seal": "scaling.analysis.forecasts.seals",
    "settle": "scaling.analysis.forecasts.settling",
    "scoreboard": "scaling.analysis.forecasts.settling",
    "write_bundle": "scaling.analysis.data.bundling",
    "next_sweep": "scaling.analysis.allocation.design",
    "Caps": "scaling.analysis.allocation.choice",
    "simulate": "scaling.analysis.data.simulation",
    "simulate_design": "scaling.analysis.designs.simulation",
    "sensitivity": "scaling.analysis.audits.multiverse",
    "audit": "scaling.analysis.audits.auditing",
    "gaps": "scaling.analysis.fits.disparity",
    "seed_noise": "scaling.analysis.fits.replicates",
    "best_runs": "scaling.analysis.data.tuning",
    "RunConfig": "scaling.study.config",
    "make_plan": "scaling.study.plan",
    "train": "scaling.training.trainer",
    "generate": "scaling.training.writer",
    "coordinate_check": "scaling.training.coordinates",
    "attention_maps": "scaling.training.attending",
    "logit_lens": "scaling.training.lens",
    "induction": "scaling.training.heads",
    "write_report": "scaling.present.report",
}
_MODULES = {"plot": "scaling.present.plot", "laws": "scaling.analysis.laws"}

__all__ = sorted([*_NAMES, *_MODULES, "__version__"])


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(_MODULES[name])
    if name in _NAMES:
        return getattr(importlib.import_module(_NAMES[name]), name)
    raise AttributeError(f"module 'scaling' has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return __all__

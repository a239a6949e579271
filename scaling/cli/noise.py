"""scaling noise SWEEP or TABLE [difference=0.01] [key=value ...]: scatter between seeds.

  scaling noise seeds                          SD of val_loss between runs that differ in their seeds only
  scaling noise seeds loss=val_loss_zh         on another validation set
  scaling noise runs.csv difference=0.005      seeds per setting that show a difference of 0.005

One row per setting that was trained with several seeds, and the pooled SD with its interval, beside
the standard error of evaluation. Replicates come from `scaling train SWEEP seed=0,1,2,3`.
Other keys: loss, level, params, results, columns and units, as for `scaling fit`.
"""

from __future__ import annotations

from collections.abc import Sequence

from scaling.cli import split_sweep
from scaling.cli.analyse import read_runs
from scaling.cli.compose import compose_fit
from scaling.study.config import FitConfig, config_keys
from scaling.study.errors import ConfigError, did_you_mean
from scaling.study.units import parse_quantity

DIFFERENCE = (
    0.01  # nats/token; what 4 % of N make at 100M parameters by the fit of Hoffmann et al. 2022
)


def run_noise(arguments: Sequence[str]) -> int:
    """Print the noise floor."""
    from scaling.analysis.fits.replicates import seed_noise

    name, rest = split_sweep(arguments)
    _check_names(rest)
    asked = [a.partition("=")[2] for a in rest if a.startswith("difference=")]
    config = compose_fit(name, [a for a in rest if not a.startswith("difference=")])
    difference = float(parse_quantity(asked[-1], key="difference")) if asked else DIFFERENCE
    _, runs = read_runs(config)
    print(seed_noise(runs, level=config.level).summary(difference))
    return 0


def _check_names(overrides: Sequence[str]) -> None:
    """Refuse a misspelt `difference`, which the keys of a fit do not know.

    Raises:
        ConfigError: names the key that is nearest.
    """
    known = ["difference", *(key.name for key in config_keys(FitConfig))]
    for override in overrides:
        name = override.partition("=")[0]
        hint = did_you_mean(name, known)
        if name not in known and "difference" in hint:
            raise ConfigError(f"{name}: no such key.{hint}")

"""From conf, sweep files and overrides to checked configurations: the home of Hydra and omegaconf."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from scaling.cli import quote_text
from scaling.cli.design import DESIGN_KEYS, Design
from scaling.cli.overrides import known_keys, read_value, to_mapping
from scaling.study.config import FitConfig, RunConfig, config_keys
from scaling.study.errors import ConfigError, did_you_mean
from scaling.study.paths import data_dir
from scaling.study.plan import make_plan
from scaling.study.trunks import common_horizons


def register_schema() -> None:
    """Give Hydra every key with its default, so that it refuses keys that do not exist."""
    values = {**_defaults(RunConfig), "design": dict.fromkeys(DESIGN_KEYS), "together": None}
    ConfigStore.instance().store(name="schema", node=OmegaConf.create(values))
    ConfigStore.instance().store(name="fit_schema", node=OmegaConf.create(_defaults(FitConfig)))


def _defaults(cls: type) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key in config_keys(cls):
        node = values
        *groups, name = key.name.split(".")
        for group in groups:
            node = node.setdefault(group, {})
        node[name] = key.default
    return values


def search_path_override(overrides: Sequence[str]) -> list[str]:
    """Return the override that lets Hydra find sweep files, the user's own folder first, and the user's ./conf."""
    if any(o.startswith("hydra.searchpath=") for o in overrides):
        return []
    folders = [f for f in (Path.cwd() / "sweeps", data_dir("sweeps")) if f.is_dir()]
    own = Path.cwd() / "conf"
    groups = [f"'groups://{own}'"] if own.is_dir() and own != data_dir("conf") else []
    paths = ",".join([*(f"'sweeps://{f}'" for f in dict.fromkeys(folders)), *groups])
    return [f"hydra.searchpath=[{paths}]"]


def compose(name: str, overrides: Sequence[str]) -> DictConfig:
    """Compose `conf/<name>.yaml` with overrides that do not sweep.

    Raises:
        ConfigError: Hydra's complaint in our words.
    """
    try:
        with _hydra():
            return hydra_compose(
                name,
                # a sweep's name may be in any script, which Hydra's grammar wants quoted
                overrides=[*map(quote_text, overrides), *search_path_override(overrides)],
                return_hydra_config=True,
            )
    except (HydraException, OmegaConfBaseException) as error:
        raise explain(error) from None


def _hydra() -> Any:
    GlobalHydra.instance().clear()
    register_schema()
    return initialize_config_dir(version_base="1.3", config_dir=str(data_dir("conf")))


@dataclass(frozen=True)
class Point:
    """One run of a sweep: the overrides that make it and the configuration that results."""

    overrides: list[str]
    config: RunConfig


@dataclass(frozen=True)
class Sweep:
    """A composed sweep: base configuration, design, and every run."""

    name: str
    design: Design
    points: list[Point]
    base: DictConfig
    jobs: int = 1  # runs at once, as the launcher says
    asked: int = 0  # points as they were written, those that say the same included


def compose_sweep(arguments: Sequence[str]) -> Sweep:
    """Compose a sweep from command-line arguments, sweeping values like `a=1,2` included."""
    try:
        parsed = OverridesParser.create().parse_overrides([quote_text(a) for a in arguments])
        plain = [o.input_line for o in parsed if not o.is_sweep_override() and o.input_line]
        composed = compose("train", plain)
        sweep = expand(
            without_hydra(composed),
            parsed,
            lambda extra: without_hydra(compose("train", [*plain, *extra])),
        )
        return replace(sweep, jobs=_jobs_at_once(composed))
    except (HydraException, OmegaConfBaseException) as error:
        raise explain(error) from None


def _jobs_at_once(cfg: DictConfig) -> int:
    from scaling.cli.workers import local_workers  # which reads what is composed here

    return local_workers(cfg) or 1


def without_hydra(cfg: DictConfig) -> DictConfig:
    """Return a copy without Hydra's own node."""
    return OmegaConf.masked_copy(cfg, [str(k) for k in cfg if k != "hydra"])


def expand(
    base: DictConfig, parsed: Sequence[Override], recompose: Callable[[list[str]], DictConfig]
) -> Sweep:
    """Expand the command line's sweeps and the design into runs.

    The command line has the last word: a key it sets is not swept by the design. Plain values are
    set on the base configuration; only changes of a config group need Hydra to compose again.
    """
    design = Design.from_config(base)
    missing = [key for key in OmegaConf.missing_keys(base) if key.startswith("design.")]
    if missing:
        raise ConfigError(f"{min(missing)}: no value (???). Give one, e.g. {min(missing)}=...")
    fixed = {_key(o) for o in parsed}
    sweeps = [
        [f"{_key(o)}={v}" for v in o.sweep_string_iterator()]
        for o in parsed
        if o.is_sweep_override()
    ]
    designs = [[o for o in run if o.split("=", 1)[0] not in fixed] for run in design.overrides()]
    runs = [[*run, *combination] for run in designs for combination in itertools.product(*sweeps)]
    values = OmegaConf.to_container(base, resolve=False)
    points = [Point(run, _config_of(values, run, recompose)) for run in _unique(runs)]
    if design.trunks:
        points = _with_horizons(points)
    return Sweep(name=str(base.sweep), design=design, points=points, base=base, asked=len(runs))


def _with_horizons(points: list[Point]) -> list[Point]:
    """Let budgets of one model read their rules at one horizon, unless it is set."""
    free = [p for p in points if p.config.optim.horizon is None]
    tokens = dict(
        zip(map(id, free), common_horizons([make_plan(p.config) for p in free]), strict=True)
    )
    return [
        Point([*p.overrides, f"optim.horizon={at!r}"], p.config.replace(**{"optim.horizon": at}))
        if (at := tokens.get(id(p))) is not None
        else p
        for p in points
    ]


def _key(override: Override) -> str:
    return override.get_key_element().lstrip("+~")


def _unique(runs: list[list[str]]) -> list[list[str]]:
    return [list(run) for run in dict.fromkeys(tuple(run) for run in runs)]


def run_config(
    base: DictConfig, overrides: Sequence[str], recompose: Callable[[list[str]], DictConfig]
) -> RunConfig:
    """Return the checked configuration of one run."""
    return _config_of(OmegaConf.to_container(base, resolve=False), overrides, recompose)


def _config_of(
    base: Any, overrides: Sequence[str], recompose: Callable[[list[str]], DictConfig]
) -> RunConfig:
    """As `run_config`, from plain values: thousands of runs share one base."""
    pairs = [o.split("=", 1) for o in overrides]
    if any("." not in key and key not in known_keys() for key, _ in pairs):  # config groups
        return to_run_config(recompose(list(overrides)))
    values = {key: _branches(value) for key, value in base.items() if key not in _NOT_OF_A_RUN}
    for key, text in pairs:
        if key not in known_keys():
            raise ConfigError(
                f"{key}: no such key.{did_you_mean(key, known_keys())} `scaling keys` lists all of them."
            )
        *groups, name = key.split(".")
        node = values
        for group in groups:
            node = node[group]
        node[name] = read_value(text)
    # omegaconf takes ten times as long as all the rest, and is needed for two kinds of values
    if any(mark in str(values) for mark in ("${", "???")):
        return to_run_config(OmegaConf.create({**base, **values}))
    return RunConfig.from_dict(values)


def _branches(value: Any) -> Any:
    """Copy nested mappings, so that setting a key of one run leaves the others."""
    return {k: _branches(v) for k, v in value.items()} if isinstance(value, dict) else value


_NOT_OF_A_RUN = ("design", "hydra", "sweeps", "together")


def to_run_config(cfg: DictConfig) -> RunConfig:
    """Check a composed configuration; also what slipped past Hydra with `+key=value` or `???`."""
    missing = OmegaConf.missing_keys(cfg)
    if missing:
        raise ConfigError(f"{min(missing)}: no value (???). Give one, e.g. {min(missing)}=...")
    return RunConfig.from_dict({k: v for k, v in to_mapping(cfg).items() if k not in _NOT_OF_A_RUN})


def compose_fit(sweep: str | None, overrides: Sequence[str]) -> FitConfig:
    """Compose and check how results are fitted; the bare word names the sweep, or a table's path."""
    if sweep is not None and any(o.startswith("sweep=") for o in overrides):
        raise ConfigError(f"sweep: named twice, as {sweep!r} and by sweep=. Drop one.")
    overrides, direct = _take_direct(overrides)
    values = to_mapping(without_hydra(compose("fit", overrides)))
    for key, value in direct.items():
        values[key] = {**(values.get(key) or {}), **value} if isinstance(value, dict) else value
    return FitConfig.from_dict(values if sweep is None else values | {"sweep": sweep})


_MAPPINGS = ("columns", "units", "fixed", "where")


def _take_direct(overrides: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """Take what Hydra's grammar would not read: `columns.mine=params`, paths, lists of formats."""
    rest: list[str] = []
    taken: dict[str, Any] = {}
    for override in overrides:
        key, equals, value = override.partition("=")
        group, dot, name = key.lstrip("+").partition(".")
        if equals and dot and name and group in _MAPPINGS:
            taken.setdefault(group, {})[name] = value.strip("'\"")
        elif equals and key in ("columns", "units") and value.startswith("{"):
            taken.setdefault(key, {}).update(_read_mapping(key, value))
        elif (
            equals
            and key in ("sweep", "out", "format", "figures", "formats")
            and value not in ("null", "")
        ):
            taken[key] = value.strip("'\"")
        else:
            rest.append(override)
    return rest, taken


def _read_mapping(key: str, text: str) -> dict[str, Any]:
    """Read `{'params (M)': params}`, names with spaces included, which Hydra would not."""
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError:
        values = None
    if not isinstance(values, dict) or None in values.values():
        raise ConfigError(
            f"{key}: {text} is no mapping. Write {key}.NAME=VALUE, or {key}='{{NAME: VALUE}}' with a space after each colon."
        )
    return {str(name): str(value) for name, value in values.items()}


def explain(error: Exception) -> ConfigError:
    """Say a Hydra or omegaconf complaint in one line that names the key and the nearest known one."""
    text = str(error).strip()
    cause = str(error.__cause__ or "").strip()
    known = [k.name for root in (RunConfig, FitConfig) for k in config_keys(root)]
    override = re.search(r"Could not override '([^']+)'", text)
    if override:
        name = override[1]
        return ConfigError(
            f"{name}: no such key.{did_you_mean(name, known)} `scaling keys` lists all of them."
        )
    several = re.search(r"Ambiguous value for argument '([^'=]+)=([^']*)'", text)
    if several:
        name, value = several[1], several[2]
        return ConfigError(
            f"{name}: takes one value here; got {value}. Write {name}={value.split(',')[0]}, or {name}='\"{value}\"' if the comma belongs to it. "
            "Grids are of `scaling train -m`; laws are compared by `sl.compare` in Python and figures=comparison of `scaling plot`."
        )
    group = re.search(r"Could not find '([^']+)/([^']+)'", text) or re.search(
        r"In '[^']+': Could not find '([^']+)/([^']+)'", text
    )
    if group:
        options = re.search(r"Available options in '[^']+':\n((?:\t.*\n?)+)", text)
        names = [line.strip() for line in options[1].splitlines()] if options else []
        listed = f" There are: {', '.join(names)}." if names else ""
        return ConfigError(
            f"{group[1]}: there is no {group[2]!r}.{did_you_mean(group[2], names)}{listed}"
        )
    first = " ".join(filter(None, [text.split("\nSet the environment")[0], cause]))
    return ConfigError(re.sub(r"\s*\n\s*", " ", first))

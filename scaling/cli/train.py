"""scaling train [SWEEP] [key=value ...]: train one run, or what is missing of a sweep.

  scaling train model.params=1M budget.tokens=20M              one run
  scaling train model.params=40M budget.flops=1e17             another budget: tokens, flops or tokens_per_param
  scaling train quickstart                                     a sweep of sweeps/; again: only what is missing
  scaling train -m model.params=1M,4M budget.tokens=20M,40M    a grid (an ordinary Hydra multirun)
  scaling train quickstart seed=0,1,2,3                        replicates; small runs of one shape train as one program
  scaling train quickstart hydra/launcher=local                several at once on this machine: its GPUs, or its cores
  scaling train quickstart hydra/launcher=slurm hydra.launcher.partition=gpu    submit and return (docs/cluster.md)
  scaling train quickstart hydra/launcher=ray hydra.launcher.address=auto       on a Ray cluster; without address: on this machine
  scaling train quickstart retry.diverged=1                    runs that diverged once more, at half the rate
  scaling train mine design.trunks=true                        budgets of one model share a trunk (wsd)
  scaling train model.init_from=my_model budget.tokens=1M      start from a Hugging Face folder or a run
  scaling train model.init_from=sweep:pretrain model.params=16k finetune.parts=lora budget.tokens=1M     (docs/transfer.md)
  scaling train model.params=1M data.validation.zh=zh.txt      further held-out texts, by name
  torchrun --standalone --nproc_per_node=8 -m scaling train model.params=500M budget.tokens=10B

Records go to results/<sweep>/<run_id>/. `scaling keys` lists every key. Hydra's own flags work too
(--cfg job prints the composed configuration and trains nothing).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

import hydra
from omegaconf import DictConfig

from scaling.cli import known_sweep, quote_text, split_sweep
from scaling.cli.compose import explain, register_schema, search_path_override, to_run_config
from scaling.cli.evaluate import UNSHOWN, even_guess, unscored
from scaling.cli.jobs import TOGETHER, further_configs
from scaling.cli.plankeys import is_plan_key
from scaling.cli.progress import run_progress, say
from scaling.cli.stopping import import_whole, leave_if_orphaned, leave_with_launcher
from scaling.study.errors import ConfigError, FollowedError, ScalingError
from scaling.study.paths import data_dir
from scaling.study.plan import make_plan
from scaling.study.record import RunRecord
from scaling.study.units import format_duration, format_quantity
from scaling.training.place import is_first


def run_train(arguments: Sequence[str]) -> int:
    """Train through Hydra: its parser, its launchers, our sweeper."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    name, rest = split_sweep(arguments)
    of_planning = [a.partition("=")[0] for a in rest if is_plan_key(a)]
    if of_planning:
        raise ConfigError(
            f"{of_planning[0]}: belongs to `scaling plan`, which times a few steps, prices and simulates; training does none of it. Leave it out."
        )
    if name is not None:
        sweeping = [] if any(a in _LOOKING for a in rest) else ["-m"]
        rest = [*sweeping, quote_text(f"sweeps={known_sweep(name)}"), *rest]
    elif _is_launched(rest):
        rest = ["-m", *rest]
    register_schema()
    set_failed(0)
    flags, overrides = _split_flags(rest)
    # Hydra prints errors itself unless told not to; we say them in our words
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    argv, sys.argv = (
        sys.argv,
        ["scaling train", *overrides, *search_path_override(overrides), *flags],
    )
    try:
        hydra.main(version_base="1.3", config_path=str(data_dir("conf")), config_name="train")(
            train_task
        )()
    except (HydraException, OmegaConfBaseException) as error:
        raise explain(error) from None
    finally:
        sys.argv = argv
    if _refused:
        reason = _refused.pop()
        if isinstance(reason, FollowedError):
            return 1
        raise reason
    return _failed


def _is_launched(arguments: Sequence[str]) -> bool:
    """Whether one run is to go through a launcher, which Hydra asks for sweeps only."""
    names = [a.partition("=")[2] for a in arguments if a.startswith("hydra/launcher=")]
    looking = any(a in (*_LOOKING, "-m", "--multirun") for a in arguments)
    return bool(names) and names[-1] not in ("here", "basic") and not looking


# Hydra's flags that show something and train nothing; they do not go with -m
_LOOKING = ("-c", "--cfg", "-i", "--info")
# Hydra's flags that are followed by a value
_VALUE_FLAGS = (
    "-c",
    "--cfg",
    "-p",
    "--package",
    "-cn",
    "--config-name",
    "-cd",
    "--config-dir",
    "-i",
    "--info",
)


def _split_flags(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Separate Hydra's flags (with their values) from overrides, which it wants side by side."""
    flags, overrides = [], []
    rest = iter(arguments)
    for argument in rest:
        if not argument.startswith("-"):
            overrides.append(argument)
            continue
        flags.append(argument)
        if argument in _VALUE_FLAGS:
            flags += [value for value in [next(rest, None)] if value is not None]
    return flags, overrides


_failed = 0  # exit code of the last multirun in this process; set by scaling.cli.sweep


def set_failed(count: int) -> None:
    """Let a multirun whose runs failed end with exit code 1."""
    global _failed
    _failed = int(count > 0)


def train_task(cfg: DictConfig) -> dict[str, Any]:
    """Train the run that a composed configuration stands for; this is what launchers execute."""
    from hydra.core.hydra_config import HydraConfig

    alone = not HydraConfig.initialized() or str(HydraConfig.get().mode) == "RunMode.RUN"
    if alone:
        try:
            return _train_alone(cfg)
        except (ScalingError, OSError) as error:
            _refused.append(error)  # raised by run_train; Hydra would add a line of its own
            return {}
    train_together = import_whole("scaling.training.trainer").train_together
    leave_if_orphaned()
    leave_with_launcher()
    config = to_run_config(cfg)
    configs = [config, *(further_configs(config, cfg.together) if cfg.get(TOGETHER) else [])]
    try:
        records = train_together([make_plan(c) for c in configs])
        return {r.run_id: r.to_dict() for r in records}
    except SystemExit:  # after a notice, everything saved
        leave_if_orphaned()
        raise


_refused: list[Exception] = []  # why the only run of this command was not trained


def _train_alone(cfg: DictConfig) -> dict[str, Any]:
    """Train one run with a progress line, and say what came out."""
    train = import_whole("scaling.training.trainer").train
    plan = make_plan(to_run_config(cfg))
    if not is_first():  # another process of this run says what there is to say
        return train(plan).to_dict()
    with run_progress(plan) as on_progress:
        record = train(plan, on_progress=on_progress)
    say(describe_run(record, str(plan.folder)))
    if record.status == "done" and (hint := unscored([plan])):
        say(hint)
    return record.to_dict()


def describe_run(record: RunRecord, folder: str) -> str:
    """Say how a run ended, what it scores on each held-out text, and where its record is."""
    if record.status != "done":
        return f"{record.run_id}: {record.status}. {record.reason or ''}\n  {folder}"
    parts = [f"validation loss {_scored(record.val_loss, record.val_loss_se, record.vocab)}"]
    if record.val_perplexity is not None:
        parts.append(f"perplexity {record.val_perplexity:.3g}")
    if record.val_pseudo_perplexity is not None:
        parts.append(f"pseudo-perplexity {record.val_pseudo_perplexity:.3g} ({record.objective})")
    if record.val_bits_per_byte is not None:
        parts.append(f"{record.val_bits_per_byte:.3f} bits/byte")
    if record.val_excess is not None:
        parts.append(f"{record.val_excess:.4f} above the true source")
    parts.append(f"{format_quantity(record.tokens)} tokens in {format_duration(record.seconds)}")
    lines = [f"{record.run_id}: done. {', '.join(parts)}"]
    for name, scores in (record.val_sets or {}).items():
        line = f"  val_loss_{name} {_scored(scores.get('loss'), scores.get('se'), record.vocab)}"
        per_byte = scores.get("bits_per_byte")
        lines.append(line + (f", {per_byte:.3f} bits/byte" if per_byte is not None else ""))
    for name, found in (record.measures or {}).items():
        if found.get("group") is not None and name.startswith(UNSHOWN):
            continue
        error = f" (± {found['se']:.3g})" if found.get("se") is not None else ""
        lines.append(f"  {name} {found['value']:.4g}{error}, {found['better']} is better")
    return "\n".join([*lines, f"  {folder}"])


def _scored(loss: float | None, error: float | None, vocab: int | None) -> str:
    """Write a loss with its error, and mark one that an even guess over the tokens would beat."""
    if loss is None:
        return "not finite"
    text = f"{loss:.4f} nats/token" + (f" (± {error:.4f})" if error is not None else "")
    even = even_guess(vocab)
    return text + (f", worse than an even guess ({even:.4f})" if loss > even else "")

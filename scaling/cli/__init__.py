"""The `scaling` command: one door, one verb at a time.

Nothing heavy is imported before the verb is known, so that help answers at once.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from itertools import pairwise

HELP = """\
scaling: plan a grid of Transformers, train it, fit the law, verify the prediction.

usage: scaling VERB [SWEEP] [key=value ...]

  init      a small study of your own, ready to be trained      scaling init my_study data=my.txt
  doctor    whether this machine can train, and what to do      scaling doctor
  plan      what would be run: exact N, tokens, FLOPs, time     scaling plan quickstart
  train     train one run,                                      scaling train model.params=1M
            what is missing of a sweep,                         scaling train quickstart
            or a grid from the command line                     scaling train -m model.params=1M,4M
  status    done, running, failed, the law so far; --watch live scaling status quickstart
  evaluate  score finished runs on further texts               scaling evaluate quickstart data.validation.zh=zh.txt
  fit       fit a law: parameters with intervals, optimum       scaling fit runs.csv law=chinchilla
  noise     scatter between seeds, and how many a study needs  scaling noise quickstart
  gaps      law of each group, and whether scale closes gaps    scaling gaps fairness
  plot      IsoFLOP curves, frontier, training curves           scaling plot quickstart
  verify    predict a larger run, train it, compare             scaling verify quickstart
  forecast  seal a prediction before its run, score it          scaling forecast --help
  report    one page that opens in a browser                    scaling report quickstart
  audit     what is wrong with a table of runs, or its claims   scaling audit runs.csv
  next      the runs that say most about a larger compute       scaling next quickstart target.flops=1e14
  auto      train, fit, choose, until an interval is narrow     scaling auto --help
  generate  text that trained models write                      scaling generate gallery prompt="def main("
  attention where every head looks, for a text; logit lens     scaling attention RUN text="..."
  induction heads that copy what followed last time            scaling induction SWEEP
  export    a run as a Hugging Face model folder                scaling export RUN my_model
  clean     disk used; checkpoints that nobody needs any more   scaling clean quickstart
  merge     runs of other results folders into this one         scaling merge other/results
  bundle    a sweep as one file that a colleague loads          scaling bundle quickstart
  demo      plan, train, fit, verify on an embedded example     scaling demo
  keys      every key with default, unit and meaning            scaling keys optim
  completion  Tab completes verbs, sweeps, keys and values      scaling completion --help

SWEEP is a file of sweeps/ (yours in ./sweeps, or one of: {sweeps}).
What reads results takes a table too: a CSV, JSONL or Parquet file of anybody's runs, or a bundle.
Numbers may be written 40M, 2.5B, 1e18. `scaling VERB --help` says more."""

VERBS = {
    "init": "scaling.cli.init",
    "doctor": "scaling.cli.doctor",
    "plan": "scaling.cli.plan",
    "train": "scaling.cli.train",
    "status": "scaling.cli.status",
    "evaluate": "scaling.cli.evaluate",
    "fit": "scaling.cli.fit",
    "noise": "scaling.cli.noise",
    "gaps": "scaling.cli.gaps",
    "plot": "scaling.cli.drawing",
    "report": "scaling.cli.fit",
    "next": "scaling.cli.next",
    "auto": "scaling.cli.auto",
    "verify": "scaling.cli.verify",
    "forecast": "scaling.cli.forecast",
    "audit": "scaling.cli.audit",
    "generate": "scaling.cli.generate",
    "attention": "scaling.cli.inside",
    "lens": "scaling.cli.inside",
    "induction": "scaling.cli.inside",
    "export": "scaling.cli.export",
    "clean": "scaling.cli.clean",
    "merge": "scaling.cli.merge",
    "bundle": "scaling.cli.bundle",
    "demo": "scaling.cli.demo",
    "keys": "scaling.cli.keys",
    "completion": "scaling.cli.completion",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; return the exit code (0 fine, 1 an error that is explained, 130 Ctrl-C)."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    verb = arguments[0] if arguments else "--help"
    if verb in ("-h", "--help", "help"):
        print(HELP.format(sweeps=", ".join(sweep_names())))
        return 0
    if verb == "--version":
        from scaling import __version__

        print(__version__)
        return 0
    if verb == "complete":  # asked by shells, whatever else stands in the line
        from scaling.cli.complete import run_complete

        return run_complete(arguments[1:])
    from scaling.study.errors import ScalingError, did_you_mean

    if verb not in VERBS:
        import scaling

        function = f" There is scaling.{verb}(...) in Python." if verb in scaling._NAMES else ""
        print(
            f"scaling: there is no verb {verb!r}.{did_you_mean(verb, VERBS)}{function} Try `scaling --help`.",
            file=sys.stderr,
        )
        return 1
    try:
        module = importlib.import_module(VERBS[verb])
        if any(a in ("-h", "--help") for a in arguments[1:]):
            print(getattr(module, "HELPS", {}).get(verb) or (module.__doc__ or "").strip())
            return 0
        return int(getattr(module, f"run_{verb}")(arguments[1:]) or 0)
    except ScalingError as error:
        from scaling.study.pages import more_on

        print(
            "\n".join(filter(None, [f"scaling {verb}: {error}", more_on(error)])), file=sys.stderr
        )
        return 1
    except KeyboardInterrupt:
        print(
            f"\nscaling {verb}: interrupted; the same command continues where it stopped.",
            file=sys.stderr,
        )
        return 130
    except BrokenPipeError:  # the reader of our output (head, less) has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:  # a full disk, a folder that may not be read
        where = f"{error.filename}: " if error.filename else ""
        print(
            f"scaling {verb}: {where}{error.strerror or error}. Free space or set results= to another folder; "
            "what is finished is kept, and the same command goes on.",
            file=sys.stderr,
        )
        return 1


def sweep_names() -> list[str]:
    """Return the names of the sweep files in ./sweeps and of the package."""
    from pathlib import Path

    from scaling.study.paths import data_dir

    folders = (Path.cwd() / "sweeps", data_dir("sweeps"))
    return sorted({f.stem for folder in folders if folder.is_dir() for f in folder.glob("*.yaml")})


def split_sweep(arguments: Sequence[str]) -> tuple[str | None, list[str]]:
    """Take the optional bare word after the verb; the rest is Hydra's.

    Returns:
        The sweep's name or None, and the remaining arguments.

    Raises:
        ConfigError: a value without its key.
    """
    from scaling.study.errors import ConfigError

    arguments = [quote_text(b) for a in arguments for b in spread_sets(a)]
    keyless = [a for a in arguments if a.startswith("=")]
    if keyless:
        raise ConfigError(f"{keyless[0]!r}: no key before the =. Write key=value.")
    if arguments and _is_bare(arguments[0]):
        # `--cfg job` has a bare word too, which belongs to its flag
        more = [a for flag, a in pairwise(arguments) if _is_bare(a) and not flag.startswith("-")]
        if more:
            raise ConfigError(
                f"{more[0]!r}: a second bare word after {arguments[0]!r}; only one names the sweep or table. Write key=value, e.g. law=chinchilla."
            )
        return arguments[0], arguments[1:]
    return None, arguments


def without_multirun(arguments: Sequence[str]) -> list[str]:
    """Leave out Hydra's `-m`, so that a verb takes the line that `train` takes and expands it itself."""
    return [a for a in arguments if a not in ("-m", "--multirun")]


def _is_bare(argument: str) -> bool:
    return "=" not in argument and not argument.startswith(("-", "~", "+"))


SETS = "data.validation"


def spread_sets(argument: str) -> list[str]:
    """Bring validation sets into the form that Hydra takes for keys which are not there yet.

    `data.validation.zh=a.txt` and `data.validation={zh: a.txt}` become `++data.validation.zh='a.txt'`;
    numbers of special tokens likewise.

    Raises:
        ConfigError: a mapping that cannot be read.
    """
    key, equals, value = argument.partition("=")
    name = key.lstrip("+")
    if equals and name.startswith("objective.specials."):
        return [f"++{name}={value}"]
    if not equals or not (name == SETS or name.startswith(SETS + ".")) or value in ("null", ""):
        return [argument]
    if name != SETS:
        return [_set_override(name, value.strip("'\""))]
    if not value.startswith("{"):  # a sweep, an interpolation: Hydra's business
        return [argument]
    return [_set_override(f"{SETS}.{k}", str(v)) for k, v in _read_sets(value).items()]


def _set_override(key: str, path: str) -> str:
    from scaling.study.config import check_set_names

    check_set_names({key[len(SETS) + 1 :]: path})  # before Hydra's grammar stumbles over it
    escaped = path.replace("'", "\\'")
    return f"++{key}='{escaped}'"


def _read_sets(text: str) -> dict[str, str]:
    """Read `{zh: a.txt, en: b}`."""
    import yaml

    from scaling.study.errors import ConfigError

    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError:
        values = None
    if not isinstance(values, dict) or not all(isinstance(v, str) for v in values.values()):
        raise ConfigError(
            f"{SETS}: {text} is no mapping of names to paths. Write {SETS}.NAME=PATH, once per set, or "
            f"'{SETS}={{zh: zh.txt, en: en.txt}}' with a space after each colon."
        )
    return {str(name): path for name, path in values.items()}


def quote_text(argument: str) -> str:
    """Quote values in other scripts (`data.path=中文.txt`), which Hydra's grammar wants quoted."""
    key, equals, value = argument.partition("=")
    if not equals or value.isascii() or any(mark in value for mark in "'\"[]{}()$\\"):
        return argument
    return f"{key}=" + ",".join(v if v.isascii() else f"'{v}'" for v in value.split(","))


def known_sweep(name: str) -> str:
    """Return the name if there is such a sweep file.

    Raises:
        ConfigError: no such file; names the closest one.
    """
    from scaling.study.errors import ConfigError, did_you_mean

    names = sweep_names()
    if name not in names:
        raise ConfigError(
            f"there is no sweep {name!r}.{did_you_mean(name, names)} There are: {', '.join(names)} (files of sweeps/)."
        )
    return name

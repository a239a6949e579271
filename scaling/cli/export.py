"""scaling export RUN FOLDER [key=value ...]: a finished run as a Hugging Face model folder.

  scaling export llama-n1M-d20M-s0-1a2b3c4d my_model         a run by its id, found under results
  scaling export results/single/llama-n1M-d20M-s0-1a2b3c4d my_model
  scaling export RUN my_model overwrite=true                 replace a model folder that is there
  scaling export RUN my_model results=/shared/results        where to look for the id

Then, with the package transformers:
  python -c "from transformers import pipeline; print(pipeline('text-generation', model='my_model')('def main('))"

Runs with the parts of model=llama, gpt2, bert or t5 can be exported. To go on from the folder (or from a
run's folder, or from a Hugging Face model of these families):
  scaling train model.init_from=my_model budget.tokens=1M
"""

from __future__ import annotations

import glob
from collections.abc import Sequence
from pathlib import Path

from scaling.study.errors import ConfigError, did_you_mean
from scaling.study.units import format_quantity

OPTIONS = {"overwrite": "false", "results": "results"}


def run_export(arguments: Sequence[str]) -> int:
    """Write the folder and say what is in it."""
    (name, folder), options = _split(arguments)
    run = find_run(name, Path(options["results"]))
    from scaling.training.export import export_run

    made = export_run(run, folder, overwrite=options["overwrite"] == "true")
    print(f"{made.folder}: a {made.family} model of {format_quantity(made.params)} parameters, tokenizer {made.tokenizer or 'none'}.")  # fmt: skip
    if made.note:
        print(f"  no tokenizer: {made.note}")
    return 0


def _split(arguments: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Separate the two names from `key=value` options."""
    names = [a for a in arguments if "=" not in a]
    options = dict(OPTIONS)
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if equals and key not in OPTIONS:
            raise ConfigError(
                f"{key}: no such option.{did_you_mean(key, OPTIONS)} There are {', '.join(OPTIONS)}."
            )
        if equals:
            options[key] = value
    if options["overwrite"].lower() not in ("true", "false"):
        raise ConfigError(f"overwrite: expected true or false; got {options['overwrite']!r}.")
    options["overwrite"] = options["overwrite"].lower()
    if len(names) != 2:
        raise ConfigError(
            f"name a run and a folder to write, e.g. `scaling export RUN my_model`; got {' '.join(names) or 'nothing'}."
        )
    return names, options


def find_run(name: str, results: Path) -> Path:
    """Return the folder of a run, given as a path or as an id under the results.

    Raises:
        ConfigError: there is no such run, or several.
    """
    path = Path(name).expanduser()
    if (path / "run.json").is_file():
        return path
    found = [p.parent for p in sorted(results.glob(f"**/{glob.escape(path.name)}/run.json"))]
    if len(found) > 1:
        raise ConfigError(
            f"{name}: there are several: {', '.join(map(str, found))}. Give the folder of one."
        )
    if not found:
        known = [p.parent.name for p in results.glob("**/run.json")]
        raise ConfigError(
            f"{name}: no run of that id under {results}/.{did_you_mean(name, known)} Give its folder, or results=FOLDER."
        )
    return found[0]

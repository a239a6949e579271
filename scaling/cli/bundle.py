"""scaling bundle SWEEP [FILE] [key=value ...]: a sweep as one file that a colleague loads.

  scaling bundle quickstart                            quickstart.scaling.zip
  scaling bundle quickstart to/send.scaling.zip
  scaling bundle quickstart format=jsonl               readable without pyarrow
  scaling bundle quickstart results=/shared/results

The file holds two tables (runs and their curves), every run's configuration, the sweep and a manifest with
versions and SHA-256 sums; no weights and no text. It is used like a results folder, and opening it runs
no code:

  scaling fit quickstart.scaling.zip                   and plot, report, audit, forecast
  scaling merge quickstart.scaling.zip into=results    unpacked into a results folder
  python -c "import scaling as sl; print(sl.load('quickstart.scaling.zip'))"
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from scaling.cli.options import split_options
from scaling.study.errors import ConfigError, did_you_mean
from scaling.study.units import format_bytes

OPTIONS = {"format": "auto", "results": "results"}


def run_bundle(arguments: Sequence[str]) -> int:
    """Write the file and say what is in it; 1 if a record had to be left out."""
    names, options = split_options(arguments, OPTIONS)
    if not 1 <= len(names) <= 2:
        raise ConfigError(f"name a sweep, and a file if you like, e.g. `scaling bundle quickstart`; got {' '.join(names) or 'nothing'}.")  # fmt: skip
    folder = _folder(names[0], Path(options["results"]))
    from scaling.analysis.data.bundling import write_bundle

    made = write_bundle(folder, *names[1:], format=options["format"])
    print(f"{made.path}: {made.runs} runs, {format_bytes(made.path.stat().st_size)}. Try it: scaling fit {made.path}")  # fmt: skip
    for problem in made.problems:
        print(f"Left out: {problem}")
    return int(bool(made.problems))


def _folder(name: str, results: Path) -> Path:
    """Return the folder of a sweep, given by its name or its path.

    Raises:
        ConfigError: there is none.
    """
    for folder in (results / name, Path(name)):
        if folder.is_dir():
            return folder
    known = sorted(f.name for f in results.iterdir() if f.is_dir()) if results.is_dir() else []
    raise ConfigError(f"{results / name}: no such folder.{did_you_mean(name, known)} There are: {', '.join(known) or 'none'}.")  # fmt: skip

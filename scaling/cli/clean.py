"""scaling clean [SWEEP] [key=value ...]: room that finished work takes and nobody needs any more.

  scaling clean                          disk used by each sweep, and what could be freed of it
  scaling clean quickstart               what would go of one sweep, and why the rest stays
  scaling clean quickstart yes=true      do it
  scaling clean quickstart details=true  every file
  scaling clean quickstart needed=true   also checkpoints that other runs start from
  scaling clean compilations             what compiling left in the cache folder, untouched for a month
  scaling clean quickstart results=/shared/results

Goes: checkpoints and final weights of runs that are done or diverged, half-written files, claims of
processes that are gone. Stays: every record, metrics row, configuration, note and figure; everything of a
run that is being trained, interrupted or failed; checkpoints that another run or sweep file starts from
(model.init_from) or whose trunk has unfinished branches. Without its weights a run can still be fitted;
it cannot be exported or scored on further texts.
"""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from scaling.cli.options import is_true, split_options
from scaling.study.disk import disk_usage
from scaling.study.errors import ConfigError, did_you_mean
from scaling.study.paths import data_dir
from scaling.study.table import Table
from scaling.study.units import format_bytes
from scaling.training.leftovers import (
    KINDS,
    Leftover,
    Survey,
    find_needed,
    old_compilations,
    remove_leftovers,
    run_folders,
    survey_sweep,
)

OPTIONS = {"yes": "false", "details": "false", "needed": "false", "results": "results"}
COMPILATIONS = "compilations"
AT_ONCE = (
    16  # runs cleaned at a time: each waits for the file system, or for a claim from elsewhere
)
SHOWN = 4  # run ids that a line names


def run_clean(arguments: Sequence[str]) -> int:
    """List what would go; with yes=true remove it. 1 if something could not be removed."""
    names, options = split_options(arguments, OPTIONS)
    yes, results = is_true(options, "yes"), Path(options["results"])
    if len(names) > 1:
        raise ConfigError(f"{names[1]!r}: name one sweep at a time; got {' and '.join(names)}.")
    if not names:
        if yes:
            raise ConfigError("yes=true: name the sweep to clean, e.g. `scaling clean quickstart yes=true`.")  # fmt: skip
        print(_overview(results))
        return 0
    if names[0] == COMPILATIONS and not (results / COMPILATIONS).is_dir():
        return _clean_compilations(yes=yes)
    folder = _folder(names[0], results)
    needed = {} if is_true(options, "needed") else find_needed(folder.parent, _sweep_files())
    survey = survey_sweep(folder, needed)
    if not survey.leftovers:
        print(f"{_title(survey)}\n{_stays(survey)}")
        return 0
    print(_details(survey) if is_true(options, "details") else _summary(survey))
    if not yes:
        again = " ".join(a for a in map(shlex.quote, arguments) if not a.startswith("yes="))
        print(f"\nNothing was removed. To do it: scaling clean {again} yes=true")
        return 0
    return _remove(survey)


def _folder(name: str, results: Path) -> Path:
    """Return the folder of a sweep, given by its name or its path.

    Raises:
        ConfigError: there is none.
    """
    for folder in (results / name, Path(name)):
        if folder.is_dir() and run_folders(folder):
            return folder
    known = [f.name for f in _sweeps(results)]
    raise ConfigError(
        f"{results / name}: no records there.{did_you_mean(name, known)} There are: {', '.join(known) or 'none'}; results= names another folder."
    )


def _sweeps(results: Path) -> list[Path]:
    if not results.is_dir():
        return []
    return sorted(f for f in results.iterdir() if f.is_dir() and f.name[0] != "." and run_folders(f))  # fmt: skip


def _sweep_files() -> list[Path]:
    return [f for folder in (Path("sweeps"), data_dir("sweeps")) for f in folder.glob("*.yaml")]


def _overview(results: Path) -> Table:
    """One line per sweep: disk used, and what could be freed."""
    sweeps = _sweeps(results)
    if not sweeps:
        raise ConfigError(f"{results}: no records. Train something, or set results= to its folder.")
    needed = find_needed(results, _sweep_files())
    surveys = [survey_sweep(sweep, needed) for sweep in sweeps]
    used = [disk_usage(sweep) for sweep in sweeps]
    rows = [
        (s.folder.name, str(s.runs), format_bytes(u), format_bytes(s.size))
        for s, u in zip(surveys, used, strict=True)
    ]
    compiled = sum(item.size for item in old_compilations())
    note = f"{format_bytes(sum(used))} in all. What would go of a sweep: scaling clean SWEEP"
    if compiled:
        note += f"\n{format_bytes(compiled)} of old compilations in the cache: scaling clean compilations"
    return Table(("sweep", "runs", "on disk", "can be freed"), rows, title=f"Disk used in {results}", note=note)  # fmt: skip


def _summary(survey: Survey) -> Table:
    """What would go, by kind."""
    rows = []
    for kind in KINDS:
        items = [item for item in survey.leftovers if item.kind == kind]
        if items:
            runs = len({item.run for item in items if item.run})
            size = format_bytes(sum(item.size for item in items))
            rows.append((kind, str(runs), str(len(items)), size))
    return Table(("what goes", "runs", "files", "size"), rows, title=_title(survey), note=_stays(survey))  # fmt: skip


def _details(survey: Survey) -> Table:
    """What would go, file by file."""
    rows = [
        (str(item.path.relative_to(survey.folder)), item.kind, format_bytes(item.size))
        for item in survey.leftovers
    ]
    return Table(("file", "what", "size"), rows, title=_title(survey), note=_stays(survey))


def _title(survey: Survey) -> str:
    used = format_bytes(disk_usage(survey.folder))
    return f"{survey.folder}: {used} in {survey.runs} runs, {format_bytes(survey.size)} can be freed"  # fmt: skip


def _stays(survey: Survey) -> str:
    lines = ["Records, metrics, configurations and notes stay."]
    for reason, runs in survey.kept.items():
        names = ", ".join(runs[:SHOWN]) + (" ..." if len(runs) > SHOWN else "")
        count = "1 run" if len(runs) == 1 else f"{len(runs)} runs"
        lines.append(f"Checkpoints of {count} stay ({reason}): {names}")
    return "\n".join(lines)


def _remove(survey: Survey) -> int:
    """Remove run by run, and say what was freed and what stayed."""
    by_run: dict[str, list[Leftover]] = {}
    for item in survey.leftovers:
        by_run.setdefault(item.run, []).append(item)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        results = list(pool.map(remove_leftovers, by_run.values()))
    problems = Counter(why for _, why in results if why)
    print(f"\nFreed {format_bytes(sum(freed for freed, _ in results))}.")
    for why in problems:
        print(f"Left alone: {why}")
    return int(bool(problems))


def _clean_compilations(*, yes: bool) -> int:
    """List, or remove, what compiling has left in the cache folder."""
    items: Iterable[Leftover] = old_compilations()
    size = format_bytes(sum(item.size for item in items))
    if not yes:
        print(f"{size} of compiled programs were not used for a month. To remove them: scaling clean {COMPILATIONS} yes=true")  # fmt: skip
        return 0
    freed = sum(remove_leftovers([item])[0] for item in items)
    print(f"Freed {format_bytes(freed)}.")
    return 0

"""scaling doctor [results=FOLDER] [json=true]: whether this machine can train, and what to do where it cannot.

  scaling doctor                          Python, packages, processor, GPUs, memory, disk, Slurm, Ray, wandb
  scaling doctor results=/scratch/me      another place for results
  scaling doctor json=true                for programs

Looks at what there is and changes nothing; asks no server on the network but Slurm and Ray where you
have named them. ok: works; warn: works, with a drawback; fail: does not work; absent: not here, and
needed for one purpose only. The exit code is 1 if nothing can be trained, else 0.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from scaling.cli.devices import ask_analysis, ask_torch, check_analysis, check_torch
from scaling.cli.engines import check_ray, check_slurm
from scaling.cli.finding import VERDICTS, Finding
from scaling.cli.options import is_true, split_options
from scaling.cli.places import check_folder
from scaling.cli.requirements import check_wandb, find_packages, read_requirements
from scaling.study.errors import ConfigError
from scaling.study.table import Table
from scaling.training.data.cache import cache_folder

OPTIONS = {"results": "results", "json": "false"}


def run_doctor(arguments: Sequence[str]) -> int:
    """Print what was found; 1 if nothing can be trained."""
    names, options = split_options(arguments, OPTIONS)
    if names:
        raise ConfigError(f"{names[0]!r}: doctor looks at this machine and takes no sweep. Leave it out, or set results=FOLDER.")  # fmt: skip
    findings = list(examine(Path(options["results"])))
    if is_true(options, "json"):
        values = [dataclasses.asdict(f) for f in findings]
        print(json.dumps({"trains": can_train(findings), "findings": values}, indent=1, ensure_ascii=False))  # fmt: skip
    else:
        print(describe(findings))
    return 0 if can_train(findings) else 1


def examine(results: Path) -> Iterator[Finding]:
    """Yield everything that is found; the slow parts run meanwhile, in processes of their own."""
    torch, analysis = ask_torch(), ask_analysis()
    yield from find_packages()
    by_extra = read_requirements()
    places = [
        check_folder("results", results, cure="another folder: results=/path/to/folder"),
        check_folder("token cache", cache_folder(None), cure="another folder: export SCALING_CACHE=/path/to/folder"),
    ]  # fmt: skip
    engines = [check_slurm(by_extra.get("slurm", [])), check_ray(by_extra.get("ray", []))]
    with _waiting("loading PyTorch"):
        yield from check_torch(torch)
    yield check_analysis(analysis)
    yield from [*places, *engines, check_wandb()]


def can_train(findings: Sequence[Finding]) -> bool:
    """Return whether nothing that training needs has failed."""
    return not any(f.trains and f.verdict == "fail" for f in findings)


def describe(findings: Sequence[Finding]) -> str:
    """Return the table, what to do below it, and the verdict."""
    table = Table(("what", "verdict", "found"), [(f.what, f.verdict, f.found) for f in findings])
    ranks = {verdict: i for i, verdict in enumerate(("fail", "warn", "ok", "absent"))}
    cures = sorted((f for f in findings if f.cure), key=lambda f: ranks[f.verdict])
    wide = max((len(f.what) for f in cures), default=0)
    lines = [f"  {f.verdict:6}  {f.what:{wide}}  {f.cure}" for f in cures]
    return "\n".join(
        [table.text(), *(["", "What to do:", *lines] if lines else []), "", conclusion(findings)]
    )


def conclusion(findings: Sequence[Finding]) -> str:
    """Say in a sentence whether this machine trains."""
    counts = {v: sum(f.verdict == v for f in findings) for v in VERDICTS}
    if not can_train(findings):
        broken = ", ".join(f.what for f in findings if f.trains and f.verdict == "fail")
        return f"This machine cannot train yet: {broken}."
    doubts = (
        f", with {counts['warn']} drawback{'s' * (counts['warn'] > 1)}" if counts["warn"] else ""
    )
    return f"This machine can train{doubts}. Begin with: scaling init my_study"


class _waiting:
    """Say in a terminal what is waited for, and take it away again."""

    def __init__(self, text: str) -> None:
        self.text = f"{text} ..."

    def __enter__(self) -> None:
        if sys.stderr.isatty():
            print(self.text, end="\r", file=sys.stderr, flush=True)

    def __exit__(self, *_: object) -> None:
        if sys.stderr.isatty():
            print(" " * len(self.text), end="\r", file=sys.stderr, flush=True)

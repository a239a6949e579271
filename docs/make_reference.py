"""Write docs/reference.md, every key and field, from the package's own declarations.

python docs/make_reference.py
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from scaling.cli.compose import DESIGN_KEYS
from scaling.study.config import FitConfig, Key, RunConfig, config_keys
from scaling.study.record import METRIC_FIELDS, record_fields

PATH = Path(__file__).with_name("reference.md")

HEAD = """\
# Reference: every key and every field

Written by `python docs/make_reference.py`; do not edit. `scaling keys` prints the first table in a
terminal. Numbers may be written `40M`, `2.5B`, `1e18`. A key marked with * changes how a run is
executed but not its numbers, so that it is no part of the run's name.
"""


def reference() -> str:
    """Return the whole page."""
    run = [_key_row(key, mark=True) for key in config_keys(RunConfig)]
    fit = [_key_row(key, mark=False) for key in config_keys(FitConfig)]
    design = [(f"`design.{name}`", meaning) for name, meaning in DESIGN_KEYS.items()]
    record = [(f"`{name}`", unit, meaning) for name, unit, meaning in record_fields()]
    metrics = [(f"`{name}`", unit, meaning) for name, (unit, meaning) in METRIC_FIELDS.items()]
    keys = ("key", "default", "unit", "meaning")
    fields = ("field", "unit", "meaning")
    parts = [
        HEAD,
        _section("A run: `scaling plan` and `scaling train`", keys, run),
        _section("A sweep file's own keys", ("key", "meaning"), design),
        _section("A fit: `scaling fit`, `plot`, `report`, `next`", keys, fit),
        _section("A run's record: `run.json`", fields, record),
        _section("A run's curves: a row of `metrics.jsonl`", fields, metrics),
    ]
    return "\n".join(parts)


def _key_row(key: Key, *, mark: bool) -> tuple[str, ...]:
    star = "" if key.numbers or not mark else " *"
    default = "null" if key.default is None else f"`{str(key.default).lower()}`"
    choices = f" One of {', '.join(f'`{c}`' for c in key.choices)}." if key.choices else ""
    return f"`{key.name}`{star}", default, key.unit, f"{key.text}{choices}"


def _section(title: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return f"## {title}\n\n" + "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"


if __name__ == "__main__":
    PATH.write_text(reference(), encoding="utf-8")
    print(PATH)

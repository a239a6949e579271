"""Write docs/reference.md, and the tables of codes and laws in the guides, from the package's own declarations.

python docs/make_reference.py
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from scaling.analysis.law import Law
from scaling.analysis.laws import FAMILIES
from scaling.analysis.traps import TRAPS
from scaling.cli.design import DESIGN_KEYS
from scaling.study.config import FitConfig, Key, RunConfig, config_keys
from scaling.study.record import METRIC_FIELDS, record_fields

FOLDER = Path(__file__).parent
PATH = FOLDER / "reference.md"
MARK = re.compile(r"(<!-- (\w+): written by [^>]*-->\n).*?(<!-- end -->)", re.DOTALL)

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


def guides() -> dict[Path, str]:
    """Return each guide that holds a written part, with that part as it should be."""
    parts = {"codes": codes(), "laws": catalogue()}
    return {
        path: MARK.sub(lambda m: m[1] + parts[m[2]] + m[3], path.read_text(encoding="utf-8"))
        for path in (FOLDER / "fitting.md", FOLDER / "laws.md")
    }


def codes() -> str:
    """Return every code of a warning with its meaning."""
    return _table(("code", "means"), [(f"`{code}`", text) for code, text in TRAPS.items()])


def catalogue() -> str:
    """Return the laws of the package, a table per family."""
    laws = [law for module in FAMILIES for law in module.LAWS]
    header = ("law", "formula", "reads", "gives", "warns", "published", "source")
    families = dict.fromkeys(law.family for law in laws)
    return "\n".join(
        f"### {family}\n\n" + _table(header, [_law_row(x) for x in laws if x.family == family])
        for family in families
    )


def _law_row(law: Law) -> tuple[str, ...]:
    reads = ", ".join(f"{x} ({law.columns[x]})" if x in law.columns else x for x in law.inputs)
    needs = "; ".join(dict.fromkeys(_short(need.text) for need in law.needs)) or "-"
    published = ", ".join(p.name for p in law.published) or "-"
    return f"`{law.name}`", f"`{law.formula}`", reads, law.output, needs, published, law.source


def _short(need: str) -> str:
    """Return what is wrong with a design, without what to do about it."""
    first = re.split(r"; | \(correlation|, too little|, which shows", need.rstrip("."))[0]
    return first.replace(" rise or fall together", " move together")


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    cells = [[cell.replace("|", "\\|") for cell in line] for line in lines]
    return "".join(f"| {' | '.join(line)} |\n" for line in cells)


if __name__ == "__main__":
    for path, text in {PATH: reference(), **guides()}.items():
        path.write_text(text, encoding="utf-8")
        print(path)

"""The report's account of where its numbers come from: set-up, how to repeat it, how to cite it."""

from __future__ import annotations

import hashlib
import json
import re
import shlex

import pandas as pd

from scaling.analysis.data.costs import total_costs
from scaling.analysis.data.runs import Runs
from scaling.analysis.data.tables import number
from scaling.analysis.fits.fitting import Fit
from scaling.present import page
from scaling.present.listing import has
from scaling.study.cost import format_amount
from scaling.study.table import Table
from scaling.study.units import format_duration, format_flops, format_quantity

# What the records say about how a study was run: heading and columns, as in `RunRecord`.
PAID = {"energy_kwh": "energy [kWh]", "money": "price", "co2_kg": "emissions [kg CO2e]"}
SETUP = (
    ("Data", ("data_source", "tokenizer", "vocab", "unique_tokens", "epochs", "val_tokens", "bytes_per_token", "data_hash", "source_hash")),
    ("Model", ("family", "layers", "width", "context")),
    ("Training", ("optimizer", "parametrization", "schedule", "batch_tokens", "steps", "lr", "weight_decay", "seed", "order_seed")),
    ("Machine", ("device", "devices", "threads", "precision", "attention", "compiled", "tokens_per_second")),
)  # fmt: skip


def setup_section(runs: Runs) -> str:
    """Return what the records say about data, models, training, machine, software and cost."""
    rows = runs.frame
    groups = {
        group: [[c.replace("_", " "), _values(rows[c])] for c in columns if has(rows, c)]
        for group, columns in SETUP
    }
    groups["Software"] = [[k, ", ".join(v)] for k, v in _packages(rows).items()]
    groups["All runs"] = _totals(rows)
    tables = [f"<div>{page.table(Table([group, ''], body))}</div>" for group, body in groups.items() if body]  # fmt: skip
    return page.section("How it was run", f"<div class='groups'>{''.join(tables)}</div>", name="setup")  # fmt: skip


def _totals(rows: pd.DataFrame) -> list[list[str]]:
    seconds, flops = spent(rows)
    once = ", steps shared by several runs counted once" if has(rows, "parent") else ""
    body = [["Total time", format_duration(seconds) + once]] if has(rows, "seconds") else []
    paid = {k: v for k, v in total_costs(rows).items() if k in PAID}
    body += [[f"Total {PAID[k]}", format_amount(v) + once] for k, v in paid.items()]
    return [*body, ["Total compute", f"{format_flops(flops)} FLOPs{once}"]]


def spent(rows: pd.DataFrame) -> tuple[float, float]:
    """Return seconds and FLOPs (in the convention of C) of runs, the steps of a trunk once."""
    seconds, tokens = number(rows, "seconds"), number(rows, "tokens")
    shared = (number(rows, "parent_tokens") / tokens).fillna(0.0)
    once = seconds - number(rows, "parent_seconds").fillna(0.0)
    return float(once.sum()), float((rows["C"] * (1 - shared)).sum())


def _values(column: pd.Series) -> str:
    """Return the one value, a few of them, or the range."""
    different = list(dict.fromkeys(column.dropna()))
    if all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in different):
        ends = [_plain(float(v)) for v in (min(different), max(different))]
        return ends[0] if ends[0] == ends[1] else f"{ends[0]} to {ends[1]}"
    shown = ", ".join(str(v) for v in different[:4])
    return shown + (f" and {len(different) - 4} more" if len(different) > 4 else "")


def _plain(value: float) -> str:
    """Write a count in full while it is short: a vocabulary of 512, 3.1M tokens, a rate of 0.003."""
    return f"{value:.4g}" if abs(value) < 1e4 else format_quantity(value)


def repeat_section(runs: Runs, fit: Fit, sweep: str, *, command: str = "", source: str = "") -> str:
    """Return the commands and the Python that give this page again.

    Args:
        sweep: what commands call the runs; command: what was typed for this page, if it was typed;
            source: where the runs were read from, results/SWEEP by default.
    """
    options = f"law={fit.law.name} objective={fit.objective.name} intervals={fit.intervals} seed={fit.seed}"
    conventions = f"params={runs.params} flops={runs.flops} loss={runs.loss}"
    commands = [
        *(
            f"scaling train {shlex.quote(s)}    # finished runs are kept, missing ones are trained"
            for s in sweeps(runs.table)
        ),
        command or f"scaling report {shlex.quote(sweep)} {options} {conventions}",
    ]
    script = [
        "import scaling as sl",
        f'runs = sl.load({json.dumps(source or f"results/{sweep}", ensure_ascii=False)}).using(params="{runs.params}", flops="{runs.flops}", loss="{runs.loss}")',
        f'fit = sl.fit(runs, law="{fit.law.name}", objective="{fit.objective.name}", intervals="{fit.intervals}", seed={fit.seed})',
    ]
    return page.section(
        "Repeat it",
        page.code(commands),
        page.paragraph("The same in Python:"),
        page.code(script),
        page.paragraph(_state_of_code(runs.frame), "note"),
        name="reproduce",
    )


def sweeps(table: pd.DataFrame) -> list[str]:
    """Return the sweeps that the records are of; a table from elsewhere has none."""
    return _once(table, "sweep")


def cite_section(runs: Runs, fit: Fit, name: str) -> str:
    """Return what identifies the study, an entry for a bibliography, and whom else to cite."""
    rows = runs.frame
    known = {
        "Software": _software(rows),
        "Commit": ", ".join(_packages(rows).get("commit", [])),
        "Data": ", ".join(_once(rows, "data_hash")),
        "Records": f"sha256:{fingerprint(runs)}",
    }
    body = [[k, v] for k, v in known.items() if v]
    how = "Records: over run_id, N, D, C and loss of every run, one line each in order of their names; the same records give the same number."
    source = f"The law is from {fit.law.source.rstrip('.')}; cite it too." if fit.law.source else ""
    return page.section(
        "Cite it",
        page.table(Table(["", "value"], body)),
        page.paragraph(how, "note"),
        page.code(_entry(name, rows, known)),
        page.paragraph(source),
        name="cite",
    )


def fingerprint(runs: Runs) -> str:
    """Return a hash of what was fitted: 16 hexadecimal digits over the runs and their numbers."""
    rows = runs.frame[["run_id", "N", "D", "C", "L"]].sort_values(["run_id", "N", "D"])
    lines = (f"{r.run_id}\t{r.N!s}\t{r.D!s}\t{r.C!s}\t{r.L!s}" for r in rows.itertuples())
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def _entry(name: str, rows: pd.DataFrame, known: dict[str, str]) -> list[str]:
    """Return a BibTeX entry; who wrote the study is for the reader to fill in."""
    years = [str(v)[:4] for v in _once(rows, "finished_at")]
    key = re.sub(r"\W+", "_", name).strip("_") or "study"
    notes = [f"{k.lower()} {v}" for k, v in known.items() if v and k != "Software"]
    fields = {
        "title": f"Scaling study {name}",
        "author": "AUTHORS",
        "year": max(years, default=""),
        "howpublished": f"Records of training runs, {known['Software']}" if known["Software"] else "Records of training runs",
        "note": "; ".join(notes),
    }  # fmt: skip
    inner = [f"  {k} = {{{_tex(v)}}}," for k, v in fields.items() if v]
    return [f"@misc{{{key},", *inner, "}"]


def _tex(words: str) -> str:
    return re.sub(r"([#$%&_{}])", r"\\\1", words.replace("\\", "/"))


def _packages(rows: pd.DataFrame) -> dict[str, list[str]]:
    """Return every version of each package that the runs were trained with."""
    found: dict[str, set[str]] = {}
    for versions in rows["software"].dropna() if "software" in rows else []:
        for package, version in versions.items():
            found.setdefault(str(package), set()).add(str(version))
    return {k: sorted(v) for k, v in found.items()}


def _software(rows: pd.DataFrame) -> str:
    versions = _packages(rows)
    return ", ".join(
        f"{k} {' and '.join(versions[k])}" for k in ("scaling", "torch") if k in versions
    )


def _state_of_code(rows: pd.DataFrame) -> str:
    """Say which code trained the runs, and whether it had changes that no commit has."""
    versions = _packages(rows)
    if "commit" not in versions:
        return "The records do not say which commit of the code trained them."
    said = f"Trained at commit {', '.join(versions['commit'])}"
    return said + (", with changes that were not committed." if "dirty" in versions else ".")


def _once(rows: pd.DataFrame, name: str) -> list[str]:
    return list(dict.fromkeys(rows[name].dropna().astype(str))) if name in rows else []

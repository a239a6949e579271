"""The report: one HTML file with the question, the verdict, figures, fit, runs and how to repeat it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from scaling.analysis.data.costs import total_costs
from scaling.analysis.data.runs import Runs
from scaling.analysis.data.tables import number
from scaling.analysis.fits.fitting import Fit
from scaling.analysis.frontier.envelope import Envelope
from scaling.analysis.frontier.isoflops import IsoFlops
from scaling.present import page
from scaling.present.figures import CAPTIONS, draw_figures
from scaling.present.gallery import Gallery, gallery_section
from scaling.present.verdict import checks, floor_table, limits, verdict
from scaling.present.verification import verification_table, verify
from scaling.study.cost import format_amount
from scaling.study.record import write_atomic
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


def write_report(
    path: str | Path,
    *,
    runs: Runs,
    fit: Fit,
    iso: IsoFlops | None = None,
    envelope: Envelope | None = None,
    verification: Any = None,
    question: str = "",
    warnings: Sequence[str] = (),
    target: float | None = None,
    gallery: Gallery | None = None,
    **more: Any,
) -> Path:
    """Write the study as one self-contained HTML file that opens from disk without a network.

    Args:
        path: the file; its folder is made if missing.
        runs: the runs; fit: the law fitted to them; iso, envelope: the other two approaches.
        verification: held-out runs (columns N, D, C and L or measured; predicted, lo, hi, next_lo,
            next_hi if a forecast was stated before); the verification runs of `runs` by default.
        question: what the study was to answer, in a sentence.
        warnings: sentences to show with those of the fit.
        target: a planned budget [FLOPs] to mark in the figures.
        gallery: what the models write.
        more: what further figures show, as `draw_figures` takes it: approaches, universes (of
            `sensitivity`), backtest, learning_rates.

    Returns:
        The path written.
    """
    held = as_held_out(verification, runs)
    checked = verify(fit, held)
    name = _study_name(runs, Path(path))
    sentences = checks(fit, checked)
    parts = [
        f"<header><h1>{page.text(name)}</h1>{page.paragraph(question, 'question')}{page.paragraph(_summary(runs), 'meta')}</header>",
        _verdict_box(fit, iso, sentences),
        page.section(
            "What this law can and cannot tell", page.bullets(limits(fit, checked)), name="limits"
        ),
        _verification_section(fit, checked),
        _floor_section(fit, runs),
        _figures_section(
            runs, fit, iso, envelope=envelope, verification=held, target=target, **more
        ),
        _fit_section(fit, iso, envelope, warnings),
        gallery_section(gallery),
        _runs_section(runs, fit),
        _setup_section(runs),
        _reproduce_section(runs, fit, name),
    ]
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, page.page(name, parts))
    return path


def as_held_out(verification: Any, runs: Runs) -> pd.DataFrame:
    """Return verification runs as a table, from a table, anything with `to_frame()`, or the runs."""
    if verification is None:
        return runs.verify
    return verification if isinstance(verification, pd.DataFrame) else verification.to_frame()


def _study_name(runs: Runs, path: Path) -> str:
    names = runs.table["sweep"].dropna().unique() if "sweep" in runs.table else []
    return (
        f"Scaling study {', '.join(map(str, names))}"
        if len(names)
        else f"Scaling study {path.resolve().parent.name}"
    )


def _summary(runs: Runs) -> str:
    rows = runs.fit_rows
    spans = f"N {format_quantity(rows['N'].min())} to {format_quantity(rows['N'].max())}, C {format_flops(rows['C'].min())} to {format_flops(rows['C'].max())} FLOPs"
    others = len(runs.table) - len(rows)
    return f"{len(rows)} runs in the fit, {others} other; {spans}. {runs.conventions}."


def _verdict_box(fit: Fit, iso: IsoFlops | None, sentences: Sequence[str]) -> str:
    inner = page.paragraph(verdict(fit, iso)) + "".join(page.paragraph(s) for s in sentences)
    return f"<div class='verdict' id='verdict'>{inner}</div>"


def _verification_section(fit: Fit, checked: pd.DataFrame) -> str:
    if not len(checked):
        return ""
    return page.section(
        "Predicted and measured",
        page.table(verification_table(checked, fit.level)),
        name="verification",
    )


def _floor_section(fit: Fit, runs: Runs) -> str:
    found = floor_table(fit, runs)
    return page.section("The floor", page.table(found)) if found else ""


def _figures_section(runs: Runs, fit: Fit, iso: IsoFlops | None, **study: Any) -> str:
    drawers = draw_figures(runs, fit, iso, **study)
    drawers.pop("overview", None)  # its panels follow one by one
    return page.section(
        "Figures",
        *(page.figure(draw(), CAPTIONS[name], name=name) for name, draw in drawers.items()),
    )


def _fit_section(
    fit: Fit, iso: IsoFlops | None, envelope: Envelope | None, warnings: Sequence[str]
) -> str:
    found = [
        *fit.warnings,
        *(iso.warnings if iso else ()),
        *(envelope.warnings if envelope else ()),
        *warnings,
    ]
    parts = [page.table(s.summary()) for s in (fit, iso, envelope) if s is not None]
    proof = fit.certificate
    basins = f"{len(proof.basins)} end point{'s' * (len(proof.basins) > 1)} from {sum(n for _, n in proof.basins)} starts"
    parts.insert(
        1,
        page.paragraph(
            f"Certificate: {basins}; one more Newton step would gain {proof.decrement:.1e} of the objective; condition number {proof.condition:.1e}.",
            "note",
        ),
    )
    notes = "".join(page.paragraph(w, "warning") for w in dict.fromkeys(found))
    return page.section(
        "The fit",
        *parts,
        f"<h3>Warnings</h3>{notes}" if notes else page.paragraph("No check raised a warning."),
        name="fit",
    )


def _runs_section(runs: Runs, fit: Fit) -> str:
    residual = fit.residuals().set_index("run_id")["residual"]
    if not residual.index.is_unique:
        residual = residual.iloc[:0]
    branched = _has(runs.frame, "parent")
    cells, values = [], []
    for row in _in_order(runs.frame).to_dict("records"):
        away, error = 100 * residual.get(row["run_id"], math.nan), row.get("val_loss_se")
        seconds, parent = _number(row.get("seconds")), row.get("parent")
        cells.append([
            str(row["run_id"]), row["status"], row["role"], format_quantity(row["N"]), format_quantity(row["D"]), format_flops(row["C"]),
            _loss(row["L"]), _loss(error), "-" if math.isnan(away) else f"{away:+.2f}", format_duration(seconds),
            *(["-" if parent is None or pd.isna(parent) else str(parent)] if branched else []),
        ])  # fmt: skip
        numbers = [_number(v) for v in (row["N"], row["D"], row["C"], row["L"], error, away)]
        values.append([None, None, None, *numbers, seconds, *([None] if branched else [])])
    header = [
        "run", "status", "role", "N", "D [tokens]", "C [FLOPs]", f"{runs.loss} [nats/token]", "standard error",
        "from the law [%]", "time", *(["branch of"] if branched else []),
    ]  # fmt: skip
    notes = ["Select a heading to sort."]
    if branched:
        notes.append("Time, D and C are those of the whole run; a branch shares its first steps with the run it is a branch of.")  # fmt: skip
    skipped = [f"Skipped {p.path}: {p.message}" for p in runs.problems]
    return page.section(
        "Runs",
        page.paragraph(" ".join(notes), "note"),
        page.table(Table(header, cells), values=values),
        page.bullets(skipped),
    )


def _in_order(rows: pd.DataFrame) -> pd.DataFrame:
    """Sort by budget, then size; compute that agrees within a percent or so is one budget."""
    budget = rows["C"].map(lambda c: float(f"{c:.2g}") if c == c else c)
    return rows.assign(_budget=budget).sort_values(["_budget", "N"]).drop(columns="_budget")


def _setup_section(runs: Runs) -> str:
    rows = runs.frame
    body = [
        [f"{group}: {c.replace('_', ' ')}", _values(rows[c])]
        for group, columns in SETUP
        for c in columns
        if _has(rows, c)
    ]
    software: dict[str, set[str]] = {}
    for versions in rows["software"].dropna() if "software" in rows else []:
        for package, version in versions.items():
            software.setdefault(package, set()).add(str(version))
    body += [[f"Software: {k}", ", ".join(sorted(v))] for k, v in software.items()]
    seconds, flops = spent(rows)
    once = ", steps shared by several runs counted once" if _has(rows, "parent") else ""
    if _has(rows, "seconds"):
        body.append(["Total time of all runs", format_duration(seconds) + once])
    paid = {k: v for k, v in total_costs(rows).items() if k in PAID}
    body += [[f"Total {PAID[k]} of all runs", format_amount(v) + once] for k, v in paid.items()]
    body.append(["Total compute of all runs", f"{format_flops(flops)} FLOPs{once}"])
    return page.section("How it was run", page.table(Table(["", "value"], body)), name="setup")


def spent(rows: pd.DataFrame) -> tuple[float, float]:
    """Return seconds and FLOPs (in the convention of C) of runs, the steps of a trunk once."""
    seconds, tokens = number(rows, "seconds"), number(rows, "tokens")
    shared = (number(rows, "parent_tokens") / tokens).fillna(0.0)
    once = seconds - number(rows, "parent_seconds").fillna(0.0)
    return float(once.sum()), float((rows["C"] * (1 - shared)).sum())


def _has(rows: pd.DataFrame, name: str) -> bool:
    return name in rows and bool(rows[name].notna().any())


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


def _loss(value: Any) -> str:
    number = _number(value)
    return "-" if math.isnan(number) else f"{number:.4f}"


def _number(value: Any) -> float:
    return float("nan") if value is None or pd.isna(value) else float(value)


def _reproduce_section(runs: Runs, fit: Fit, name: str) -> str:
    sweep = name.removeprefix("Scaling study ")
    options = f"law={fit.law.name} objective={fit.objective.name} intervals={fit.intervals} seed={fit.seed}"
    conventions = f"params={runs.params} flops={runs.flops} loss={runs.loss}"
    commands = page.code([f"scaling train {sweep}    # finished runs are kept, missing ones are trained",
                          f"scaling report {sweep} {options} {conventions}"])  # fmt: skip
    script = page.code([
        "import scaling as sl",
        f'runs = sl.load("results/{sweep}").using(params="{runs.params}", flops="{runs.flops}", loss="{runs.loss}")',
        f'fit = sl.fit(runs, law="{fit.law.name}", objective="{fit.objective.name}", intervals="{fit.intervals}", seed={fit.seed})',
    ])  # fmt: skip
    source = f"Law: {fit.law.name}, {fit.law.source}." if fit.law.source else ""
    return page.section(
        "Repeat it",
        commands,
        page.paragraph("The same in Python:"),
        script,
        page.paragraph(source, "note"),
        name="reproduce",
    )

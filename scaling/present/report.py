"""The report: one HTML file with the question, the verdict, figures, fit, runs and how to repeat it."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from scaling.analysis.allocation.design import Sweep
from scaling.analysis.data.conventions import loss_unit
from scaling.analysis.data.runs import Runs
from scaling.analysis.fits.fitting import Fit
from scaling.analysis.frontier.envelope import Envelope
from scaling.analysis.frontier.isoflops import IsoFlops
from scaling.present import page
from scaling.present.figures import CAPTIONS, draw_figures
from scaling.present.gallery import Gallery, gallery_section
from scaling.present.listing import listed, runs_section
from scaling.present.provenance import cite_section, repeat_section, setup_section, sweeps
from scaling.present.verdict import checks, floor_table, limits, verdict
from scaling.present.verification import verification_table, verify
from scaling.study.errors import FitError
from scaling.study.record import write_atomic
from scaling.study.table import Table
from scaling.study.units import format_flops, format_quantity

# How a figure is used; the element is what figures refer to for those who do not see them.
HINT = "Point at a mark, or tap it, to read it; select it to follow its run through every figure and the table."
KEYS = (
    "Zoom: drag a frame, pinch, turn the wheel with Ctrl held or after a click, or use the buttons. Zoomed in, drag to "
    "move; a double click brings the whole figure back. Keys: Tab to a figure, arrows from mark to mark, Enter selects, "
    "+ and - zoom, 0 brings the whole figure back, Shift with arrows moves, Escape lets the run go."
)


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
    proposal: Sweep | str = "",
    command: str = "",
    sweep: str = "",
    source: str = "",
    on_figure: Callable[[str], None] | None = None,
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
        proposal: the runs to train next, as `next_sweep` returned them, or why there are none.
        command: what was typed for this page; else the commands that would give it.
        sweep: what commands call the runs, a sweep or the path of a table; by default as the records do.
        source: where the runs were read from, for the page's Python; results/SWEEP by default.
        on_figure: called with the name of each figure before it is drawn.
        more: what further figures show, as `draw_figures` takes it: approaches, universes (of
            `sensitivity`), backtest, learning_rates.

    Returns:
        The path written.
    """
    held = as_held_out(verification, runs)
    checked = verify(fit, held)
    name = _study_name(runs, Path(path), sweep)
    sweep = sweep or name
    rows = listed(runs)
    figures, places = _figures_section(
        runs,
        fit,
        iso,
        rows=rows,
        on_figure=on_figure,
        envelope=envelope,
        verification=held,
        target=target,
        **more,
    )
    parts = [
        f"<header><h1>{page.text(f'Scaling study {name}')}</h1>{page.paragraph(question, 'question')}"
        f"{page.facts(_facts(runs, fit))}{page.paragraph(f'{runs.conventions}.', 'meta')}</header>",
        _verdict_section(fit, iso, checks(fit, checked), _warnings(fit, iso, envelope, warnings)),
        page.section(
            "What this law can and cannot tell", page.bullets(limits(fit, checked)), name="limits"
        ),
        _verification_section(fit, checked),
        _floor_section(fit, runs),
        figures,
        runs_section(rows, runs, fit, places=places),
        _fit_section(fit, iso, envelope),
        _next_section(proposal, sweep),
        gallery_section(gallery),
        setup_section(runs),
        repeat_section(runs, fit, sweep, command=command, source=source),
        cite_section(runs, fit, name),
    ]
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, page.page(f"Scaling study {name}", parts))
    return path


def as_held_out(verification: Any, runs: Runs) -> pd.DataFrame:
    """Return verification runs as a table, from a table, anything with `to_frame()`, or the runs."""
    if verification is None:
        return runs.verify
    return verification if isinstance(verification, pd.DataFrame) else verification.to_frame()


def _study_name(runs: Runs, path: Path, sweep: str) -> str:
    return ", ".join(sweeps(runs.table)) or Path(sweep).stem or path.resolve().parent.name


def _facts(runs: Runs, fit: Fit) -> dict[str, str]:
    """Return the study in a few numbers."""
    rows = runs.fit_rows
    others = len(runs.table) - len(rows)
    return {
        "runs in the fit": f"{len(rows)}" + (f" and {others} other" if others else ""),
        "compute C [FLOPs]": _between(rows["C"], format_flops),
        "parameters N": _between(rows["N"], format_quantity),
        "tokens D": _between(rows["D"], format_quantity),
        f"lowest {runs.loss} [{loss_unit(runs.loss)}]": f"{rows['L'].min():.4f}",
        "law": fit.law.name,
    }


def _between(values: pd.Series, write: Callable[[float], str]) -> str:
    low, high = write(float(values.min())), write(float(values.max()))
    return low if low == high else f"{low} to {high}"


def _verdict_section(
    fit: Fit, iso: IsoFlops | None, sentences: Sequence[str], warnings: Sequence[str]
) -> str:
    inner = page.paragraph(verdict(fit, iso)) + "".join(page.paragraph(s) for s in sentences)
    notes = "".join(page.paragraph(w, "warning") for w in warnings)
    notes = notes or page.paragraph("No check raised a warning.", "note")
    return f"<div class='verdict' id='verdict'><div>{inner}</div><div>{notes}</div></div>"


def _warnings(
    fit: Fit, iso: IsoFlops | None, envelope: Envelope | None, more: Sequence[str]
) -> list[str]:
    """Return every warning once, those of the fit first."""
    own = (w for s in (fit, iso, envelope) if s is not None for w in s.warnings)
    return list(dict.fromkeys([*own, *more]))


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


def _figures_section(
    runs: Runs,
    fit: Fit,
    iso: IsoFlops | None,
    *,
    rows: pd.DataFrame,
    on_figure: Callable[[str], None] | None,
    **study: Any,
) -> tuple[str, dict[int, str]]:
    """Return the figures, and the one that shows the run of each row: its curve where there is one."""
    drawers = draw_figures(runs, fit, iso, **study)
    drawers.pop("overview", None)  # its panels follow one by one
    made, left_out = {}, []
    for name, draw in drawers.items():
        if on_figure is not None:
            on_figure(name)
        try:
            made[name] = page.live_figure(draw(), CAPTIONS[name], name=name, rows=rows)
        except FitError as error:  # the page is there for the others
            left_out.append(f"{name} is left out: {error}")
    places: dict[int, str] = {}
    for name in sorted(made, key=lambda name: name != "curves"):
        places = dict.fromkeys(made[name][1], name) | places
    figures = "".join(source for source, _ in made.values())
    hint = f"<details class='note screen'><summary>{page.text(HINT)}</summary><p id='keys'>{page.text(KEYS)}</p></details>"
    missing = "".join(page.paragraph(text, "note") for text in left_out)
    return page.section("Figures", hint, f"<div class='figures'>{figures}</div>", missing), places


def _fit_section(fit: Fit, iso: IsoFlops | None, envelope: Envelope | None) -> str:
    others = "".join(page.table(s.summary()) for s in (iso, envelope) if s is not None)
    law = page.table(fit.summary()) + page.table(_certificate(fit))
    return page.section("The fit", page.beside(law, others), name="fit")


def _certificate(fit: Fit) -> Table:
    """Return why the optimum can be believed."""
    proof = fit.certificate
    counts = [n for _, n in proof.basins] or [0]
    other = f"{100 * proof.gap:.2g} % above" if len(proof.basins) > 1 else "none seen"
    rows = [
        ["starts that ended here", f"{counts[0]} of {sum(counts)}"],
        ["next optimum", other],
        ["gain of one more Newton step, of the objective", f"{proof.decrement:.1e}"],
        ["largest gradient, of its terms", f"{proof.gradient:.1e}"],
        ["condition number; above 1e8 nothing is identified", f"{proof.condition:.1e}"],
        ["parameters on a bound", ", ".join(proof.on_bound) or "none"],
    ]
    return Table(["", "value"], rows, title="Certificate: why this is the optimum")


def _next_section(proposal: Sweep | str, sweep: str) -> str:
    """Return the runs to train next, with the file that trains them; or why none is proposed."""
    if isinstance(proposal, str):
        return page.section("The next sweep", page.paragraph(proposal), name="next")
    following = f"{Path(sweep).stem}_next"
    commands = [
        f"scaling next {shlex.quote(sweep)}    # writes sweeps/{following}.yaml",
        f"scaling plan {shlex.quote(following)}    # what it costs",
        f"scaling train {shlex.quote(following)}",
    ]
    file = page.folded(f"sweeps/{following}.yaml", page.code([proposal.yaml(following)]))
    how = page.code(commands) + file
    return page.section(
        "The next sweep", page.beside(page.table(proposal.table()), how), name="next"
    )

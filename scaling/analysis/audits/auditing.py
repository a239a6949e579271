"""Audit a table of runs, and what is claimed from it: `audit` lists faults, doubts and what would change."""

from __future__ import annotations

import json
import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from scaling.analysis.audits.claimed import look_at_claims
from scaling.analysis.audits.claims import Claims, get_claims
from scaling.analysis.audits.findings import SEVERITIES, Case, Finding, look_at_table
from scaling.analysis.audits.multiverse import LAWS, OBJECTIVES, OUTLIERS, Multiverse, sensitivity
from scaling.analysis.data.runs import Runs, as_runs
from scaling.analysis.fits.fitted import Fit
from scaling.analysis.fits.fitting import fit
from scaling.analysis.traps import TRAPS
from scaling.study.errors import FitError
from scaling.study.record import write_atomic
from scaling.study.table import Table
from scaling.study.units import format_flops, format_quantity

RESAMPLES = 400  # a standard error within 4 %


@dataclass(frozen=True, eq=False)
class Audit:
    """What an audit found.

    Args:
        runs: audited; C: target compute [FLOPs]; claims: what was claimed, or None.
        fit: the certified reference fit, with bootstrap intervals; universes: all other fits.
        findings: gravest first; notes: which rows were used.
    """

    runs: Runs
    C: float
    fit: Fit
    universes: Multiverse
    findings: tuple[Finding, ...]
    claims: Claims | None = None
    notes: tuple[str, ...] = ()

    @property
    def codes(self) -> set[str]:
        """Codes of everything found."""
        return {f.code for f in self.findings}

    @property
    def faults(self) -> tuple[Finding, ...]:
        """What is wrong as it stands."""
        return tuple(f for f in self.findings if f.severity == "fault")

    def find(self, code: str) -> Finding:
        """Return the first finding of a code.

        Raises:
            FitError: nothing of that code was found.
        """
        for finding in self.findings:
            if finding.code == code:
                return finding
        raise FitError(
            f"audit: no finding {code!r}; there are {', '.join(sorted(self.codes)) or 'none'}."
        )

    @property
    def headline(self) -> str:
        """How many faults, doubts and notes there are, in a line."""
        counts = [sum(f.severity == s for f in self.findings) for s in SEVERITIES]
        words = [f"{n} {s}{'s' * (n != 1)}" for n, s in zip(counts, SEVERITIES, strict=True)]
        whose = f" in the claims of {self.claims.name} and their table" if self.claims else ""
        return f"{', '.join(words[:2])} and {words[2]}{whose}; {len(self.runs)} runs, target {format_flops(self.C)} FLOPs."

    def summary(self) -> Table:
        """Return one row per finding with what would change at the target."""
        rows = [[f.code, f.severity, TRAPS[f.code], *_ends(f)] for f in self.findings]
        header = ["code", "severity", "what", "N* as it stands", "N* cured", "wasted compute"]
        return Table(
            header, rows, title="Findings", note=f"{self.headline} {self.runs.conventions}."
        )

    def text(self, width: int = 100) -> str:
        """Return the audit for a terminal: headline, findings in words, multiverse, reference fit."""
        parts = [_wrap(self.headline, width), *(_wrap(n, width) for n in self.notes)]
        for finding in self.findings:
            head = f"{finding.code} ({finding.severity}): {TRAPS[finding.code]}"
            effect = f"At the target: {finding.effect}." if finding.effect else ""
            parts.append(
                "\n".join(
                    filter(
                        None, [head, _wrap(finding.text, width, "  "), _wrap(effect, width, "  ")]
                    )
                )
            )
        parts += [_short(self.universes.summary(), width), _short(self.fit.summary(), width)]
        return "\n\n".join(parts)

    def markdown(self) -> str:
        """Return the audit as a Markdown page."""
        lines = [
            f"# Audit{f' of {self.claims.name}' if self.claims else ''}",
            self.headline,
            *self.notes,
        ]
        if self.claims and self.claims.source:
            lines.append(f"Claims: {self.claims.source}.")
        for finding in self.findings:
            lines.append(
                f"## {finding.code} ({finding.severity}): {TRAPS[finding.code]}\n\n{finding.text}"
            )
            lines += [f"At the target: {finding.effect}."] if finding.effect else []
        lines += [
            "## Multiverse",
            self.universes.summary().markdown(),
            "## Reference fit",
            self.fit.summary().markdown(),
        ]
        return "\n\n".join(lines) + "\n"

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain numbers and text, for JSON; what is not finite is null."""
        best = self.fit.optimal(self.C).iloc[0].to_dict()
        return _plain({
            "format": "scaling audit 1", "headline": self.headline, "target_flops": self.C, "runs": len(self.runs),
            "conventions": self.runs.conventions, "claims": self.claims.name if self.claims else None, "notes": list(self.notes),
            "findings": [{"code": f.code, "severity": f.severity, "text": f.text, "numbers": f.numbers, "change": f.change} for f in self.findings],
            "reference": {"law": self.fit.law.name, "objective": str(self.fit.objective), "params": self.fit.params, "value": self.fit.value, "optimum": best},
            "universes": self.universes.frame.to_dict("records"), "spread": self.universes.spread().to_dict("records"),
            "sentences": self.universes.sentences(),
        })  # fmt: skip

    def save(self, path: str | Path) -> Path:
        """Write `to_dict` as JSON."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, json.dumps(self.to_dict(), indent=1, allow_nan=False) + "\n")
        return path

    def __repr__(self) -> str:
        return (
            f"Audit({', '.join(f.code for f in self.findings) or 'nothing found'}; {self.headline})"
        )

    def _repr_html_(self) -> str:
        return self.summary()._repr_html_()


def audit(
    table: Runs | pd.DataFrame | str | Path,
    claims: str | Path | Mapping[str, Any] | Claims | None = None,
    *,
    C: float | None = None,
    laws: Sequence[str] = LAWS,
    objectives: Sequence[Any] = OBJECTIVES,
    outliers: Sequence[str] = OUTLIERS,
    resamples: int = RESAMPLES,
    level: float = 0.9,
    seed: int = 0,
) -> Audit:
    """Run the whole multiverse on a table and say what is wrong, doubtful, and what would change.

    Args:
        table: runs, or a path or DataFrame of them; whoever's.
        claims: what was published from it: hoffmann, epoch, llama3, a YAML file, or a mapping with
            params (as printed), objective, intervals, optimum (see `scaling.analysis.audits.claims`).
        C: target compute [FLOPs]; that of the claims, else 10 times the largest run.
        laws, objectives, outliers: of the multiverse (see `sensitivity`); the claim's come first.
        resamples, level, seed: of the bootstrap behind the reference fit.

    Returns:
        Findings with code, severity, numbers, and N*, D*, loss and wasted compute at the target.

    Raises:
        FitError: a table that cannot be fitted, claims that make no sense.
    """
    stated = get_claims(claims)
    runs = as_runs(table).using(mixed="all")  # what differs is a finding here, not a refusal
    notes: list[str] = []
    if stated is not None:
        runs, notes = stated.select(runs)
        laws = (stated.law.name, *(n for n in laws if n != stated.law.name))
        named = stated.objective
        objectives = (named, *(n for n in objectives if n != named.name)) if named else objectives
    C = C if C is not None else (stated.C if stated and stated.C else 10 * float(runs.C.max()))
    reference = fit(
        runs, laws[0], objective=objectives[0], resamples=resamples, level=level, seed=seed
    )
    universes = sensitivity(runs, C, laws=laws, objectives=objectives, outliers=outliers)
    case = Case(runs, C, reference, universes, stated)
    findings = _sorted([*look_at_claims(case), *look_at_table(case)])
    return Audit(runs, C, reference, universes, findings, stated, (*runs.notes, *notes))


def _sorted(found: Iterable[Finding]) -> tuple[Finding, ...]:
    """Gravest first; a finding on the claims hides a general one of the same code and severity."""
    unique: dict[tuple[str, str], Finding] = {}
    for finding in found:
        key = (finding.code, finding.text if finding.code in _SEVERAL else "")
        unique.setdefault(key, finding)
    return tuple(sorted(unique.values(), key=lambda f: SEVERITIES.index(f.severity)))


_SEVERAL = ("W-NARROW", "W-OUTLIER", "W-STOP")  # of these each is a finding of its own


def _ends(finding: Finding) -> list[str]:
    change = finding.change
    if not change:
        return ["", "", ""]
    wasted = f"{100 * change['wasted_share']:.2g} %" if "wasted" in change else ""
    return [format_quantity(change["N_before"]), format_quantity(change["N_after"]), wasted]


def _wrap(text: str, width: int, indent: str = "") -> str:
    return textwrap.fill(
        text, width, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False
    )


def _short(table: Table, width: int) -> str:
    """A table whose note is wrapped to the terminal."""
    lines = table.note.splitlines()
    return Table(
        table.header, table.rows, table.title, "\n".join(_wrap(line, width) for line in lines)
    ).text()


def _plain(value: Any) -> Any:
    """Only what JSON knows: numpy numbers as Python's, NaN and infinities as null."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value

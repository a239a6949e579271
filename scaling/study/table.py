"""A small table that prints well as text, Markdown, HTML, LaTeX and CSV."""

from __future__ import annotations

import csv
import html
import io
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, repr=False)
class Table:
    """Rows of already formatted cells under a header; numbers are aligned to the right.

    Args:
        header: column titles, with units.
        rows: cells as text, one sequence per row, as long as the header.
        title: a line above; note: a line below.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]] = field(default_factory=list)
    title: str = ""
    note: str = ""

    def text(self) -> str:
        """Return the table in plain text with aligned columns."""
        cells = [list(self.header), *[[str(c) for c in row] for row in self.rows]]
        widths = [max(_width(row[i]) for row in cells) for i in range(len(self.header))]
        right = self._right()
        lines = [
            "  ".join(
                _padded(c, w, right=r) for c, w, r in zip(row, widths, right, strict=True)
            ).rstrip()
            for row in cells
        ]
        lines.insert(1, "  ".join("-" * w for w in widths))
        return "\n".join(filter(None, [self.title, *lines, self.note]))

    def markdown(self) -> str:
        """Return the table as GitHub-flavoured Markdown."""
        rule = ["---:" if r else "---" for r in self._right()]
        body = [[_markdown(c) for c in row] for row in [self.header, *self.rows]]
        lines = ["| " + " | ".join(row) + " |" for row in [body[0], rule, *body[1:]]]
        # a blank line before the note, else it would be read as one more row
        note = "\n\n" + "  \n".join(map(_markdown, self.note.split("\n"))) if self.note else ""
        title = _markdown(self.title) + "\n\n" if self.title else ""
        return title + "\n".join(lines) + note

    def latex(self, *, label: str = "") -> str:
        """Return a LaTeX table in the style of booktabs: title as caption, note below the rules.

        Args:
            label: for \\ref, e.g. "tab:fit".

        The preamble needs \\usepackage{booktabs}; nothing else.
        """
        columns = "".join("r" if r else "l" for r in self._right())
        rows = [" & ".join(map(_latex, row)) for row in [self.header, *self.rows]]
        # \\ reads a following [ or * as its own argument, so a row never opens with one
        rows = [("{}" + r if r[:1] in "[*" else r) + r" \\" for r in rows]
        lines = [r"\begin{table}", r"\centering"]
        lines += [rf"\caption{{{_latex(self.title)}}}"] if self.title else []
        lines += [rf"\label{{{label}}}"] if label else []
        lines += [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", rows[0], r"\midrule", *rows[1:],
                  r"\bottomrule", r"\end{tabular}"]  # fmt: skip
        notes = [
            rf"\par\smallskip{{\footnotesize {_latex(n)}}}" for n in self.note.split("\n") if n
        ]
        return "\n".join([*lines, *notes, r"\end{table}"])

    def csv(self) -> str:
        """Return header and rows as CSV, cells as they are shown; title and note are left out."""
        out = io.StringIO()
        csv.writer(out, lineterminator="\n").writerows([self.header, *self.rows])
        return out.getvalue()

    def _repr_html_(self) -> str:
        right = self._right()

        def line(row: Iterable[str], tag: str) -> str:
            cells = (
                f'<{tag} style="text-align:{"right" if r else "left"}">{html.escape(str(c))}</{tag}>'
                for c, r in zip(row, right, strict=True)
            )
            return "<tr>" + "".join(cells) + "</tr>"

        caption = f"<caption>{html.escape(self.title)}</caption>" if self.title else ""
        note = "<p>" + html.escape(self.note).replace("\n", "<br>") + "</p>" if self.note else ""
        body = "".join(line(row, "td") for row in self.rows)
        return f"<table>{caption}{line(self.header, 'th')}{body}</table>{note}"

    def __str__(self) -> str:
        return self.text()

    __repr__ = __str__  # a table that a prompt shows is to be read

    def _right(self) -> list[bool]:
        return [_is_numeric(row[i] for row in self.rows) for i in range(len(self.header))]


def _width(cell: str) -> int:
    """Columns of a terminal: a Chinese character takes two, an accent on the letter before it none."""
    if cell.isascii():
        return len(cell)
    wide = sum(unicodedata.east_asian_width(c) in "WF" for c in cell)
    return len(cell) + wide - sum(map(bool, map(unicodedata.combining, cell)))


def _padded(cell: str, width: int, *, right: bool) -> str:
    space = " " * (width - _width(cell))
    return space + cell if right else cell + space


def _is_numeric(cells: Iterable[str]) -> bool:
    """A column is numeric when no cell starts with a letter (`-`, `12`, `[1, 2]`, `4.1M`)."""
    return all(not str(c)[:1].isalpha() for c in cells)


_LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "%": r"\%", "&": r"\&", "#": r"\#", "$": r"\$",
    "_": r"\_", "^": r"\textasciicircum{}", "~": r"\textasciitilde{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", "±": r"$\pm$", "×": r"$\times$", "≤": r"$\leq$", "≥": r"$\geq$", "²": r"$^2$", "·": r"$\cdot$",
    "∞": r"$\infty$", "α": r"$\alpha$", "β": r"$\beta$", "γ": r"$\gamma$", "δ": r"$\delta$", "σ": r"$\sigma$", "−": "$-$",
}  # fmt: skip
_SCIENTIFIC = re.compile(r"(?<![\w.])(-?\d+(?:\.\d+)?)e([+-]?)0*(\d+)(?!\w)")
_POWER = re.compile(r"\b([A-Z]\*?)\^(-?\w+)")


def _latex(cell: object) -> str:
    """Escape a cell; 1.2e17, -3 and C^a become mathematics."""
    parts, end, text = [], 0, str(cell)
    for match in re.finditer(
        f"{_SCIENTIFIC.pattern}|(?<![\\w.])-(?=[\\d.])|{_POWER.pattern}", text
    ):
        parts += [_escape(text[end : match.start()]), _mathematics(match)]
        end = match.end()
    return "".join([*parts, _escape(text[end:])])


def _mathematics(match: re.Match[str]) -> str:
    mantissa, sign, power, base, exponent = match.groups()
    if mantissa:
        return rf"${mantissa} \times 10^{{{sign.replace('+', '')}{power}}}$"
    if not base:
        return "$-$"
    names = re.sub(r"(alpha|beta|gamma)(?:_(\w))?", lambda m: "\\" + m[1] + (f"_{m[2]}" if m[2] else ""), exponent)  # fmt: skip
    return f"${base}^{{{names}}}$"


def _escape(text: str) -> str:
    return "".join(_LATEX.get(c, c) for c in text)


def _markdown(cell: object) -> str:
    """Escape what Markdown would read: column bars, emphasis, tags."""
    return re.sub(r"([|*<\\])", r"\\\1", str(cell))

"""A small table that prints well as text, Markdown and HTML."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
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
        widths = [max(len(row[i]) for row in cells) for i in range(len(self.header))]
        right = [_is_numeric(row[i] for row in cells[1:]) for i in range(len(self.header))]
        lines = [
            "  ".join(
                c.rjust(w) if r else c.ljust(w) for c, w, r in zip(row, widths, right, strict=True)
            ).rstrip()
            for row in cells
        ]
        lines.insert(1, "  ".join("-" * w for w in widths))
        return "\n".join(filter(None, [self.title, *lines, self.note]))

    def markdown(self) -> str:
        """Return the table as GitHub-flavoured Markdown."""
        right = [_is_numeric(row[i] for row in self.rows) for i in range(len(self.header))]
        rule = ["---:" if r else "---" for r in right]
        lines = ["| " + " | ".join(map(str, row)) + " |" for row in [self.header, rule, *self.rows]]
        return "\n".join(filter(None, [self.title and self.title + "\n", *lines, self.note]))

    def _repr_html_(self) -> str:
        right = [_is_numeric(row[i] for row in self.rows) for i in range(len(self.header))]

        def line(row: Iterable[str], tag: str) -> str:
            cells = (
                f'<{tag} style="text-align:{"right" if r else "left"}">{html.escape(str(c))}</{tag}>'
                for c, r in zip(row, right, strict=True)
            )
            return "<tr>" + "".join(cells) + "</tr>"

        caption = f"<caption>{html.escape(self.title)}</caption>" if self.title else ""
        note = f"<p>{html.escape(self.note)}</p>" if self.note else ""
        body = "".join(line(row, "td") for row in self.rows)
        return f"<table>{caption}{line(self.header, 'th')}{body}</table>{note}"

    def __str__(self) -> str:
        return self.text()


def _is_numeric(cells: Iterable[str]) -> bool:
    """A column is numeric when no cell starts with a letter (`-`, `12`, `[1, 2]`, `4.1M`)."""
    return all(not str(c)[:1].isalpha() for c in cells)

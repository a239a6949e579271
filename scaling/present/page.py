"""A self-contained HTML page: sections, tables that sort, figures as inline SVG; no network."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl

from scaling.present import style
from scaling.study.table import Table

# Figures are drawn dark on white; in the dark they are inverted, and hue-rotated back to their hue.
CSS = """
:root { color-scheme: light dark; --ink: #1f2328; --muted: #5f6873; --paper: #ffffff; --line: #dfe3e8;
  --soft: #f5f7f9; --good: #12703a; --bad: #b3261e; --accent: #0067a3; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8eb; --muted: #a2abb6; --paper: #121212; --line: #33383f;
  --soft: #1c1f23; --good: #63c98b; --bad: #ff8d85; --accent: #6bb9ec; }
  figure svg { filter: invert(0.93) hue-rotate(180deg); } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 62rem; padding: 1.5rem 1.1rem 4rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "DejaVu Sans", sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .3rem; }
h2 { font-size: 1.2rem; margin: 2.4rem 0 .6rem; padding-top: .6rem; border-top: 1px solid var(--line); }
p, ul, pre { margin: .5rem 0; } ul { padding-left: 1.2rem; }
.question { font-size: 1.08rem; color: var(--muted); margin-bottom: 1rem; }
.verdict { background: var(--soft); border-left: .3rem solid var(--accent); padding: .8rem 1rem; border-radius: .3rem; }
.verdict p:first-child { font-size: 1.1rem; margin-top: 0; }
.meta, caption, figcaption, .note { color: var(--muted); font-size: .88rem; }
.yes { color: var(--good); font-weight: 600; } .no { color: var(--bad); font-weight: 600; }
.warning { border-left: .2rem solid var(--bad); padding-left: .7rem; margin: .5rem 0; }
figure { margin: 1.2rem 0 1.6rem; } figure svg { width: 100%; height: auto; display: block; }
figure.half { max-width: 46rem; }
.scroll { overflow-x: auto; margin: .8rem 0; }
table { border-collapse: collapse; font-size: .88rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; padding-bottom: .3rem; }
th, td { padding: .28rem .7rem .28rem 0; text-align: left; border-bottom: 1px solid var(--line); vertical-align: top; }
th { font-weight: 600; } td.r, th.r { text-align: right; white-space: nowrap; }
th button { all: unset; cursor: pointer; } th button:focus-visible { outline: 2px solid var(--accent); }
th[aria-sort=ascending] button::after { content: " \\2191"; } th[aria-sort=descending] button::after { content: " \\2193"; }
pre, code { font: .85rem/1.5 ui-monospace, "SFMono-Regular", "DejaVu Sans Mono", Menlo, Consolas, monospace; }
pre { background: var(--soft); padding: .7rem .9rem; border-radius: .3rem; overflow-x: auto; }
pre.written { margin: 0; padding: .3rem .5rem; white-space: pre-wrap; overflow-wrap: anywhere; max-width: 44rem; }
li, #setup td { overflow-wrap: anywhere; } .sortable td { white-space: nowrap; }
@media print { :root { color-scheme: light; --ink: #000; --muted: #444; --paper: #fff; --line: #bbb; --soft: #fff; }
  figure svg { filter: none; } body { max-width: none; padding: 0; font-size: 9.5pt; }
  figure, tr, .verdict { break-inside: avoid; } h2 { break-after: avoid; } .scroll { overflow: visible; } table { font-size: 7.5pt; } }
"""

SCRIPT = """
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  const key = (row, i) => { const c = row.cells[i]; return c.dataset.v === undefined ? c.textContent : Number(c.dataset.v); };
  const compare = (a, b) => {
    if (typeof a === "number" && typeof b === "number") return Number.isNaN(a) ? 1 : Number.isNaN(b) ? -1 : a - b;
    return String(a).localeCompare(String(b), undefined, { numeric: true }); };
  heads.forEach((head, i) => head.querySelector("button").addEventListener("click", () => {
    const down = head.getAttribute("aria-sort") === "ascending";
    heads.forEach(h => h.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const rows = [...body.rows].sort((a, b) => (down ? -1 : 1) * compare(key(a, i), key(b, i)));
    body.append(...rows);
  }));
}
"""


def page(title: str, parts: Sequence[str]) -> str:
    """Return the whole document around sections of HTML."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<link rel="icon" href="data:,"><title>{text(title)}</title><style>{CSS}</style></head>\n<body>\n'
        + "\n".join(p for p in parts if p)
        + f"\n<script>{SCRIPT}</script>\n</body></html>\n"
    )


def text(value: object) -> str:
    """Return text that is safe inside HTML."""
    return html.escape(str(value))


def section(title: str, *parts: str, name: str = "") -> str:
    """Return a headed section; nothing if all its parts are empty."""
    inner = "\n".join(p for p in parts if p)
    anchor = name or re.sub(r"\W+", "-", title.lower()).strip("-")
    return f'<section id="{anchor}"><h2>{text(title)}</h2>\n{inner}\n</section>' if inner else ""


def paragraph(words: str, kind: str = "") -> str:
    """Return a paragraph of plain text, with a class if given."""
    return f"<p{f' class={kind!r}' if kind else ''}>{text(words)}</p>" if words else ""


def bullets(items: Sequence[str]) -> str:
    """Return a list of plain texts."""
    return "<ul>" + "".join(f"<li>{text(i)}</li>" for i in items) + "</ul>" if items else ""


def code(lines: Sequence[str]) -> str:
    """Return a block of commands."""
    return f"<pre>{text(chr(10).join(lines))}</pre>"


def table(content: Table, *, values: Sequence[Sequence[float | None]] | None = None) -> str:
    """Return a table; with sorting if given the number behind each cell (None: sort its text)."""
    right = [
        all(not str(row[i])[:1].isalpha() for row in content.rows)
        for i in range(len(content.header))
    ]
    sortable = values is not None
    heads = [
        f"<button type='button'>{text(h)}</button>" if sortable else text(h) for h in content.header
    ]
    head = "".join(f"<th scope='col'{_side(r)}>{h}</th>" for h, r in zip(heads, right, strict=True))
    body = []
    for number, row in enumerate(content.rows):
        keys = values[number] if values is not None else [None] * len(row)
        body.append(
            "<tr>"
            + "".join(_cell(c, k, r) for c, k, r in zip(row, keys, right, strict=True))
            + "</tr>"
        )
    caption = f"<caption>{text(content.title)}</caption>" if content.title else ""
    kind = " class='sortable'" if sortable else ""
    note = "".join(
        paragraph(line, "note") for line in content.note.splitlines() if not line.startswith("- ")
    )
    return f"<div class='scroll'><table{kind}>{caption}<thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table></div>{note}"


def _side(right: bool) -> str:
    return " class='r'" if right else ""


def _cell(content: str, key: float | None, right: bool) -> str:
    kinds = [k for k in ("r" if right else "", content if content in ("yes", "no") else "") if k]
    kind = f" class='{' '.join(kinds)}'" if kinds else ""
    value = f" data-v='{key:.10g}'" if key is not None else ""
    return f"<td{kind}{value}>{text(content)}</td>"


def figure(drawn: Any, caption: str, *, name: str) -> str:
    """Return a figure as inline SVG with its caption; the figure is closed."""
    kind = " class='half'" if style.figure_of(drawn).get_size_inches()[0] < 8 else ""
    svg = inline_svg(drawn, caption)
    style.close(drawn)
    return (
        f"<figure id='figure-{name}'{kind}>{svg}<figcaption>{text(caption)}</figcaption></figure>"
    )


def inline_svg(drawn: Any, label: str) -> str:
    """Return a figure as an SVG element: no prolog, no ids but those it refers to, two decimals."""
    buffer = io.StringIO()
    with mpl.rc_context(style.RC):
        style.figure_of(drawn).savefig(buffer, format="svg", metadata={"Date": None})
    source = buffer.getvalue()
    source = source[source.index("<svg") :]
    source = re.sub(r"<metadata>.*?</metadata>\s*", "", source, flags=re.S)
    source = re.sub(r"<!--.*?-->\s*", "", source, flags=re.S)
    used = set(re.findall(r"#([\w-]+)", source))
    source = re.sub(r' id="([\w-]+)"', lambda m: m[0] if m[1] in used else "", source)
    source = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", source, count=1)
    source = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", source, count=1)
    source = re.sub(
        r'(?<= d=")[^"]+',
        lambda m: re.sub(r"-?\d+\.\d{3,}", lambda n: f"{float(n[0]):.2f}", m[0]),
        source,
    )
    return source.replace("<svg", f'<svg role="img" aria-label="{text(label)}"', 1)

"""A self-contained HTML page: sections, tables that sort, figures to point at and zoom; no network.

matplotlib draws every figure once, for paper and for the page; `report.js` makes them live.
"""

from __future__ import annotations

import base64
import hashlib
import html
import io
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pandas as pd
from PIL import Image

from scaling.present import style
from scaling.present.marks import find_marks
from scaling.study.table import Table

HERE = Path(__file__).parent
# What a browser lets the page do: its own styles, pictures inside it, the one script whose hash is
# given. Were markup ever to slip through from a record, it could neither run nor load anything.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:;"
LONG = 25  # rows; a longer table scrolls in itself
# Texts and legends keep a name: zoomed in, texts stay small and a legend steps aside.
ROLES = {"text": "txt", "legend": "legend"}


def page(title: str, parts: Sequence[str]) -> str:
    """Return the whole document around sections of HTML, with links to each of them."""
    body = "\n".join(p for p in parts if p)
    script = (HERE / "report.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    heads = re.findall(r'<section id="([^"]+)"><h2>', body)
    links = "".join(
        f'<a href="#{name}">{name.replace("-", " ").capitalize()}</a>' for name in heads
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY} script-src \'sha256-{digest}\'">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<link rel="icon" href="data:,"><title>{text(title)}</title>'
        f"<style>{(HERE / 'report.css').read_text(encoding='utf-8')}</style></head>\n<body>\n"
        f'<nav aria-label="Sections"><div>{links}</div>'
        f'<button type="button" id="theme">Dark</button></nav>\n<main>\n{body}\n</main>\n'
        f"<script>{script}</script>\n</body></html>\n"
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
    """Return a block of commands, with a button that copies them."""
    return f"<div class='copy'><pre tabindex='0'>{text(chr(10).join(lines))}</pre></div>"


def facts(pairs: Mapping[str, str]) -> str:
    """Return names and values side by side."""
    inner = "".join(f"<div><dt>{text(k)}</dt><dd>{text(v)}</dd></div>" for k, v in pairs.items())
    return f"<dl class='facts'>{inner}</dl>"


def beside(*parts: str) -> str:
    """Return parts side by side where there is room."""
    shown = [p for p in parts if p]
    return f"<div class='pair'>{''.join(f'<div>{p}</div>' for p in shown)}</div>" if shown else ""


def folded(title: str, *parts: str) -> str:
    """Return parts that open when their title is selected."""
    return f"<details><summary>{text(title)}</summary>{''.join(parts)}</details>"


def data(content: Any, kind: str) -> str:
    """Return data for the page's script; nothing in it can end the element it is in."""
    source = json.dumps(content, separators=(",", ":"), allow_nan=False)  # ASCII only
    for sign in "<>&":
        source = source.replace(sign, f"\\u{ord(sign):04x}")
    return f"<script type='application/json' class='{kind}'>{source}</script>"


def table(
    content: Table, *, values: Sequence[Sequence[float | None]] | None = None, links: Sequence[str] | None = None
) -> str:  # fmt: skip
    """Return a table.

    Args:
        content: its cells; values: the number behind each cell (None: its text sorts), which makes
            the table one that sorts.
        links: where the first cell of each row leads, "" for nowhere; rows are then those of runs,
            which figures refer to by their number.
    """
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
        cells = [_cell(c, k, r) for c, k, r in zip(row, keys, right, strict=True)]
        if links is not None and links[number]:
            cells[0] = f"<td><a href='{text(links[number])}'>{text(row[0])}</a></td>"
        body.append(
            f"<tr{f' data-run={number}' if links is not None else ''}>{''.join(cells)}</tr>"
        )
    caption = paragraph(content.title, "caption")  # outside, so that it need not be scrolled to
    kind = " class='sortable'" if sortable else ""
    note = "".join(
        paragraph(line, "note") for line in content.note.splitlines() if not line.startswith("- ")
    )
    box = f"<div class='scroll{' long' if sortable or len(body) > LONG else ''}' tabindex='0' role='region' aria-label='{text(content.title or 'Table')}'>"
    return f"{caption}{box}<table{kind}><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table></div>{note}"


def _side(right: bool) -> str:
    return " class='r'" if right else ""


def _cell(content: str, key: float | None, right: bool) -> str:
    kinds = [k for k in ("r" if right else "", content if content in ("yes", "no") else "") if k]
    kind = f" class='{' '.join(kinds)}'" if kinds else ""
    value = f" data-v='{key:.10g}'" if key is not None else ""
    return f"<td{kind}{value}>{text(content)}</td>"


def figure(drawn: Any, caption: str, *, name: str) -> str:
    """Return a figure that can be zoomed, with its caption; the figure is closed."""
    return live_figure(drawn, caption, name=name)[0]


def live_figure(
    drawn: Any, caption: str, *, name: str, rows: pd.DataFrame | None = None
) -> tuple[str, set[int]]:
    """Return a figure that can be pointed at and zoomed, with its caption; the figure is closed.

    Args:
        drawn: what a plotting function returned; caption: what it shows; name: for links to it.
        rows: the runs that the page lists, as `find_marks` takes them.

    Returns:
        Its HTML, and the numbers of the runs that it shows.
    """
    whole = style.figure_of(drawn)
    kind = "half" if whole.get_size_inches()[0] < 8 else "wide"
    svg = inline_svg(drawn, caption)
    _, _, width, height = map(float, re.search(r'viewBox="([^"]+)"', svg)[1].split())  # type: ignore[index]
    marks = find_marks(whole, (width, height), rows=rows)
    style.close(drawn)
    shown = {m[2] for p in marks for m in p["points"]} | {m[0] for p in marks for m in p["lines"]}
    source = (
        f"<figure id='figure-{name}' class='{kind}'><div class='pan'><div class='stage' tabindex='0' role='group' "
        f"aria-roledescription='interactive figure' aria-label='{text(caption)}' aria-describedby='keys'>{svg}</div></div>"
        f"<figcaption>{text(caption)}</figcaption>{data(marks, 'marks') if marks else ''}</figure>"
    )
    return source, {run for run in shown if isinstance(run, int)}


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
    source = re.sub(r' id="(text|legend)_\d+"', lambda m: f' class="{ROLES[m[1]]}"', source)
    source = re.sub(r' id="([\w-]+)"', lambda m: m[0] if m[1] in used else "", source)
    source = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", source, count=1)
    source = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", source, count=1)
    source = re.sub(r' (?:d|x|y)="[^"]+"', _shorter, source)
    source = re.sub(r"\n\s+", "\n", source).replace("xlink:href", "href")
    source = re.sub(r'style="[^"]+"', lambda m: m[0].replace("; ", ";").replace(": ", ":"), source)
    source = re.sub(r"data:image/png;base64,([\w+/=\s]+)", _smaller, source)
    return source.replace("<svg", f'<svg role="img" aria-label="{text(label)}"', 1)


def _shorter(values: re.Match[str]) -> str:
    """Return places to a hundredth of a point, which nobody sees even enlarged tenfold."""
    return re.sub(r"-?\d+\.\d{3,}", lambda n: f"{float(n[0]):.2f}", values[0])


def _smaller(picture: re.Match[str]) -> str:
    """Return a picture inside a figure in 256 colours: a quarter of its size, and it looks the same."""
    whole, buffer = Image.open(io.BytesIO(base64.b64decode(picture[1]))), io.BytesIO()
    whole.convert("RGBA").quantize(256, method=Image.Quantize.FASTOCTREE).save(
        buffer, "png", optimize=True
    )
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()

"""Write docs/api.md from docstrings and docs/commands.md from the help of each verb.

python docs/make_api.py
"""

from __future__ import annotations

import importlib
import inspect
import re
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import scaling
from scaling.cli import HELP, VERBS

FOLDER = Path(__file__).parent
WIDTH = 88  # columns of a signature, so that no page scrolls
# where a name comes from -> the heading it stands under, in this order
PARTS = {
    "analysis.data": "Runs",
    "analysis.fits": "Fits",
    "analysis.laws": "Laws along a schedule",
    "analysis.frontier": "Frontiers",
    "analysis.forecasts": "Forecasts",
    "analysis.allocation": "Decisions and next runs",
    "analysis.designs": "Designs",
    "analysis.audits": "Audits",
    "study": "Plans",
    "training": "Training and models",
}
REST = "Writing"
SECTIONS = ("Args", "Returns", "Raises", "Source", "Yields", "Attributes")

API_HEAD = """\
# Python: every public name

Written by `python docs/make_api.py`; do not edit. All names are attributes of the package,
`import scaling as sl`, and are loaded when they are first used. Results are frozen objects; what a
function returns is described below it.
"""

COMMANDS_HEAD = """\
# Commands

Written by `python docs/make_api.py`; do not edit. `scaling VERB --help` prints the same in a terminal.
Keys of runs and fits are in [reference.md](reference.md).
"""


# ---------------------------------------------------------------------------- Python


def api() -> str:
    """Return the page of public names."""
    found: dict[str, list[str]] = {part: [] for part in [*PARTS.values(), REST]}
    for name in scaling._NAMES:
        found[_part(name)].append(name)
    seen = {name for names in found.values() for name in names}
    lines = [API_HEAD]
    for part, names in found.items():
        lines += [f"## {part}\n", *(block for n in names for block in _public(n, seen))]
    lines += ["## Figures: `sl.plot`\n", *_module("plot", seen)]
    lines += ["## Laws: `sl.laws`\n", *_module("laws", seen)]
    return "\n".join(lines).rstrip() + "\n"


def _part(name: str) -> str:
    home = scaling._NAMES[name].removeprefix("scaling.")
    return next((title for start, title in PARTS.items() if home.startswith(start)), REST)


def _module(name: str, seen: set[str]) -> Iterator[str]:
    module = getattr(scaling, name)
    things = {n: getattr(module, n) for n in sorted(module.__all__)}
    for called, thing in things.items():
        if inspect.isfunction(thing) or inspect.isclass(thing):
            yield from _described(f"sl.{name}.{called}", thing)
            if inspect.isfunction(thing):
                yield from _returned(thing, seen)
    objects = [f"`sl.{name}.{n}`" for n, x in things.items() if not (callable(x))]
    if objects:
        yield f"Objects: {', '.join(objects)}.\n"


def _public(name: str, seen: set[str]) -> Iterator[str]:
    thing = getattr(scaling, name)
    yield from _described(f"sl.{name}", thing)
    if inspect.isfunction(thing):
        yield from _returned(thing, seen)


def _returned(function: Callable[..., Any], seen: set[str]) -> Iterator[str]:
    """Describe the class that a function returns, where it is the package's and not yet described."""
    name = str(function.__annotations__.get("return", ""))
    made = function.__globals__.get(name)
    if inspect.isclass(made) and made.__module__.startswith("scaling.") and name not in seen:
        seen.add(name)
        yield from _described(name, made, level=4)


def _described(title: str, thing: Any, *, level: int = 3) -> Iterator[str]:
    yield f"{'#' * level} {title.removeprefix('sl.')}\n"
    if not inspect.isclass(thing):
        yield _code(title + _signature(thing))
    words = _words(inspect.getdoc(thing) or "")
    if not inspect.isclass(thing):
        yield words
        return
    yield words.replace("**Args**", "**Fields**")
    yield from _members(thing)


def _members(made: type) -> Iterator[str]:
    """List what an object offers besides its fields: one line each."""
    rows = []
    for name, member in vars(made).items():
        inner = getattr(member, "fget", None) or getattr(member, "func", None)
        inner = inner or getattr(member, "__func__", member)
        if name.startswith("_") or not inspect.isfunction(inner) or not inner.__doc__:
            continue
        first = " ".join(inspect.cleandoc(inner.__doc__).split("\n\n")[0].split())
        called = "" if inner is not member and not hasattr(member, "__func__") else "()"
        rows.append(f"- `.{name}{called}`: {_safe(first)}")
    if rows:
        yield "\n".join(rows) + "\n"


def _signature(function: Callable[..., Any]) -> str:
    """Return a signature, on one line or with a line per argument."""
    parts, keyword_only = [], False
    for p in inspect.signature(function).parameters.values():
        if p.kind is p.KEYWORD_ONLY and not keyword_only:
            parts.append("*")
        keyword_only = keyword_only or p.kind in (p.KEYWORD_ONLY, p.VAR_POSITIONAL)
        stars = {p.VAR_POSITIONAL: "*", p.VAR_KEYWORD: "**"}.get(p.kind, "")
        kind = "" if p.annotation is p.empty else f": {_type(p.annotation)}"
        default = "" if p.default is p.empty else f"{' = ' if kind else '='}{_default(p.default)}"
        parts.append(f"{stars}{p.name}{kind}{default}")
    back = inspect.signature(function).return_annotation
    end = "" if back is inspect.Signature.empty else f" -> {_type(back)}"
    line = f"({', '.join(parts)}){end}"
    if len(line) + len(function.__name__) + 3 <= WIDTH:
        return line
    return "(\n" + "".join(f"    {part},\n" for part in parts) + f"){end}"


def _type(annotation: Any) -> str:
    return annotation if isinstance(annotation, str) else getattr(annotation, "__name__", "")


def _default(value: Any) -> str:
    if callable(value):
        return getattr(value, "__name__", "...")
    text = repr(value)
    return text if len(text) < 40 and " at 0x" not in text else "..."


def _words(doc: str) -> str:
    """Return a docstring as Markdown: its sections as lists, its examples as code."""
    lines: list[str] = []
    section = ""
    for block in re.split(r"\n\s*\n", doc):
        head = re.match(rf"({'|'.join(SECTIONS)}):[ \t]*(.*)", block, re.DOTALL)
        if head:
            section, body = head[1], textwrap.dedent(head[2].strip("\n"))
            lines.append(f"**{section}**{_items(body, section)}\n")
        elif block.startswith("    "):
            lines.append(_code(textwrap.dedent(block)))
        else:
            lines.append(_safe(" ".join(block.split())) + "\n")
    return "\n".join(lines)


def _items(body: str, section: str) -> str:
    if section in ("Returns", "Source", "Yields"):
        return f": {_safe(' '.join(body.split()))}"
    entries = re.split(r"\n(?=\S)", textwrap.dedent(body))
    return "\n\n" + "\n".join(f"- {_named(' '.join(e.split()))}" for e in entries if e.strip())


def _named(entry: str) -> str:
    """Put the names that an entry opens with into code."""
    names, colon, text = entry.partition(": ")
    if not colon or len(names) > 60:
        return _safe(entry)
    coded = re.sub(r"[*]*[A-Za-z_][A-Za-z_0-9.]*", r"`\g<0>`", names)
    return f"{coded}: {_safe(text)}"


def _safe(text: str) -> str:
    """Keep * _ < of formulas from being read as Markdown, outside code."""
    pieces = re.split(r"(`[^`]*`)", text)
    return "".join(
        p if p.startswith("`") else re.sub(r"([*<\[]|(?<!\w)_)", r"\\\1", p) for p in pieces
    )


def _code(text: str, language: str = "text") -> str:
    return f"```{language}\n{text.rstrip()}\n```\n"


# ---------------------------------------------------------------------------- commands


def commands() -> str:
    """Return the page of verbs, in the order of `scaling --help`."""
    # sweeps of the folder one stands in would be listed, too
    overview = HELP.replace("one of: {sweeps}", "one of the package's")
    lines = [COMMANDS_HEAD, _code(overview)]
    for verb, home in VERBS.items():
        module = importlib.import_module(home)
        text = getattr(module, "HELPS", {}).get(verb) or (module.__doc__ or "").strip()
        lines += [f"## {verb}\n", _code(text)]
    return "\n".join(lines).rstrip() + "\n"


def pages() -> dict[Path, str]:
    """Return each page with its text as it should be."""
    return {FOLDER / "api.md": api(), FOLDER / "commands.md": commands()}


if __name__ == "__main__":
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8")
        print(path)

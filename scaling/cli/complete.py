"""scaling complete SHELL ...: what the scripts of `scaling completion` ask for at every Tab.

scaling complete bash "scaling train mod" " =:"     the line up to the cursor, and what bash cuts words at
scaling complete zsh train mod                      the words, the last as far as the cursor
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from scaling.cli.candidates import find_candidates

# bash puts a candidate into the line as it is, where `;` or `$(` in a file's name would be a command
_ACTS = re.compile(r"""[\s!"#$&'()*;<>?@[\\\]^`{|}~]""")
_WORD = re.compile(r"""(?:[^\s"'\\]|\\.?|"[^"]*"?|'[^']*'?)+""")


def run_complete(arguments: Sequence[str]) -> int:
    """Print one candidate per line; for fish with its meaning behind a tab."""
    shell, *rest = arguments or ["zsh"]
    if shell == "bash":
        line, breaks = [*rest, "", ""][:2]
        words = split_line(line)[1:]
        cut = _cut(words[-1] if words else "", breaks)
        lines = [_ACTS.sub(r"\\\g<0>", c.text[cut:]) for c in find_candidates(words)]
    else:
        found = find_candidates(rest)
        lines = [
            f"{c.text}\t{c.meaning}" if shell == "fish" and c.meaning else c.text for c in found
        ]
    if lines:
        print("\n".join(lines))
    return 0


def split_line(line: str) -> list[str]:
    """Split a line that may end inside a quote; the last word is empty behind a space."""
    words = [w.replace('"', "").replace("'", "") for w in _WORD.findall(line)]
    return [*words, ""] if line[-1:].isspace() or not words else words


def _cut(word: str, breaks: str) -> int:
    """How much of a word bash has put behind it already: up to the last = or : that it cuts at."""
    return 1 + max((word.rfind(mark) for mark in "=:" if mark in breaks), default=-1)

"""One line of what `scaling doctor` finds."""

from __future__ import annotations

from dataclasses import dataclass

VERDICTS = ("ok", "warn", "fail", "absent")


@dataclass(frozen=True)
class Finding:
    """What was looked at, what was found, what that means and what to do.

    Args:
        what: in a word or two.
        found: versions, sizes, places.
        verdict: ok; warn: works, with a drawback; fail: does not work; absent: not here, and needed
            only for what `cure` says.
        cure: what to do, with a command to copy.
        trains: whether nothing can be trained when this fails.
    """

    what: str
    found: str
    verdict: str = "ok"
    cure: str = ""
    trains: bool = True

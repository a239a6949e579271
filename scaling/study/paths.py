"""Where the package's own files are, in a checkout and in an installed wheel."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent.parent


def data_dir(name: str) -> Path:
    """Return the folder `conf` or `sweeps`: inside the package in a wheel, beside it in a checkout."""
    for folder in (_PACKAGE / name, _PACKAGE.parent / name):
        if folder.is_dir():
            return folder
    raise FileNotFoundError(
        f"{name}/ is neither in {_PACKAGE} nor beside it; install the package again."
    )


def set_aside(path: Path, text: str) -> Path | None:
    """Keep a file that is about to be written with other content, as `NAME~` beside it.

    Returns:
        Where the former content lies now; null if there was none, or the same.
    """
    if not path.is_file() or path.read_text(encoding="utf-8", errors="replace") == text:
        return None
    former = path.with_name(path.name + "~")
    path.replace(former)
    return former

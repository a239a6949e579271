"""Where documents come from: Python's own standard library."""

from __future__ import annotations

import os
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from scaling.study.errors import DataError

# Tests are not written like the rest, site-packages is not the standard library; encodings is
# 1.4 MB of character tables and pydoc_data one generated file: they are learned by rote.
LEFT_OUT_FOLDERS = frozenset(
    {
        "site-packages",
        "dist-packages",
        "test",
        "tests",
        "idle_test",
        "__pycache__",
        "encodings",
        "pydoc_data",
    }
)
LEFT_OUT_PREFIXES = ("_sysconfigdata",)  # names this machine's compiler and folders


def stdlib_files(root: str | Path | None = None) -> list[Path]:
    """Return the standard library's .py files in the order of their path below the root.

    Args:
        root: folder to look in; None: the running interpreter's.

    Raises:
        DataError: none are found, as in an interpreter that keeps its library in a zip file.
    """
    root = Path(root or sysconfig.get_path("stdlib"))
    found = []
    for folder, below, names in os.walk(root):
        below[:] = [name for name in below if name not in LEFT_OUT_FOLDERS]
        keep = [n for n in names if n.endswith(".py") and not n.startswith(LEFT_OUT_PREFIXES)]
        found += [Path(folder) / name for name in keep]
    if not found:
        raise DataError(
            f"data.source=stdlib: no .py files in {root}. This Python keeps its library elsewhere "
            "(a zip file, perhaps); "
            "use an ordinary CPython, or data.source=text with data.path."
        )
    return sorted(found, key=lambda path: path.relative_to(root).as_posix())


def stdlib_documents(root: str | Path | None = None) -> Iterator[str]:
    """Yield the standard library's source files as text, without the few that are not UTF-8."""
    for path in stdlib_files(root):
        try:
            yield path.read_bytes().decode("utf-8")
        except UnicodeDecodeError:
            continue

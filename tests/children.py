"""Processes of their own for tests, from a server that has imported everything: a fork each, not an import.

Where the start of the interpreter is what is tested, start `python -m scaling` instead.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path

# The server does nothing with what it imports, so that no thread of its own is lost by a fork.
CHILDREN = multiprocessing.get_context("forkserver")
CHILDREN.set_forkserver_preload(
    ["pytest", "yaml", "hydra.core.utils", "torch._dynamo", "scaling.cli.train", "scaling.cli.rounds", "scaling.training.trainer"]
)  # fmt: skip

Child = multiprocessing.context.ForkServerProcess


def start_child(target, *arguments) -> Child:
    """Start a function of a test module in a process of its own."""
    child = CHILDREN.Process(target=target, args=arguments)
    child.start()
    return child


def start_command(folder: Path, *arguments: str, output: Path | None = None) -> Child:
    """Start a command in a folder, with a cache there; its output goes to a file, or nowhere."""
    return start_child(_run_command, folder, arguments, output)


def start_telling(target, *arguments) -> tuple[Child, Connection]:
    """Start a function whose last argument is a connection; return the child and the other end."""
    ours, theirs = CHILDREN.Pipe(duplex=False)
    child = start_child(target, *arguments, theirs)
    theirs.close()  # the child's end is then the only one, and its death ends the connection
    return child, ours


def wait_for(child: Child, *, seconds: float = 300) -> int:
    """Wait until a child has ended and return its exit code, negative if it died of a signal."""
    child.join(seconds)
    assert child.exitcode is not None, f"still running after {seconds} s"
    return child.exitcode


def fresh_cache(folder: Path) -> str:
    """Return a new cache in a folder, for $SCALING_CACHE, with the kernels that are compiled already."""
    from scaling.training import native

    cache, kernels = folder / "cache", native._library()
    cache.mkdir(exist_ok=True)
    if kernels is not None and not (cache / "native").exists():
        (cache / "native").symlink_to(Path(kernels._name).parent)  # to compile takes three seconds
    return str(cache)


def _run_command(folder: Path, arguments: Sequence[str], output: Path | None) -> None:
    """In the child: what the shell does, then what `scaling` does."""
    from scaling.cli import main
    from scaling.training import native

    native.is_available()  # from the user's cache; the folder's would be compiled anew, for seconds
    os.chdir(folder)
    os.environ |= {"SCALING_CACHE": str(folder / "cache")}
    if output is None:
        target = nobody()
    else:
        target = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for number in (1, 2):
        os.dup2(target, number)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", closefd=False) for number in (1, 2))
    sys.exit(main(list(arguments)))


def nobody() -> int:
    """Return the writing end of a pipe that nobody reads, as `| head` leaves it."""
    reader, writer = os.pipe()
    os.close(reader)
    return writer

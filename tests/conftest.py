"""What every test may rely on."""

import gc
import signal
import sys

import pytest

# A shell starts what it sends to the background with Ctrl-C ignored, and children inherit that:
# tests that send the signal must not depend on how the tests were started.
signal.signal(signal.SIGINT, signal.default_int_handler)


# Files that take longest, the longest first: what begins late is waited for by one worker alone.
LONGEST = (
    "distributed", "readme", "report", "docs", "auditing", "cli", "sweeps", "compose", "stack", "scores",
    "generation",
)  # fmt: skip


def pytest_configure(config):
    """Let workers take files in the order of collection, not by their numbers of tests."""
    if hasattr(config.option, "loadscopereorder"):
        config.option.loadscopereorder = False


def pytest_collection_modifyitems(items):
    """Put the longest files first; the others stay in their order."""
    ranks = {f"test_{name}": rank for rank, name in enumerate(LONGEST)}
    items.sort(key=lambda item: ranks.get(item.path.stem, len(ranks)))


def pytest_collection_finish(session):
    """Leave what was imported and collected out of every later search for garbage."""
    if "scaling.training.native" in sys.modules:
        # from the user's cache, once: tests take other caches, where it would be compiled anew (3 s)
        sys.modules["scaling.training.native"].is_available()
    gc.collect()
    gc.freeze()
    gc.set_threshold(
        10_000
    )  # objects, instead of 700: with it, 7 % less time (three files measured)


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory):
    """Record and rows of the small run that nothing happens to."""
    from small_run import numbers, small_plan

    from scaling.training.trainer import train

    plan = small_plan(tmp_path_factory.mktemp("undisturbed"))
    return train(plan), numbers(plan.folder)

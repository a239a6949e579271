"""What every test may rely on."""

import signal

import pytest

# A shell starts what it sends to the background with Ctrl-C ignored, and children inherit that:
# tests that send the signal must not depend on how the tests were started.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory):
    """Record and rows of the small run that nothing happens to."""
    from small_run import numbers, small_plan

    from scaling.training.trainer import train

    plan = small_plan(tmp_path_factory.mktemp("undisturbed"))
    return train(plan), numbers(plan.folder)

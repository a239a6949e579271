"""A run that was interrupted, and what it has in common with one that was not."""

from __future__ import annotations

import pytest
from small_run import numbers, small_plan

from scaling.training.trainer import train

OFTEN = {"train.checkpoint_seconds": 1e-6}


def assert_alike(plan, undisturbed):
    """Train to the end; losses and rows are those of the undisturbed run, to the bit."""
    record = train(plan)
    assert (record.status, record.val_loss, record.train_loss) == (
        "done",
        undisturbed[0].val_loss,
        undisturbed[0].train_loss,
    )
    assert numbers(plan.folder) == undisturbed[1]


def interrupted(folder, *, step=30):
    """Train to a step with a checkpoint after every one, and stop there."""
    plan = small_plan(folder, **OFTEN)

    def stop(progress):
        if progress["step"] >= step:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(plan, on_progress=stop)
    return plan

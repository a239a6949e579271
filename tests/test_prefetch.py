"""Batches read ahead are the batches, in any order of steps."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from scaling.training.prefetch import Ahead


def batch_of(step: int):
    tokens = np.random.default_rng(step).integers(256, size=(3, 9))
    return tokens[:, :-1], tokens[:, 1:]


def test_batches_read_ahead_are_those_of_their_steps():
    ahead = Ahead(batch_of, pin=False)
    for step in (0, 1, 2, 7, 8, 3, 4):  # 7 and 3: a checkpoint was loaded
        for mine, own in zip(ahead.take(step), batch_of(step), strict=True):
            assert np.array_equal(mine, own)


def test_next_batch_is_read_by_another_thread():
    readers: dict[int, str] = {}
    done = threading.Event()

    def read(step):
        readers[step] = threading.current_thread().name
        if step == 1:
            done.set()
        return batch_of(step)

    ahead = Ahead(read, pin=False)
    ahead.take(0)
    assert done.wait(10)  # read before it is asked for
    ahead.take(1)
    assert readers[0] == threading.current_thread().name
    assert readers[1].startswith("scaling-batches")


def test_error_of_a_read_ahead_is_raised_where_the_batch_is_taken():
    def read(step):
        if step == 1:
            raise OSError("shard gone")
        return batch_of(step)

    ahead = Ahead(read, pin=False)
    ahead.take(0)
    with pytest.raises(OSError, match="shard gone"):
        ahead.take(1)

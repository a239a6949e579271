"""One long random chain, computed in many places at once.

A chain in which each step needs the one before seems to need one step at a time. Here it is cut
into lanes that run side by side. Position i always uses uniform number i, so when a lane is run
again from the state that the lane before it really ended in, its path soon meets the path it took
before and from there on is the same (two chains that share their random numbers coalesce; Propp
and Wilson 1996). The result is to the bit what one chain from the first to the last step gives.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

LANES = 4096  # enough to hide NumPy's cost per call
LEAST_STEPS = 256  # lanes shorter than it takes to coalesce would be run again and again

# (state [n], uniform [n]) -> symbol, next state, probability, each [n]
Step = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, ...]]


def sample_chain(
    step: Step, uniform: np.ndarray, start: int, *, lanes: int = LANES
) -> tuple[np.ndarray, np.ndarray, int]:
    """Run a chain for as many steps as there are uniform numbers.

    Args:
        step: draws a symbol from the state; the same (state, uniform) gives the same result.
        uniform: float64 [n] in [0, 1), one per step.
        start: state before the first step.
        lanes: at most so many run side by side; changes the time, never the result.

    Returns:
        Symbols int32 [n], natural log of each symbol's probability float64 [n], last state.
    """
    n = len(uniform)
    lanes = max(1, min(lanes, n // LEAST_STEPS))
    steps = -(-n // lanes)
    u = np.resize(uniform, lanes * steps).reshape(lanes, steps).T.copy()  # padded at the end
    run = _Lanes(step, u)
    run.forward(np.arange(lanes), np.where(np.arange(lanes) == 0, start, 0).astype(np.int32))
    while (wrong := run.wrong_lanes(start)).size:
        run.forward(wrong, run.states[-1, wrong - 1])  # never lane 0, which was right at once
    symbols, prob, states = (a.T.reshape(-1)[:n] for a in (run.symbols, run.prob, run.states))
    return symbols, np.log(prob), int(states[-1])


class _Lanes:
    """The path of every lane: symbols, probabilities and states, each [steps, lanes]."""

    def __init__(self, step: Step, uniform: np.ndarray):
        self.step, self.uniform = step, uniform
        self.symbols = np.zeros(uniform.shape, np.int32)
        self.states = np.full(uniform.shape, -1, np.int32)
        self.prob = np.zeros(uniform.shape)
        self.started = np.full(uniform.shape[1], -1, np.int32)  # the state each lane was run from

    def wrong_lanes(self, start: int) -> np.ndarray:
        """Return the lanes that were not run from the state that the lane before them ended in."""
        right = np.concatenate([[start], self.states[-1, :-1]])
        return np.flatnonzero(self.started != right)

    def forward(self, lane: np.ndarray, state: np.ndarray) -> None:
        """Run lanes from given states, each until it meets its own earlier path."""
        self.started[lane] = state
        for t in range(len(self.uniform)):
            symbol, state, prob = self.step(state, self.uniform[t, lane])
            apart = state != self.states[t, lane]
            self.symbols[t, lane], self.states[t, lane], self.prob[t, lane] = symbol, state, prob
            lane, state = lane[apart], state[apart]
            if not lane.size:
                return

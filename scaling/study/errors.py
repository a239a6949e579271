"""What can go wrong, as types. Every message says what (with the value), where, and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ScalingError(Exception):
    """Base of all errors a user can cause or cure; the command line prints it without a traceback.

    page: of the documentation, as `docs/data.md#tokenizers`, where `study.pages` could not tell it
    from the kind and the message.
    """

    page: str | None = None


class ConfigError(ScalingError, ValueError):
    """A key, type or value in the configuration is wrong."""


class DataError(ScalingError):
    """A text source, tokenizer or token shard is missing, empty or damaged."""


class RecordError(ScalingError):
    """A run record is missing, damaged or written by another schema version."""


class DamagedError(RecordError):
    """A run's record is there, but cut off or no record at all; an older or newer one is not meant."""


class CheckpointError(ScalingError):
    """A checkpoint is damaged or belongs to another run."""


class TrainError(ScalingError):
    """A run cannot be trained as asked, for example because it does not fit in memory."""


class FollowedError(TrainError):
    """The error of a run's first process, as it ends the others: it has been said already."""


class BusyError(TrainError):
    """Another live process is training the run."""


class FitError(ScalingError, ValueError):
    """The data cannot support the fit that was asked for."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `" Did you mean 'x'?"` for the closest known name, or an empty string."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if not close:  # `n_layers` is no near match of `model.layers` as a whole, but its last part is
        tails = {k.rsplit(".", 1)[-1]: k for k in known}
        tail = difflib.get_close_matches(name.rsplit(".", 1)[-1], tails, n=1, cutoff=0.75)
        close = [tails[t] for t in tail]
    return f" Did you mean {close[0]!r}?" if close else ""

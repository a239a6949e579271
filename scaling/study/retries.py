"""Tries of a run: how often it failed as it would be executed now, and whether it is tried again."""

from __future__ import annotations

import builtins
from dataclasses import dataclass
from typing import Any

from scaling.study.config import RunConfig, config_values
from scaling.study.plan import hash_of
from scaling.study.record import RunRecord

# What the next try meets unchanged. A text may be mended or a disk freed between two launches; the
# configuration that was refused is the same again.
HOPELESS = ("ConfigError",)
# what may be better only after somebody has done something, so not within one launch; with a full or
# lost disk (any OSError) the tries of a whole sweep would be gone in seconds
NEEDS_HELP = (*HOPELESS, "DataError", "CheckpointError", "RecordError")


@dataclass(frozen=True)
class Tries:
    """How often a failed run was tried, and how often it may be.

    used, allowed: tries so far, and in all; reason, error: of the last failure, and its type.
    """

    used: int
    allowed: int
    reason: str
    error: str

    @property
    def spent(self) -> bool:
        """Whether it is not tried again unless somebody asks for it."""
        return self.used >= self.allowed or self.error in HOPELESS

    @property
    def patient(self) -> bool:
        """Whether it may go better within the same launch."""
        return not self.spent and self.error not in NEEDS_HELP and not self._of_files

    @property
    def _of_files(self) -> bool:
        kind = getattr(builtins, self.error, None)
        return isinstance(kind, type) and issubclass(kind, OSError)


def count_tries(record: RunRecord, config: RunConfig, *, before: int = 0) -> Tries:
    """Return the tries of a run that failed.

    A try with other settings (device, memory, where text is kept ...) than those of now is not
    counted: what a message asked for may have been done.

    Args:
        record: the run's, with status `failed`.
        config: as it would be executed now.
        before: failures that are not counted, since somebody asked for the run anew.
    """
    now = settings_hash(config)
    failures = failures_of(record)[before:]
    same = [f for f in failures if f.get("settings") in (None, now)]
    last = same[-1] if same else {}
    return Tries(
        used=len(same), allowed=1 + config.retry.failed,
        reason=str(last.get("reason") or record.reason or ""), error=str(last.get("error") or ""),
    )  # fmt: skip


def failures_of(record: RunRecord) -> list[dict[str, Any]]:
    """Return why attempts failed; one where an older record says only that the run failed."""
    if record.failures or record.status != "failed":
        return record.failures
    reason = record.reason or ""
    error = reason.partition(":")[0]
    return [{"at": record.finished_at, "host": None, "step": record.steps, "error": error, "reason": reason, "settings": None}]  # fmt: skip


def settings_hash(config: RunConfig) -> str:
    """Return 8 hex digits of how a run is executed: keys of `train` and `data` that leave its numbers alone."""
    return hash_of(
        [
            [key.name, value]
            for key, value in config_values(config)
            if not key.numbers and key.name.startswith(("train.", "data."))
        ]
    )

"""Documents on their way to tokens: deduplicated, shuffled and split by their content's hash.

They are spooled to one file, so that a corpus larger than memory can be read in shuffled order.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

END_OF_TEXT = "\0"  # between documents; taken out of the text itself
SMALL_DOCUMENT = 16_384  # bytes; never too large to be held out


class DocumentPool:
    """Different documents in an order given by their content alone.

    Two machines with the same documents get the same order and the same split.
    """

    def __init__(self, documents: Iterable[str], spool: str | Path):
        """Read all documents once and keep them in the file `spool`; empty ones are dropped."""
        self._spool = Path(spool)
        places: dict[bytes, tuple[int, int]] = {}
        groups: dict[bytes, str] = {}
        offset = 0
        with self._spool.open("wb") as file:
            for document in documents:
                text = document.replace(END_OF_TEXT, "").encode("utf-8", errors="replace")
                digest = hashlib.sha256(text).digest()
                if text.strip() and digest not in places:
                    places[digest] = (offset, len(text))
                    groups[digest] = getattr(document, "group", "")
                    offset += file.write(text)
        self._places = np.array([places[d] for d in sorted(places)], np.int64).reshape(-1, 2)
        self.groups = [groups[d] for d in sorted(places)]  # label of each; empty without one
        self.bytes = offset

    def __len__(self) -> int:
        """Return the number of different documents."""
        return len(self._places)

    def split(self, val_bytes: float) -> tuple[np.ndarray, np.ndarray]:
        """Return the numbers of held-out and of training documents, both in shuffled order.

        Held out are the first whole documents that hold `val_bytes`. A document above an eighth
        of that (and above 16 KiB) stays in training: the held-out loss is to be a mean over many.
        """
        size = self._places[:, 1] + 1  # the separator counts
        allowed = np.flatnonzero(size <= max(val_bytes / 8, SMALL_DOCUMENT))
        enough = int(np.searchsorted(np.cumsum(size[allowed]), val_bytes)) + 1
        held_out = allowed[:enough]
        return held_out, np.setdiff1d(np.arange(len(self)), held_out)

    def read(self, numbers: np.ndarray) -> Iterator[str]:
        """Yield documents by number."""
        with self._spool.open("rb") as file:
            for offset, length in self._places[numbers].tolist():
                file.seek(offset)
                yield file.read(length).decode("utf-8")

    def count_bytes(self, numbers: np.ndarray) -> int:
        """Return the bytes of documents, each with a separator of one byte."""
        return int(np.sum(self._places[numbers, 1] + 1))

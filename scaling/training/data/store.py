"""Tokens on disk: memory-mapped shards, each with a checksummed header.

A shard is a 128-byte header and then the tokens, little-endian, in the narrowest unsigned integer
that holds the vocabulary. Header and size are checked at each opening. The payload is checked once
per process, or once per machine for large shards (a `.verified` stamp keeps size and time).
"""

from __future__ import annotations

import hashlib
import os
import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scaling.study.errors import DataError
from scaling.training.data.shard import OpenShard, cure

MAGIC = b"SLTOKENS"
VERSION = 1
HEADER = struct.Struct("<8sIIQQ32s")  # magic, version, bytes per token, vocab, count, sha256
HEADER_BYTES = 128  # keeps the payload aligned for any token width
SHARD_TOKENS = 1 << 26  # 64M tokens: a shard stays below 256 MiB
STAMP_BYTES = (
    1 << 26
)  # above 64 MiB a checksum takes a noticeable time, so it is remembered on disk

_verified: dict[str, tuple[int, int]] = {}


@dataclass(frozen=True)
class TokenStore:
    """A read-only sequence of tokens over one or more memory-mapped shards.

    All shards but the last have the same length, so that a token's shard is a division.
    """

    shards: tuple[np.ndarray, ...]
    vocab: int
    sha256: str  # of the shards' payload checksums, in order
    files: tuple[OpenShard, ...] = ()

    @classmethod
    def open(cls, folder: str | Path, name: str) -> TokenStore:
        """Open `name-00000.tokens`, `name-00001.tokens` ... in a folder.

        Raises:
            DataError: a shard is missing, truncated or damaged; names the file and the cure.
        """
        paths = shard_paths(folder, name)
        if not paths:
            raise DataError(
                f"{Path(folder) / name}-*.tokens: no token shards. {cure(Path(folder))}"
            )
        opened = [_open_shard(path) for path in paths]
        return cls(
            shards=tuple(tokens for tokens, _, _ in opened),
            vocab=opened[0][1],
            sha256=hash_texts(file.digest.hex() for _, _, file in opened),
            files=tuple(file for _, _, file in opened),
        )

    def __len__(self) -> int:
        """Return the number of tokens."""
        return sum(len(shard) for shard in self.shards)

    def __getitem__(self, part: slice) -> np.ndarray:
        """Return a slice of the tokens as int64."""
        start, stop, step = part.indices(len(self))
        index = np.arange(start, stop, step)
        self._check_files()
        return self._pick(index)

    def _check_files(self) -> None:
        for file, tokens in zip(self.files, self.shards, strict=False):
            file.check(tokens)

    def windows(self, starts: np.ndarray, length: int) -> np.ndarray:
        """Return the tokens of windows as one int64 array [len(starts), length]: one gather.

        Raises:
            DataError: a shard was cut or changed since it was opened.
        """
        self._check_files()
        if len(self.shards) == 1:
            views = np.lib.stride_tricks.sliding_window_view(self.shards[0], length)
            return views[starts].astype(np.int64)
        return self._pick(np.asarray(starts)[:, None] + np.arange(length))

    def _pick(self, index: np.ndarray) -> np.ndarray:
        """Gather tokens at global positions of any shape."""
        shard, offset = np.divmod(index, len(self.shards[0]))
        out = np.empty(index.shape, np.int64)
        for s in np.unique(shard):
            here = shard == s
            out[here] = self.shards[s][offset[here]]
        return out


def write_store(
    folder: str | Path,
    name: str,
    chunks: Iterable[np.ndarray],
    *,
    vocab: int,
    limit: int | None = None,
    shard_tokens: int = SHARD_TOKENS,
) -> int:
    """Write chunks of tokens as shards and return how many tokens were written.

    Not atomic by itself: write into a temporary folder and rename the folder.

    Args:
        chunks: arrays of token numbers below `vocab`.
        limit: stop after so many tokens; None: write all.
        shard_tokens: tokens per shard.
    """
    total = 0
    for number, shard in enumerate(_regroup(_limited(chunks, limit), shard_tokens)):
        total += _write_shard(Path(folder) / f"{name}-{number:05d}.tokens", shard, vocab=vocab)
    return total


def shard_paths(folder: str | Path, name: str) -> list[Path]:
    """Return the shards of a store in order."""
    return sorted(Path(folder).glob(f"{name}-[0-9][0-9][0-9][0-9][0-9].tokens"))


def hash_texts(parts: Iterable[str]) -> str:
    """Return the sha256 of texts, each closed by a newline."""
    return hashlib.sha256("".join(f"{part}\n" for part in parts).encode()).hexdigest()


def token_dtype(vocab: int) -> np.dtype:
    """Return the narrowest unsigned integer type that holds token numbers below `vocab`."""
    for width, size in (("<u1", 1 << 8), ("<u2", 1 << 16), ("<u4", 1 << 32)):
        if vocab <= size:
            return np.dtype(width)
    raise DataError(f"vocab={vocab}: above 2^32. Use a smaller vocabulary.")


def _limited(chunks: Iterable[np.ndarray], limit: int | None) -> Iterator[np.ndarray]:
    left = limit
    for chunk in chunks:
        if left is None:
            yield chunk
            continue
        yield chunk[:left]
        left -= min(left, len(chunk))
        if left == 0:
            return


def _regroup(chunks: Iterable[np.ndarray], size: int) -> Iterator[list[np.ndarray]]:
    """Cut a stream of chunks into lists that hold `size` tokens each; the last may hold fewer."""
    parts: list[np.ndarray] = []
    held = 0
    for chunk in chunks:
        while len(chunk):
            take = min(size - held, len(chunk))
            parts.append(chunk[:take])
            held, chunk = held + take, chunk[take:]
            if held == size:
                yield parts
                parts, held = [], 0
    if parts:
        yield parts


def _write_shard(path: Path, parts: Sequence[np.ndarray], *, vocab: int) -> int:
    dtype = token_dtype(vocab)
    digest, count = hashlib.sha256(), 0
    with path.open("wb") as file:
        file.write(bytes(HEADER_BYTES))
        for part in parts:
            payload = np.ascontiguousarray(part, dtype=dtype).tobytes()
            digest.update(payload)
            file.write(payload)
            count += len(part)
        file.seek(0)
        file.write(_pack_header(dtype.itemsize, vocab, count, digest.digest()))
        file.flush()
        os.fsync(file.fileno())
    return count


def _pack_header(width: int, vocab: int, count: int, digest: bytes) -> bytes:
    body = HEADER.pack(MAGIC, VERSION, width, vocab, count, digest)
    return (body + struct.pack("<I", zlib.crc32(body))).ljust(HEADER_BYTES, b"\0")


def _open_shard(path: Path) -> tuple[np.ndarray, int, OpenShard]:
    """Return the memory-mapped tokens, the vocabulary and the open file."""
    with path.open("rb") as file:
        header = file.read(HEADER_BYTES)
    if len(header) < HEADER_BYTES:
        raise DataError(
            f"{path}: truncated, {len(header)} bytes where a header has {HEADER_BYTES}. "
            f"{cure(path)}"
        )
    body, (crc,) = header[: HEADER.size], struct.unpack_from("<I", header, HEADER.size)
    magic, version, width, vocab, count, digest = HEADER.unpack(body)
    if magic != MAGIC or crc != zlib.crc32(body):
        raise DataError(f"{path}: the header is damaged or this is not a token shard. {cure(path)}")
    if version != VERSION:
        raise DataError(
            f"{path}: written in format {version}; this version reads {VERSION}. {cure(path)}"
        )
    size, expected = path.stat().st_size, HEADER_BYTES + count * width
    if size != expected:
        raise DataError(f"{path}: {size} bytes where its header promises {expected}. {cure(path)}")
    tokens = np.memmap(path, dtype=f"<u{width}", mode="r", offset=HEADER_BYTES, shape=(count,))
    _verify_payload(path, tokens, digest)
    return tokens.view(np.ndarray), vocab, OpenShard(path, digest)


def _verify_payload(path: Path, tokens: np.ndarray, digest: bytes) -> None:
    """Compare the payload with its checksum unless this very file has been found good before."""
    stat = path.stat()
    seen = (stat.st_size, stat.st_mtime_ns)
    stamp = path.with_suffix(".verified")
    if _verified.get(str(path)) == seen or (
        stat.st_size > STAMP_BYTES and _read_stamp(stamp) == seen
    ):
        return
    if hashlib.sha256(tokens.data).digest() != digest:
        raise DataError(
            f"{path}: the tokens do not match their checksum; the file is damaged. {cure(path)}"
        )
    _verified[str(path)] = seen
    if stat.st_size > STAMP_BYTES and os.access(path.parent, os.W_OK):
        stamp.write_text(f"{seen[0]} {seen[1]}\n")


def _read_stamp(stamp: Path) -> tuple[int, ...]:
    return tuple(int(word) for word in stamp.read_text().split()) if stamp.exists() else ()

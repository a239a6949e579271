"""A text of somebody's own, looked at before anything is built on it: readable, how much, for which sizes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from scaling.study.errors import ConfigError, DataError
from scaling.study.units import format_flops, format_quantity
from scaling.training.data.texts import decode, text_documents, text_files

LOOKED_AT = 32_000_000  # bytes read to see that a text can be read; the rest is counted by its size
LARGE = 1_000_000_000  # bytes; preparing holds a .txt file in memory and takes about a minute per 100 MB
RATIO = 20  # tokens per parameter near which compute is spent best (Hoffmann et al. 2022, table 3)
EPOCHS = 4  # repeated up to here, text counts nearly as much as new (Muennighoff et al. 2023)


@dataclass(frozen=True)
class OwnText:
    """Files of text, with their size.

    Args:
        path: as data.path takes it: files, a folder or a glob.
        files: how many there are.
        tokens: one per byte of text; of long files as far as their beginning tells.
        key: column of .jsonl and .parquet that holds the text.
    """

    path: Path
    files: int
    tokens: int
    key: str = "text"

    def describe(self) -> list[str]:
        """Say how much there is, and which models it carries."""
        params = self.tokens / RATIO
        count = f"{self.files:,} file" + ("s" if self.files > 1 else "")
        lines = [
            f"{self.path}: {count}, about {self.tokens:,} bytes of text, as many tokens with tokenizer: bytes.",
            f"At {RATIO} tokens per parameter it carries models up to {format_quantity(params)} parameters "
            f"({format_flops(6 * params * self.tokens)} FLOPs), {format_quantity(EPOCHS * params)} when it is seen {EPOCHS} times.",
        ]
        if self.tokens > LARGE:
            lines.append(
                "That is far more than a first sweep reads, and all of it would be prepared. Begin with a part, e.g. "
                "head -c 200000000 FILE > part.txt"
            )
        return lines


def look_at_text(path: str, *, key: str = "text") -> OwnText:
    """Return what files of text hold, their beginning read.

    Args:
        path: .txt, .jsonl or .parquet files; a folder or a glob of them.
        key: column of .jsonl and .parquet that holds the text.

    Raises:
        ConfigError: nothing is there.
        DataError: it cannot be read as text.
    """
    place = Path(path).expanduser()
    try:
        files = text_files(str(place))
        size = sum(file.stat().st_size for file in files)
        seen, of = _read_beginning(files, key)
    except DataError as error:  # it speaks of the keys of a run, which there is none of yet
        said = str(error).replace("data.path=", "data=").replace("data.text_key", "text_key=COLUMN")
        raise type(error)(f"{said} Nothing was written.") from None
    if not seen:
        raise ConfigError(
            f"data={path!r}: there is no text in it. Give another; nothing was written."
        )
    return OwnText(path=place, files=len(files), tokens=round(size * seen / of), key=key)


def _read_beginning(files: list[Path], key: str) -> tuple[int, int]:
    """Read files until enough was seen; return the bytes of text and the bytes of file they are of."""
    seen = of = 0
    for file in files:
        left = LOOKED_AT - of
        if left <= 0:
            break
        text, size = _beginning(file, key, left)
        seen, of = seen + text, of + size
    return seen, of


def _beginning(file: Path, key: str, most: int) -> tuple[int, int]:
    """Read a file, or as much as is wanted of a long one."""
    size = file.stat().st_size
    if file.suffix == ".txt":
        raw = _read(file, most)
        if len(raw) < size:  # the last character may be cut
            raw = raw[: raw.rfind(b"\n") + 1] or raw[:-4]
        return len(decode(file, raw).strip().encode()), max(len(raw), 1)
    text = documents = 0
    for document in text_documents(str(file), text_key=key):
        text, documents = text + len(document.encode(errors="replace")), documents + 1
        if text > most:
            # of the rest nothing is known but that it is alike; a line adds about so many bytes of JSON
            return text, text + documents * len(f'{{"{key}": ""}}\n')
    return text, size


def _read(file: Path, most: int) -> bytes:
    try:
        with file.open("rb") as opened:
            return opened.read(most)
    except OSError as error:
        raise DataError(
            f"{file}: cannot be read ({error.strerror}). Check its permissions."
        ) from None

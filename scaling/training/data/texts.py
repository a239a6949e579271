"""Documents from files (.txt, .jsonl, .parquet) or a Hugging Face dataset."""

from __future__ import annotations

import glob
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from scaling.study.errors import DataError
from scaling.training.data.store import hash_texts

KINDS = (".txt", ".jsonl", ".parquet")
PIECE = 16_000  # bytes; a long .txt file is cut into pieces, for documents are held out whole


class Document(str):
    """A text that knows its group."""

    group: str = ""


def text_documents(
    path: str, *, text_key: str = "text", group_key: str | None = None, stream_bytes: float = 0
) -> Iterator[str]:
    """Yield the documents of files, or of a Hugging Face dataset when no file has that name.

    A .txt file is one document, or many when it is long: it is cut at blank lines. A .jsonl file
    has a document per line and a .parquet file one per row, in the column `text_key`.

    Args:
        path: a file, a folder, a glob, or the name of a dataset (`name` or `name:configuration`).
        text_key: column of .jsonl, .parquet and datasets.
        group_key: column that says the group of a document; with it, each one is a `Document`.
        stream_bytes: a dataset is read until it has given so much text.

    Raises:
        DataError: nothing of that name, a file that is not what its name says, or a missing column.
    """
    if is_streamed(path):
        yield from _stream_dataset(path, text_key, group_key, stream_bytes)
        return
    read = {".txt": _read_txt, ".jsonl": _read_jsonl, ".parquet": _read_parquet}
    for file in text_files(path):
        try:
            yield from read[file.suffix](file, text_key, group_key)
        except PermissionError as error:
            raise DataError(f"{file}: cannot be read. Check its permissions.") from error


def is_streamed(path: str) -> bool:
    """Return whether a path is the name of a Hugging Face dataset rather than of files."""
    looks_local = (
        Path(path).suffix in KINDS or path.startswith((".", "/", "~")) or glob.has_magic(path)
    )
    return not looks_local and not Path(path).exists()


def text_files(path: str, *, kinds: tuple[str, ...] = KINDS) -> list[Path]:
    """Return the text files of a path, sorted.

    Args:
        kinds: endings of their names.

    Raises:
        DataError: there are none.
    """
    root = Path(path).expanduser()
    if root.is_dir():
        found = [file for file in root.rglob("*") if file.suffix in kinds and file.is_file()]
    else:
        found = [Path(name) for name in glob.glob(str(root), recursive=True)] or [
            root
        ] * root.is_file()
    if not found:
        raise DataError(
            f"data.path={path!r}: no such file and no {', '.join(kinds)} files in it (looked in "
            f"{root.absolute()}). Check the path."
        )
    if strange := [file for file in found if file.suffix not in kinds]:
        raise DataError(
            f"data.path={path!r}: {strange[0]} is none of {', '.join(kinds)}. Rename or convert it."
        )
    return sorted(found)


def text_identity(path: str | None, size: float) -> str:
    """Return a hash of the files' names, sizes and times; for a dataset its name and size."""
    if path is None or is_streamed(path):
        return f"{path} {size:.0f}"
    stats = [(file, file.stat()) for file in text_files(path)]
    return hash_texts(f"{file.absolute()} {s.st_size} {s.st_mtime_ns}" for file, s in stats)


def cut_text(text: str, piece: int = PIECE) -> Iterator[str]:
    """Yield pieces of at most `piece` bytes, cut at the last blank line, line or space."""
    start = 0
    while start < len(text):
        window = text[start : start + piece]
        fits = len(
            window.encode("utf-8", errors="replace")[:piece].decode("utf-8", errors="ignore")
        )
        if start + fits < len(text):
            cuts = (window.rfind(mark, 1, fits) for mark in ("\n\n", "\n", " "))
            fits = next((place for place in cuts if place > fits // 2), fits - 1) + 1
        yield text[start : start + fits]
        start += fits


def _read_txt(file: Path, text_key: str, group_key: str | None) -> Iterator[str]:
    if group_key is not None:
        raise DataError(
            f"{file}: a .txt file has no column data.group_key={group_key}. Give .jsonl or .parquet, or one set per "
            "group: data.validation.NAME=PATH."
        )
    yield from cut_text(decode(file, file.read_bytes()))


def _read_jsonl(file: Path, text_key: str, group_key: str | None) -> Iterator[str]:
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            where = f"{file}, line {number}"
            try:
                row = json.loads(decode(where, line))
            except json.JSONDecodeError as error:
                raise DataError(
                    f"{where}: not JSON ({error.msg}). "
                    f'Each line is one object such as {{"{text_key}": "..."}}.'
                ) from error
            yield _text_of(row, text_key, group_key, where)


def _read_parquet(file: Path, text_key: str, group_key: str | None) -> Iterator[str]:
    try:
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise DataError(
            f"{file}: reading .parquet needs the package `pyarrow`. Install it: pip install "
            "'scaling-lab[hf]', or give .jsonl."
        ) from error
    try:
        table = parquet.ParquetFile(file)
    except (OSError, ValueError) as error:  # pyarrow's own errors derive from these
        raise DataError(f"{file}: not a parquet file ({error}). Write it again.") from error
    names = table.schema_arrow.names
    asked = {"text_key": text_key} | ({"group_key": group_key} if group_key else {})
    for key, column in asked.items():
        if column not in names:
            raise DataError(
                f"{file}: no column {column!r} among {', '.join(names)}. Set data.{key}."
            )
    for batch in table.iter_batches(columns=list(asked.values())):
        rows = (row for row in batch.to_pylist() if row[text_key])
        yield from (_text_of(row, text_key, group_key, str(file)) for row in rows)


def _stream_dataset(
    name: str, text_key: str, group_key: str | None, stream_bytes: float
) -> Iterator[str]:
    """Yield the training rows of a Hugging Face dataset as they come over the network."""
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise DataError(
            f"data.path={name!r}: no such file or folder, and a Hugging Face dataset needs the "
            "package `datasets`. "
            "Check the path, or install it: pip install 'scaling-lab[hf]'."
        ) from error
    dataset, _, configuration = name.partition(":")
    try:
        rows = load_dataset(dataset, configuration or None, split="train", streaming=True)
    except (OSError, ValueError, RuntimeError) as error:
        raise DataError(
            f"data.path={name!r}: no such file or folder, and no such dataset could be reached "
            f"({str(error).splitlines()[0]}). "
            "Check the name (`name` or `name:configuration`) and the connection."
        ) from error
    read = 0
    for row in rows:
        text = _text_of(row, text_key, group_key, f"dataset {name}")
        yield text
        read += len(text.encode("utf-8", errors="replace"))
        if read >= stream_bytes:
            return


def _text_of(row: Any, text_key: str, group_key: str | None, where: str) -> str:
    text = row.get(text_key) if isinstance(row, dict) else None
    if not isinstance(text, str):
        keys = ", ".join(row) if isinstance(row, dict) else type(row).__name__
        raise DataError(
            f"{where}: no text under {text_key!r}; there is: {keys}. Set data.text_key."
        )
    if group_key is None:
        return text
    if row.get(group_key) is None:
        raise DataError(
            f"{where}: no group under {group_key!r}; there is: {', '.join(row)}. Set data.group_key, or give every "
            "document a group."
        )
    document = Document(text)
    document.group = str(row[group_key])
    return document


def decode(where: Path | str, raw: bytes) -> str:
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{where}: not UTF-8 at byte {error.start}. Convert it, for example with iconv -t "
            "UTF-8."
        ) from error

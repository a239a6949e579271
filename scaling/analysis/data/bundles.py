"""A sweep as one file, read: a zip of two tables, the configurations and a manifest with hash sums.

Opening one runs no code and writes nothing: members are read by the names that the manifest states,
checked against its sizes and hashes, and never extracted by a path that the archive chose.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import zipfile
import zlib
from collections.abc import Mapping
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any

import pandas as pd

from scaling.analysis.data.curves import History
from scaling.analysis.data.tables import set_columns
from scaling.study.errors import RecordError
from scaling.study.record import SCHEMA_VERSION, RunRecord, record_types, write_atomic, write_record

SUFFIX = ".scaling.zip"
FORMAT = "scaling bundle 1"
MANIFEST, README = "manifest.json", "README.txt"
BESIDE = ("sweep.yaml", "forecast.json")  # of a sweep's folder
NESTED = ("dict", "list")  # types of fields that a table holds as JSON text
LARGEST = 4 << 30  # bytes of one member; a larger one is no table of runs but a trap
LARGEST_MANIFEST = 64 << 20  # bytes; 100,000 runs with a configuration each take 20 MB

_SAFE_ID = re.compile(r"[A-Za-z0-9][\w.-]*")


def is_bundle(path: Path) -> bool:
    """Whether a path names a bundle: a file that ends in .scaling.zip, or any zip with our manifest."""
    if not path.is_file():
        return False
    if path.name.endswith(SUFFIX):
        return True
    try:
        with zipfile.ZipFile(path) as archive:
            return MANIFEST in archive.namelist()
    except (zipfile.BadZipFile, OSError):
        return False


class Bundle:
    """A bundle that is open for reading; everything in it is checked before it is used.

    Raises:
        RecordError: no such file, no bundle, of another version, cut off, or changed since.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            self._data = self._read_all()
        except FileNotFoundError:
            raise RecordError(f"{path}: no such file. Give the path of a {SUFFIX} file.") from None
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, KeyError, TypeError, NotImplementedError, RuntimeError) as error:  # fmt: skip
            raise self._damaged(error) from None

    @property
    def sweep(self) -> str:
        """The sweep's name."""
        return str(self.manifest["sweep"])

    @cached_property
    def records(self) -> list[RunRecord]:
        """The runs' records, checked as those of a folder are."""
        nested = {k for k, kind in record_types() if kind in NESTED}
        records = []
        for row in self._rows("runs"):
            try:
                values = {k: json.loads(v) if k in nested and isinstance(v, str) else v for k, v in row.items()}  # fmt: skip
            except (ValueError, RecursionError) as error:
                raise self._damaged(error) from None
            record = RunRecord.from_dict(values, where=f"{self.path}: {row.get('run_id')}")
            _safe(record.run_id, self.path)  # a folder's name in whatever is done with it
            records.append(record)
        if not records:
            raise RecordError(f"{self.path}: it holds no run. Have it made again with `scaling bundle`.")  # fmt: skip
        return records

    @cached_property
    def curves(self) -> dict[str, list[dict[str, Any]]]:
        """The rows of every run's metrics, by run id."""
        curves: dict[str, list[dict[str, Any]]] = {}
        for row in self._rows("curves"):
            run = row.pop("run_id", None)
            if not isinstance(run, str):
                raise self._damaged("a row of a curve does not say whose it is")
            curves.setdefault(run, []).append({k: v for k, v in row.items() if v is not None})
        return curves

    def text(self, name: str) -> str | None:
        """Return a member as text, such as sweep.yaml; null if the bundle has none of that name."""
        data = self._data.get(name)
        try:
            return None if data is None else data.decode("utf-8")
        except UnicodeDecodeError as error:
            raise self._damaged(f"{name}: {error}") from None

    def _rows(self, table: str) -> list[dict[str, Any]]:
        for kind in ("parquet", "jsonl"):
            if (data := self._data.get(f"{table}.{kind}")) is not None:
                try:
                    return _table_rows(data, kind, str(self.path))
                except (
                    ValueError,
                    OSError,
                    RecursionError,
                ) as error:  # pyarrow's own are ValueErrors and OSErrors
                    raise self._damaged(error) from None
        raise self._damaged(f"no table {table}")

    def _read_all(self) -> dict[str, bytes]:
        with zipfile.ZipFile(self.path) as archive:
            try:
                self.manifest = self._read_manifest(archive)
            except KeyError:
                raise RecordError(f"{self.path}: a zip, but no bundle (it has no {MANIFEST}). Give a file that `scaling bundle` wrote.") from None  # fmt: skip
            if self.manifest["format"] != FORMAT or self.manifest["schema_version"] != SCHEMA_VERSION:  # fmt: skip
                raise RecordError(
                    f"{self.path}: {self.manifest['format']!r} with records of version {self.manifest['schema_version']!r}; "
                    f"this package reads {FORMAT!r} with {SCHEMA_VERSION}. Read it with the version that wrote it."
                )
            return {name: self._member(archive, name, said) for name, said in self.manifest["files"].items()}  # fmt: skip

    def _read_manifest(self, archive: zipfile.ZipFile) -> dict[str, Any]:
        """Read what the file says of itself, whose kinds nothing vouches for.

        Raises:
            KeyError: there is none; ValueError: it is larger than any, or says too little.
        """
        with archive.open(MANIFEST) as file:
            data = file.read(LARGEST_MANIFEST + 1)
        if len(data) > LARGEST_MANIFEST:
            raise ValueError(f"{MANIFEST} is larger than {LARGEST_MANIFEST} bytes")
        said = json.loads(data)
        kinds = {"format": str, "schema_version": int, "sweep": str, "files": dict}
        wrong = [k for k, kind in kinds.items() if not isinstance(said, dict) or not isinstance(said.get(k), kind)]  # fmt: skip
        if wrong:
            raise ValueError(f"{MANIFEST} does not say its {', '.join(wrong)}")
        return dict(said)

    def _member(self, archive: zipfile.ZipFile, name: str, said: Mapping[str, Any]) -> bytes:
        size = archive.getinfo(name).file_size
        if size != said["bytes"] or size > LARGEST:
            raise ValueError(f"{name} has {size} bytes, {said['bytes']} are stated")
        with archive.open(name) as file:  # never more than is stated, whatever it unpacks to
            data = file.read(size + 1)
        if hashlib.sha256(data).hexdigest() != said["sha256"]:
            raise ValueError(f"{name} was changed")
        return data

    def _damaged(self, why: object) -> RecordError:
        return RecordError(
            f"{self.path}: damaged, or not a bundle ({why}). Copy it again, or have it made again with `scaling bundle`."
        )


def unpack_bundle(path: str | Path, into: Path) -> Path:
    """Write the runs of a bundle as the folders they were, INTO/SWEEP/RUN; returns `into`.

    Raises:
        RecordError: as `Bundle`; a name that would lead out of the folder.
    """
    bundle = Bundle(path)
    sweep = into / _safe(bundle.sweep, bundle.path, any_script=True)
    for record in bundle.records:
        run = sweep / _safe(record.run_id, bundle.path)
        rows = bundle.curves.get(record.run_id, [])
        write_atomic(run / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
        if (config := bundle.text(f"configs/{record.run_id}.yaml")) is not None:
            write_atomic(run / "config.yaml", config)
        write_record(run, record)
    for name in BESIDE:
        if (text := bundle.text(name)) is not None:
            write_atomic(sweep / name, text)
    return into


def _safe(name: str, path: Path, *, any_script: bool = False) -> str:
    """Return a name that is one folder's, in this folder."""
    plain = _SAFE_ID.fullmatch(name) if not any_script else Path(name).name == name and name[:1] not in ("", ".") and "\\" not in name  # fmt: skip
    if not plain:
        raise RecordError(f"{path}: {name!r} is no folder's name. Do not unpack it; ask who sent it.")  # fmt: skip
    return name


def config_text(folder: Path) -> str | None:
    """Return a run's configuration, from its folder or from the bundle that it is in; null if it has none.

    Args:
        folder: as column `folder` of a table of runs says it; that of a run in a bundle is FILE/RUN.
    """
    if is_bundle(folder.parent):
        return _open_once(folder.parent).text(f"configs/{folder.name}.yaml")
    path = folder / "config.yaml"
    return path.read_text(encoding="utf-8") if path.is_file() else None


@lru_cache(maxsize=2)
def _open_once(path: Path) -> Bundle:
    return Bundle(path)


def read_bundle(path: str | Path) -> tuple[pd.DataFrame, dict[str, History]]:
    """Return one row per run, as a results folder gives them, and the curves by run id.

    Raises:
        RecordError: as `Bundle`.
    """
    bundle = Bundle(path)
    place = Path(path).resolve()
    rows = [
        {
            **(values := record.to_dict()),
            **set_columns(values),
            "folder": str(place / record.run_id),
        }
        for record in bundle.records
    ]
    histories: dict[str, History] = {
        r.run_id: partial(_curve, bundle, r.run_id) for r in bundle.records
    }
    return pd.DataFrame(rows), histories


def _curve(bundle: Bundle, run: str) -> list[dict[str, Any]]:
    return bundle.curves.get(run, [])


def _table_rows(data: bytes, kind: str, where: str) -> list[dict[str, Any]]:
    if kind == "jsonl":
        rows = [json.loads(line) for line in data.decode("utf-8").splitlines()]
        if not all(isinstance(row, dict) for row in rows):
            raise ValueError("a line of a table is no mapping")
        return rows
    try:
        from pyarrow import parquet
    except ImportError:
        raise RecordError(
            f"{where}: its tables are Parquet, and reading them needs pyarrow: pip install pyarrow, or ask for a bundle with format=jsonl."
        ) from None
    cells: list[dict[str, Any]] = parquet.read_table(io.BytesIO(data)).to_pylist()
    return cells

"""A sweep as one file, written: its records, curves and configurations in a zip with hash sums."""

from __future__ import annotations

import hashlib
import io
import json
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from scaling.analysis.data.bundles import BESIDE, FORMAT, MANIFEST, NESTED, README, SUFFIX
from scaling.study.errors import RecordError
from scaling.study.record import (
    SCHEMA_VERSION,
    RunRecord,
    read_metrics,
    read_record,
    record_types,
    write_atomic,
)

_TIME = (1980, 1, 1, 0, 0, 0)  # zip's first; so that one sweep always makes the same bytes
_RECORD_KINDS = {name: kind if kind not in NESTED else "str" for name, kind in record_types()}
# places of this machine in a configuration, as YAML writes them
_PLACES = (
    (rb"^results: .*$", b"results: results"),
    (rb"^(  cache:) .*$", rb"\1 null"),
    (rb"^(  init_from:) (['\"]?)/.*/([^/\n]+)$", rb"\1 \2\3"),
)
_ABOUT = """\
{runs} runs of the sweep {sweep}, as records: no weights, no text.

  pip install scaling-lab
  scaling fit {file}
  scaling report {file}
  scaling merge {file} into=results        back into a results folder

or in Python: import scaling as sl; runs = sl.load("{file}")

runs.*      one row per run; fields and units are those of run.json (docs/reference.md of the package)
curves.*    the rows of every run's metrics.jsonl, with its run_id
configs/    what each run was asked to be
{manifest}  versions, and the SHA-256 of every file here
"""


@dataclass(frozen=True)
class Written:
    """A bundle that was written: where, how many runs, and the records that were left out."""

    path: Path
    runs: int
    problems: tuple[str, ...] = ()


def write_bundle(
    folder: str | Path, file: str | Path | None = None, *, format: str = "auto"
) -> Written:
    """Write a sweep's records, curves and configurations into one file.

    Args:
        folder: the sweep's, or a run's.
        file: where to; null: NAME.scaling.zip in the current folder.
        format: parquet, jsonl, or auto: parquet where pyarrow is installed.

    Raises:
        RecordError: no readable record, a format that cannot be written.
    """
    folder = Path(folder)
    path = Path(file) if file else Path(f"{folder.resolve().name}{SUFFIX}")
    if path.is_dir():
        path = path / f"{folder.resolve().name}{SUFFIX}"
    kind = _choose_format(format)
    # 1. everything that can be read; a damaged record or curve does not keep the others back
    records, curves, configs, problems = _read_runs(folder)
    # 2. the members, and a manifest of them
    members: dict[str, bytes] = {
        f"runs.{kind}": _table_bytes([_flat(r) for r in records], kind, _RECORD_KINDS),
        f"curves.{kind}": _table_bytes(curves, kind, _kinds_of(curves)),
        **{f"configs/{run}.yaml": text for run, text in configs.items()},
        **{name: _travelling(folder / name) for name in BESIDE if (folder / name).is_file()},
    }
    about = {"runs": len(records), "sweep": folder.resolve().name, "file": path.name}
    members[README] = _ABOUT.format(**about, manifest=MANIFEST).encode()
    members[MANIFEST] = _manifest(about, members, problems)
    # 3. one file, there as a whole or not at all
    write_atomic(path, _zip(members))
    return Written(path, len(records), tuple(problems))


def _read_runs(folder: Path) -> tuple[list[RunRecord], list[dict], dict[str, bytes], list[str]]:
    runs = [folder] if (folder / "run.json").exists() else sorted(p.parent for p in folder.glob("[!.]*/run.json"))  # fmt: skip
    records, curves, configs, problems = [], [], {}, []
    for run in runs:
        try:
            record = read_record(run)
            rows = read_metrics(run)
        except RecordError as error:
            problems.append(str(error))
            continue
        records.append(record)
        curves += [{"run_id": record.run_id, **row} for row in rows]
        if (run / "config.yaml").is_file():
            configs[record.run_id] = _travelling(run / "config.yaml")
    if not records:
        first = f" First: {problems[0]}" if problems else " Train a sweep into it, or name another."
        raise RecordError(f"{folder}: no readable record, so nothing to bundle.{first}")
    return records, curves, configs, problems


def _travelling(file: Path) -> bytes:
    """A file without the paths that mean nothing elsewhere: where results and token shards were kept,
    and the folder above the weights that a run started from.
    """
    data = file.read_bytes()
    if file.suffix != ".yaml":
        return data
    for pattern, other in _PLACES:
        data = re.sub(pattern, other, data, flags=re.MULTILINE)
    return data


def _flat(record: RunRecord) -> dict[str, Any]:
    """A record as cells: mappings and lists as JSON text."""
    return {
        k: json.dumps(v, ensure_ascii=False, sort_keys=True) if isinstance(v, (dict, list)) else v
        for k, v in record.to_dict().items()
    }


def _manifest(about: Mapping[str, Any], members: Mapping[str, bytes], problems: list[str]) -> bytes:
    from scaling import __version__

    values = {
        "format": FORMAT, "schema_version": SCHEMA_VERSION, "sweep": about["sweep"], "runs": about["runs"],
        "written_at": datetime.now(timezone.utc).isoformat(timespec="seconds"), "scaling": __version__,
        "left_out": problems,
        "files": {n: {"bytes": len(d), "sha256": hashlib.sha256(d).hexdigest()} for n, d in members.items()},
    }  # fmt: skip
    return (json.dumps(values, indent=1, ensure_ascii=False) + "\n").encode()


def _zip(members: Mapping[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in (MANIFEST, *(n for n in members if n != MANIFEST)):
            info = zipfile.ZipInfo(name, _TIME)
            info.compress_type, info.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            archive.writestr(info, members[name])
    return out.getvalue()


def _choose_format(format: str) -> str:
    if format not in ("auto", "parquet", "jsonl"):
        raise RecordError(f"format: {format!r} is none of auto, parquet, jsonl.")
    if format == "jsonl":
        return format
    try:
        import pyarrow  # noqa: F401
    except ImportError:
        if format == "auto":
            return "jsonl"
        raise RecordError("format=parquet needs pyarrow, which is not installed: pip install pyarrow, or format=jsonl.") from None  # fmt: skip
    return "parquet"


def _table_bytes(rows: list[dict], kind: str, kinds: Mapping[str, str]) -> bytes:
    """Write rows as Parquet or JSON lines; kinds: type of each column, float unless it is named."""
    if kind == "jsonl":
        return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    import pyarrow as pa
    from pyarrow import parquet

    types = {"int": pa.int64(), "float": pa.float64(), "str": pa.string(), "bool": pa.bool_()}
    names = dict.fromkeys([*kinds, *(n for row in rows for n in row)])
    schema = pa.schema([(name, types[kinds.get(name, "float")]) for name in names])
    out = io.BytesIO()
    parquet.write_table(pa.Table.from_pylist(rows, schema=schema), out, compression="zstd")
    return out.getvalue()


def _kinds_of(rows: list[dict]) -> dict[str, str]:
    """Types of the columns of curves: whole numbers stay whole, what is no number is text."""
    seen: dict[str, set[type]] = {}
    for row in rows:
        for name, value in row.items():
            seen.setdefault(name, set()).add(type(value))
    kinds = {}
    for name, types in seen.items():
        kinds[name] = "int" if types == {int} else "float" if types <= {int, float} else "str"
        if kinds[name] == "str" and types != {
            str
        }:  # from elsewhere; JSON lines would keep it as it is
            for row in rows:
                if name in row:
                    row[name] = str(row[name])
    return kinds

"""Keep the records of finished runs in the repository, or renew those that are kept.

python docs/make_sample.py results/quickstart                     # results/sample, and the README's picture
python docs/make_sample.py results/inside results/inside rows=12 weights=RUN_ID,RUN_ID

Copies records, not checkpoints or figures, and writes `results` for the folder they were trained in. `rows`
thins the training curves: so many rows of training loss a run, and every validation. `weights` names runs whose final weights are kept too.
After the first form paste the output of `scaling verify quickstart` into README.md; a test compares the two.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Collection
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RECORDS = ("config.yaml", "metrics.jsonl", "run.json")
KEPT = ("README.md", ".gitignore")
WEIGHTS = Path("checkpoint") / "model.safetensors"


def make_sample(source: Path, sample: Path) -> list[Path]:
    """Replace the records in `sample` by those of `source`; return the files written.

    Raises:
        SystemExit: the source has no stated prediction, so that the sample would lack its point.
    """
    if not (source / "forecast.json").is_file():
        raise SystemExit(f"{source}: no forecast.json. Run `scaling verify {source.name}` first.")
    return keep_records(source, sample)


def keep_records(
    source: Path, target: Path, *, rows: int | None = None, weights: Collection[str] = ()
) -> list[Path]:
    """Replace what `target` holds by the records of a sweep; return the files written.

    Args:
        source: the sweep's folder; target: where they are kept.
        rows: rows of training loss kept of each run, evenly spread; None keeps all.
        weights: runs whose final weights are kept.

    Raises:
        SystemExit: a run that is named is not there, or has no weights.
    """
    runs = sorted(path.parent for path in source.glob("*/run.json"))
    files = [run / name for run in runs for name in RECORDS]
    files += [source / run / WEIGHTS for run in weights]
    files += [source / name for name in ("sweep.yaml", "forecast.json")]
    missing = [f for f in files if not f.is_file() and f.name != "forecast.json"]
    if missing:
        raise SystemExit(f"{missing[0]}: not there. Train it first, with train.keep_checkpoint=true for weights.")  # fmt: skip
    whole = {f: f.read_bytes() for f in files if f.is_file()}  # source and target may be one
    _empty(target)
    return [_write(target / f.relative_to(source), data, rows) for f, data in whole.items()]


def _empty(sample: Path) -> None:
    for path in sample.iterdir() if sample.is_dir() else ():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name not in KEPT:
            path.unlink()


def _write(target: Path, data: bytes, rows: int | None) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.suffix == ".yaml":
        text = re.sub(r"^results: .*$", "results: results", data.decode(), flags=re.MULTILINE)
        data = text.encode()
    elif target.name == "metrics.jsonl" and rows is not None:
        data = b"".join(_thin(data.splitlines(keepends=True), rows))
    target.write_bytes(data)
    return target


def _thin(lines: list[bytes], rows: int) -> list[bytes]:
    """Keep every validation, the last row, and so many of the others."""
    others = [i for i, line in enumerate(lines) if json.loads(line).get("val_loss") is None]
    step = max(1, -(-len(others) // rows))
    dropped = set(others) - {*others[step - 1 :: step], len(lines) - 1}
    return [line for i, line in enumerate(lines) if i not in dropped]


if __name__ == "__main__":
    folders = [Path(word) for word in sys.argv[1:] if "=" not in word]
    options = dict(word.split("=", 1) for word in sys.argv[1:] if "=" in word)
    if len(folders) == 1:
        print(
            f"{len(make_sample(folders[0], ROOT / 'results' / 'sample'))} files in results/sample"
        )
        picture = ROOT / "docs" / "images" / "overview.png"
        print(shutil.copyfile(folders[0] / "figures" / "overview.png", picture))
    else:
        kept = keep_records(
            *folders,
            rows=int(options["rows"]) if "rows" in options else None,
            weights=[name for name in options.get("weights", "").split(",") if name],
        )
        print(
            f"{len(kept)} files in {folders[1]}, {sum(f.stat().st_size for f in kept) / 1024:.0f} KB"
        )

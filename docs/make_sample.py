"""Renew results/sample and the README's picture from a finished sweep.

python docs/make_sample.py results/quickstart

Copies records, not checkpoints or figures, and writes `results` for the folder they were trained in.
Afterwards paste the output of `scaling verify quickstart` into README.md; a test compares the two.
"""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RECORDS = ("config.yaml", "metrics.jsonl", "run.json")
KEPT = ("README.md", ".gitignore")


def make_sample(source: Path, sample: Path) -> list[Path]:
    """Replace the records in `sample` by those of `source`; return the files written.

    Raises:
        SystemExit: the source has no stated prediction, so that the sample would lack its point.
    """
    if not (source / "forecast.json").is_file():
        raise SystemExit(f"{source}: no forecast.json. Run `scaling verify {source.name}` first.")
    runs = sorted(path.parent for path in source.glob("*/run.json"))
    files = [run / name for run in runs for name in RECORDS]
    files += [source / "sweep.yaml", source / "forecast.json"]
    _empty(sample)
    return [_copy(file, sample / file.relative_to(source)) for file in files]


def _empty(sample: Path) -> None:
    for path in sample.iterdir() if sample.is_dir() else ():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name not in KEPT:
            path.unlink()


def _copy(file: Path, target: Path) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    text = file.read_text(encoding="utf-8")
    if file.suffix == ".yaml":
        text = re.sub(r"^results: .*$", "results: results", text, flags=re.MULTILINE)
    target.write_text(text, encoding="utf-8")
    return target


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    print(f"{len(make_sample(folder, ROOT / 'results' / 'sample'))} files in results/sample")
    picture = ROOT / "docs" / "images" / "overview.png"
    print(shutil.copyfile(folder / "figures" / "overview.png", picture))

"""Every notebook runs from top to bottom on the sample, and stays thin: text and short calls."""

import json
import shutil
from pathlib import Path

import matplotlib
import pytest

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def cells(path, kind):
    notebook = json.loads(path.read_text(encoding="utf-8"))
    return [c for c in notebook["cells"] if c["cell_type"] == kind]


def source(cell):
    return "".join(cell["source"])


LONG = {"judge_fit": pytest.mark.slow}  # 20 s


@pytest.mark.parametrize(
    "path", [pytest.param(p, id=p.stem, marks=LONG.get(p.stem, ())) for p in NOTEBOOKS]
)
def test_notebook_runs_on_the_sample(path, tmp_path, monkeypatch):
    matplotlib.use("Agg")
    shutil.copytree(ROOT / "results" / "sample", tmp_path / "results" / "sample")
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path / "notebooks")  # where Jupyter starts it
    space = {}
    for number, cell in enumerate(cells(path, "code"), start=1):
        exec(compile(source(cell), f"{path.name}, code cell {number}", "exec"), space)
    # the law and the held-out run are those of the sample
    assert len(space["runs"]) >= 18
    assert space["fit"].law.name == "chinchilla"
    assert len(space["runs"].verify) == 1


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook_stays_thin(path):
    code = cells(path, "code")
    for cell in code:
        assert not cell["outputs"] and cell["execution_count"] is None
        assert "def " not in source(cell) and "class " not in source(cell)
        assert len(source(cell).splitlines()) <= 12
    assert len(cells(path, "markdown")) >= len(code)


def test_there_is_a_notebook():
    assert NOTEBOOKS

"""The docs: their Python runs, their links lead somewhere, their tables and quotations are true."""

import json
import re
import shutil
from pathlib import Path

import matplotlib
import pytest

from scaling.analysis.data.runs import load
from scaling.cli import main

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md")), *sorted(ROOT.glob("results/**/README.md"))]
SAMPLE = ROOT / "results" / "sample"


GUIDES = [
    ROOT / "docs" / f"{name}.md"
    for name in ("own_law", "fitting", "approaches", "forecasts", "cost")
]


@pytest.mark.parametrize("page", [README, *GUIDES], ids=lambda p: p.stem)
def test_python_lines_run_on_the_sample(page, tmp_path, monkeypatch):
    matplotlib.use("Agg")
    shutil.copytree(SAMPLE, tmp_path / "results" / "sample")
    monkeypatch.chdir(tmp_path)
    space = {}
    for block in re.findall(r"^```python\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL):
        exec(compile(block, page.name, "exec"), space)
    assert len(space["runs"]) >= 18 and space.get("fit", space.get("iso")).runs is space["runs"]
    if page == README:
        assert main(["plan", "round2", "calibrate=false"]) == 0  # the proposed sweep is one


def test_readme_quotes_the_sample():
    forecast = json.loads((SAMPLE / "forecast.json").read_text())
    measured = json.loads((SAMPLE / forecast["run_id"] / "run.json").read_text())["val_loss"]
    best = min(load(SAMPLE).L)
    quoted = [
        forecast["stated_at"],
        f"will reach {forecast['predicted']:.4f} nats/token",
        f"{forecast['next_lo']:.4f} to {forecast['next_hi']:.4f}",
        f"the fitted runs is {best:.4f}: {abs(best / measured - 1):.1%} from the measured {measured:.4f}",
    ]
    for text in quoted:
        assert text in README.read_text(), "paste the new output of `scaling verify quickstart`"


def test_links_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+?)\)", page.read_text()):
            if not target.startswith("http"):
                assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_reference_is_up_to_date():
    space = {"__file__": str(ROOT / "docs" / "make_reference.py"), "__name__": "make_reference"}
    exec((ROOT / "docs" / "make_reference.py").read_text(), space)
    page = (ROOT / "docs" / "reference.md").read_text()
    assert page == space["reference"](), "run: python docs/make_reference.py"
    for path, text in space["guides"]().items():
        assert path.read_text() == text, "run: python docs/make_reference.py"
    assert "`W-STOP`" in (ROOT / "docs" / "fitting.md").read_text()
    assert "`data_repeats`" in (ROOT / "docs" / "laws.md").read_text()


def test_lines_about_laws_run():
    page = (ROOT / "docs" / "laws.md").read_text()
    for block in re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL):
        exec(compile(block, "laws.md", "exec"), {})
    for line in re.findall(r"`(sl\.[^`]+\))`", page):
        exec(f"import scaling as sl\nruns = sl.load({str(SAMPLE)!r})\n{line}", {})


def test_sample_is_records_only_and_names_no_machine():
    names = {p.name for p in SAMPLE.glob("*/*")} - {"figures"}
    assert {"run.json", "config.yaml", "metrics.jsonl"} <= names
    for path in [*SAMPLE.glob("*.yaml"), *SAMPLE.glob("*.json"), *SAMPLE.glob("llama-*/*")]:
        assert not re.search(r"(?<![\w.])/(home|root|tmp|Users|work)/", path.read_text()), path


def test_extras_that_are_named_exist():
    declared = (ROOT / "pyproject.toml").read_text()
    named = {m for page in PAGES for m in re.findall(r"\[(\w+)\]'", page.read_text())}
    assert named and all(re.search(rf"^{extra} = \[", declared, re.MULTILINE) for extra in named)


def test_sample_is_made_from_records_alone(tmp_path):
    space = {"__file__": str(ROOT / "docs" / "make_sample.py"), "__name__": "make_sample"}
    exec((ROOT / "docs" / "make_sample.py").read_text(), space)
    source = tmp_path / "trained"
    shutil.copytree(SAMPLE, source)
    (source / "figures").mkdir(exist_ok=True)
    (source / "sweep.yaml").write_text("results: /somewhere/else\nsweep: quickstart\n")
    space["make_sample"](source, tmp_path / "sample")
    assert not (tmp_path / "sample" / "figures").exists()
    assert (tmp_path / "sample" / "sweep.yaml").read_text().startswith("results: results\n")
    assert sorted(load(tmp_path / "sample").L) == sorted(load(SAMPLE).L)

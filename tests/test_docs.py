"""The docs: their Python runs, their links lead somewhere, their tables and quotations are true."""

import json
import re
import shutil

import matplotlib
import pytest
import yaml
from doc_pages import PAGES, README, ROOT, SAMPLE, all_blocks, blocks, page_name, prepare
from matplotlib import pyplot

from scaling.analysis import laws
from scaling.analysis.data.runs import load
from scaling.cli import main
from scaling.cli.compose import compose_sweep

WEIGHTS = ("docs-generation", "docs-huggingface")  # their Python is run in test_readme.py
DRAWN = ("docs-figures",)  # its Python draws its pictures, in test_plot_more.py
GUIDES = [
    p for p in PAGES if blocks(p, "python", slow=True) and page_name(p) not in WEIGHTS + DRAWN
]
SLOW = [p for p in GUIDES if blocks(p, "python", slow=True) != blocks(p, "python")]
TOLD = ("", "text")  # printed by a command, or a picture in letters


def run_python(page, folder, monkeypatch, *, slow=False):
    """Run a page's Python, block after block, in a folder with what the page reads."""
    matplotlib.use("Agg")
    prepare(page, folder)
    monkeypatch.chdir(folder)
    space = {}
    for block in blocks(page, "python", slow=slow):
        exec(compile(block, page.name, "exec"), space)
    pyplot.close("all")
    return space


@pytest.mark.parametrize("page", GUIDES, ids=page_name)
def test_python_of_pages_runs(page, tmp_path, monkeypatch):
    space = run_python(page, tmp_path, monkeypatch)
    if page == README:
        assert len(space["runs"]) >= 18 and space["fit"].runs is space["runs"]
        assert main(["plan", "round2", "calibrate=false"]) == 0  # the proposed sweep is one


@pytest.mark.slow
@pytest.mark.parametrize("page", SLOW, ids=page_name)
def test_slow_python_of_pages_runs(page, tmp_path, monkeypatch):
    run_python(page, tmp_path, monkeypatch, slow=True)


def test_blocks_are_of_a_language_that_is_tested():
    for page in PAGES:
        written = page.stem in ("api", "commands")  # signatures and help
        for block in all_blocks(page):
            assert block.language in ("sh", "python", "yaml", *TOLD), f"{page}: {block.text}"
            typed = re.search(r"^(scaling \w+ |import |make \w+$)", block.text, re.MULTILINE)
            told = block.language in TOLD and not written
            assert not (told and typed), f"{page}: mark it sh or python: {block.text}"


def test_yaml_that_is_a_sweep_composes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sweeps").mkdir()
    texts = [text for page in PAGES for text in blocks(page, "yaml")]
    sweeps = [text for text in texts if "design:" in text]
    for text in sweeps:
        head = "" if text.startswith("# @package") else "# @package _global_\n"
        (tmp_path / "sweeps" / "typed.yaml").write_text(head + text)
        assert compose_sweep(["sweeps=typed"]).points, text
    assert len(sweeps) >= 5 and all(yaml.safe_load(text) for text in texts)


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


def test_readmes_count_the_laws():
    # the page is written from the registry, where other tests add laws of their own
    text = (ROOT / "docs" / "laws.md").read_text("utf-8")
    count = len(re.findall(r"^\| `\w+` \|", text, re.M))
    assert 50 < count <= len(laws.names())
    assert f"[{count} laws]" in README.read_text("utf-8")
    assert f"[{count} 种定律]" in (ROOT / "README.zh.md").read_text("utf-8")


def test_links_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+?)\)", page.read_text()):
            if not target.startswith("http"):
                assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_index_names_every_page():
    index = (ROOT / "docs" / "index.md").read_text()
    pages = {p.name for p in (ROOT / "docs").glob("*.md")} - {"index.md"}
    lacking = [name for name in sorted(pages) if f"]({name})" not in index]
    assert lacking == [], "add a row to docs/index.md, which the site's navigation is read from"


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

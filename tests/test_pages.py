"""Errors lead to the page that explains them, and every page and heading that is named exists."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from scaling.cli import main
from scaling.study import pages
from scaling.study.errors import (
    BusyError,
    CheckpointError,
    ConfigError,
    DataError,
    FitError,
    ScalingError,
    TrainError,
)
from scaling.study.pages import KINDS, PLACES, WARNINGS, WORDS, find_page, locate

ROOT = Path(__file__).parent.parent
NAMED = sorted({WARNINGS, *(page for _, page in (*PLACES, *WORDS, *KINDS))})


def anchors(path):
    """Anchors of a page's headings, as GitHub and MkDocs make them of plain titles."""
    titles = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    plain = (re.sub(r"[^\w\s-]", "", t.strip().lower()) for t in titles)
    return {re.sub(r"[\s-]+", "-", t) for t in plain}


@pytest.mark.parametrize("page", NAMED)
def test_page_and_heading_exist(page):
    name, _, anchor = page.partition("#")
    assert (ROOT / name).is_file()
    assert not anchor or anchor in anchors(ROOT / name)


@pytest.mark.parametrize(
    ("error", "page"),
    [
        (ConfigError("there is no sweep 'x'. There are: a."), "docs/configuration.md#sweep-files"),
        (
            ConfigError("hydra/launcher=slurm: submitit is not installed."),
            "docs/cluster.md#what-to-set",
        ),
        (ConfigError("budget: set one of tokens, flops"), "docs/configuration.md#n-and-d"),
        (DataError("data.path='x': no such file"), "docs/data.md#your-own-text"),
        (DataError("/tmp/x: damaged"), "docs/data.md"),
        (BusyError("process 3 is training this run"), "docs/resuming.md#what-can-happen"),
        (TrainError("n1M: does not fit in memory"), "docs/distributed.md#memory"),
        (CheckpointError("x"), "docs/resuming.md#what-can-happen"),
        (FitError("too few runs"), "docs/fitting.md"),
        (ConfigError("modl: no such key. Did you mean 'model'?"), None),
        (ConfigError("budget.tokens: must be above 0 tokens; got -5."), None),
        (ScalingError("something else"), None),
    ],
    ids=lambda value: str(value)[:40],
)
def test_error_leads_to_its_page(error, page):
    assert find_page(error) == page


def test_error_may_carry_its_own_page():
    error = FitError("x")
    error.page = "docs/laws.md"
    assert find_page(error) == "docs/laws.md"


def test_command_line_ends_with_the_page(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["plan", "zzzzz"]) == 1
    told = capsys.readouterr().err.splitlines()
    assert told[-1] == f"More: {ROOT / 'docs' / 'configuration.md'}#sweep-files"
    monkeypatch.chdir(ROOT)
    assert main(["plan", "zzzzz"]) == 1
    assert capsys.readouterr().err.splitlines()[-1] == "More: docs/configuration.md#sweep-files"


def test_page_is_named_where_the_documentation_is_not_installed(tmp_path):
    assert locate("docs/data.md#tokenizers", root=tmp_path).endswith("docs/data.md#tokenizers")
    shutil.copytree(ROOT / "docs", tmp_path / "docs", ignore=shutil.ignore_patterns("images"))
    assert Path(locate("docs/data.md", root=tmp_path)).samefile(tmp_path / "docs" / "data.md")


def test_warnings_of_a_fit_lead_to_their_page(capsys):
    assert pages.more_on_warnings("- W-E: the floor").endswith("docs/fitting.md#warnings")
    assert pages.more_on_warnings("no warnings") == ""


def test_pages_cost_a_command_without_errors_nothing():
    code = "import sys, scaling.cli; scaling.cli.main(['keys', 'seed']); print('scaling.study.pages' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("False")

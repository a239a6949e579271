"""The documentation as a site: it builds without a broken link, shows every page, and loads nothing from elsewhere."""

import importlib.util
import json
import re
from pathlib import Path

import pytest

pytest.importorskip("material", reason="the site needs pip install 'scaling-lab[docs]'")

from mkdocs.commands.build import build
from mkdocs.config import load_config

ROOT = Path(__file__).parent.parent


def module(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


pages = module(ROOT / "docs" / "site_pages.py")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The whole site; a broken link or anchor, or a page that the index lacks, is an error."""
    folder = tmp_path_factory.mktemp("site")
    build(load_config(str(ROOT / "mkdocs.yml"), site_dir=str(folder), strict=True))
    return folder


def test_site_has_every_page(site):
    inside = [p.relative_to(ROOT / "docs") for p in (ROOT / "docs").rglob("*.md")]
    wanted = [*map(str, inside), *pages.pages_from_outside().values()]
    built = [w.replace("README.md", "index.md").replace(".md", ".html") for w in wanted]
    assert [name for name in built if not (site / name).exists()] == []
    assert not list(site.rglob("*.py"))  # what makes pages is none


def test_site_loads_nothing_from_elsewhere(site):
    for page in site.rglob("*.html"):
        loaded = re.findall(
            r"<(?:script|link|img|iframe)[^>]*(?:src|href)=\"?(https?:[^\" >]+)", page.read_text()
        )
        assert loaded == [], page.name


def test_index_of_search_holds_text_in_any_language(site):
    index = json.loads((site / "search" / "search_index.json").read_text())
    between = re.compile(index["config"]["separator"])
    words = [word for word in between.split("scaling的幂律 sl.load") if word]
    assert words == ["scaling", "的", "幂", "律", "sl", "load"]
    assert "zh" in index["config"]["lang"] and len(index["docs"]) > 100


def test_navigation_follows_the_index():
    text = "# Docs\n## Tutorial\n| | |\n|---|---|\n| [First](a.md) | x |\n| **Group** | |\n| [B](b.md) | y |\n"
    assert pages.navigation(text) == [{"Tutorial": [{"First": "a.md"}, {"Group": [{"B": "b.md"}]}]}]
    chinese = "## 教程\n| [自述](../../README.zh.md) | |\n| [甲](甲.md) | |\n"
    assert pages.navigation(chinese, "zh/") == [
        {"教程": [{"自述": "zh/readme.md"}, {"甲": "zh/甲.md"}]}
    ]


def test_chinese_pages_get_a_part_of_their_own(tmp_path):
    (tmp_path / "zh").mkdir()
    (tmp_path / "index.md").write_text("# Docs\n## Tutorial\n| [A](a.md) | |\n")
    chinese = "# 文档\n## 教程\n| [甲](a.md) | |\n## 参考\n| [命令](../a.md) | |\n"
    (tmp_path / "zh" / "index.md").write_text(chinese, "utf-8")
    config = load_config(str(ROOT / "mkdocs.yml"), docs_dir=str(tmp_path))
    config = pages.on_config(config)
    assert config.nav[-1] == {"中文": [{"首页": "zh/index.md"}, {"教程": [{"甲": "zh/a.md"}]}]}
    assert pages.TITLES["a.md"] == "A"  # what an English page is called among English ones


def test_notebook_becomes_a_page_with_its_output():
    picture = {
        "output_type": "display_data",
        "data": {"image/png": "QUJD\n", "text/plain": "<Axes>"},
    }
    printed = {"output_type": "stream", "text": ["a\n", "b\n"]}
    cells = [
        {"cell_type": "markdown", "source": ["# Title\n", "words"]},
        {"cell_type": "code", "source": ["1 + 1"], "outputs": [printed, picture]},
    ]
    page = pages.notebook_page(json.dumps({"cells": cells}))
    assert page.startswith("# Title\nwords\n\n```python\n1 + 1\n```\n\n```text\na\nb\n```")
    assert 'src="data:image/png;base64,QUJD"' in page and "<Axes>" not in page


def test_written_pages_are_up_to_date():
    for path, text in module(ROOT / "docs" / "make_api.py").pages().items():
        assert path.read_text() == text, "run: python docs/make_api.py"

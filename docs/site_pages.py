"""What makes a site of the pages of docs/: navigation, pages from outside docs/, links that leave it.

A hook of mkdocs (see mkdocs.yml). A file has a place in the repository, `results/README.md`, and, if it is
a page, one in the site; links are written as the repository's own page shows them, and led over here.
"""

from __future__ import annotations

import json
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent
# pages from outside docs/ -> where they lie in the site; README.md would be taken for index.md
OUTSIDE = {"README.md": "readme.md", "README.zh.md": "zh/readme.md", "CHANGELOG.md": "changelog.md"}
GLOBS = ("results/**/README.md", "benchmarks/README.md", "notebooks/*.ipynb")
FENCE = re.compile(r"^(`{3,}).*?^\1\s*$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[([^\[\]]*)\]\(([^)\s#]+)(#[^)\s]*)?\)")
ROW = re.compile(r"\| \[([^\]]+)\]\(([^)#]+)\) \|")  # without an anchor: a page, not a part of one


def pages_from_outside() -> dict[str, str]:
    """Return each page that lies outside docs/ -> its place in the site."""
    found = {name: place for name, place in OUTSIDE.items() if (ROOT / name).exists()}
    for path in sorted(p for pattern in GLOBS for p in ROOT.glob(pattern)):
        name = path.relative_to(ROOT).as_posix()
        found[name] = name.removesuffix(".ipynb") + (".md" if path.suffix == ".ipynb" else "")
    return found


def site_place(name: str) -> str:
    """Return where a file of the repository lies in the site, if it does."""
    return name.removeprefix("docs/") if name.startswith("docs/") else PAGES.get(name, name)


def repository_place(place: str) -> str:
    """Return where a page of the site lies in the repository."""
    return {v: k for k, v in PAGES.items()}.get(place, f"docs/{place}")


PAGES = pages_from_outside()
TITLES: dict[str, str] = {}  # place in the site -> title in the navigation


# ---------------------------------------------------------------------------- navigation


def navigation(index: str, folder: str = "") -> list[Any]:
    """Return the navigation that the tables of an index page stand for.

    Args:
        index: text of the page: a heading of level two for each part, a table of links below it, and
            rows of bold words between links for groups.
        folder: the page's folder in docs/.
    """
    parts: list[Any] = []
    for section in re.split(r"^## ", index, flags=re.MULTILINE)[1:]:
        title, _, body = section.partition("\n")
        groups: list[Any] = []
        into = groups
        for line in body.splitlines():
            if bold := re.match(r"\| \*\*([^*]+)\*\* \|", line):
                into = []
                groups.append({bold[1]: into})
            elif row := ROW.match(line):
                place = site_place(_resolve(f"docs/{folder}index.md", row[2]))
                if place.startswith(
                    folder
                ):  # a page has one place: English ones stay in their part
                    TITLES[place] = row[1]
                    into.append({row[1]: place})
        kept = [g for g in groups if any(g.values())]
        if kept:
            parts.append({title.strip(): kept})
    return parts


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Read the navigation from the index pages: docs/index.md and, once there, docs/zh/index.md."""
    docs = Path(config.docs_dir)
    nav: list[Any] = [{"Home": "index.md"}, *navigation((docs / "index.md").read_text("utf-8"))]
    chinese = docs / "zh" / "index.md"
    if chinese.exists():
        parts = navigation(chinese.read_text("utf-8"), "zh/")
        nav.append({"中文": [{"首页": "zh/index.md"}, *parts]})
    config.nav = nav
    return config


# ---------------------------------------------------------------------------- pages and links


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages from outside docs/."""
    for name, place in PAGES.items():
        text = (ROOT / name).read_text("utf-8")
        content = notebook_page(text) if name.endswith(".ipynb") else text
        files.append(File.generated(config, place, content=content))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lead links of a page to where their targets lie in the site."""
    here = page.file.src_uri
    name = repository_place(here)

    def lead(match: re.Match[str]) -> str:
        text, target, anchor = match[1], match[2], match[3] or ""
        if re.match(r"[a-z]+:", target):
            return match[0]
        place = _led(_resolve(name, target), config, files)
        if text == target:  # a page is called by its title here, by its file there
            text = TITLES.get(place, text)
        if not place.startswith("http"):
            place = posixpath.relpath(place, posixpath.dirname(here) or ".")
        return f"[{text}]({place}{anchor})"

    pieces, end = [], 0
    for fence in FENCE.finditer(markdown):
        pieces += [LINK.sub(lead, markdown[end : fence.start()]), fence[0]]
        end = fence.end()
    return "".join([*pieces, LINK.sub(lead, markdown[end:])])


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Say that a Chinese page is Chinese, which decides the shapes of its characters."""
    chinese = page.file.src_uri.startswith("zh/")
    return output.replace('<html lang="en"', '<html lang="zh"', 1) if chinese else output


def _resolve(name: str, target: str) -> str:
    return posixpath.normpath(posixpath.join(posixpath.dirname(name), target))


def _led(name: str, config: MkDocsConfig, files: Files) -> str:
    """Return the place in the site, or the address, of a file or folder of the repository."""
    path = ROOT / name
    if path.is_dir() and f"{name}/README.md" in PAGES:
        return PAGES[f"{name}/README.md"]
    place = site_place(name)
    if name in PAGES or files.get_file_from_path(place) or not path.exists():
        return place  # what does not exist is reported by mkdocs, as it was written
    if config.repo_url:
        return f"{config.repo_url.rstrip('/')}/{'tree' if path.is_dir() else 'blob'}/main/{name}"
    if path.is_file():  # otherwise mkdocs reports it
        files.append(File.generated(config, name, abs_src_path=str(path)))
    return name


def notebook_page(text: str) -> str:
    """Return a notebook as a page: its words, its code, and what is kept of its output."""
    return "\n\n".join(part for cell in json.loads(text)["cells"] for part in _cell(cell))


def _cell(cell: dict[str, Any]) -> list[str]:
    source = "".join(cell["source"])
    if cell["cell_type"] != "code":
        return [source]
    return [f"```python\n{source}\n```", *map(_output, cell.get("outputs", []))]


def _output(output: dict[str, Any]) -> str:
    data = output.get("data", {})
    if "image/png" in data:
        picture = "".join(data["image/png"]).replace("\n", "")
        return f'<img alt="output of the cell above" src="data:image/png;base64,{picture}">'
    if "text/html" in data:
        return f'<div class="output">\n{"".join(data["text/html"])}\n</div>'
    text = "".join(output.get("text", data.get("text/plain", "")))
    return f"```text\n{text.rstrip()}\n```" if text.strip() else ""

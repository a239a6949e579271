"""The site in a real Chromium: nothing is asked of elsewhere, Chinese is found, a phone shows it whole."""

import functools
import http.server
import shutil
import threading
from pathlib import Path

import pytest

pytest.importorskip("material", reason="the site needs pip install 'scaling-lab[docs]'")
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
BROWSER = shutil.which("chromium-headless-shell") or shutil.which("chromium")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="no chromium-headless-shell or chromium on PATH"),
]

ROOT = Path(__file__).parent.parent


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *words):
        pass


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """The site served on this machine, as search needs it."""
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    folder = tmp_path_factory.mktemp("site")
    build(load_config(str(ROOT / "mkdocs.yml"), site_dir=str(folder), strict=True))
    handler = functools.partial(Quiet, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()


@pytest.fixture
def page(address):
    """A page that notes what it says and what it asks of elsewhere."""
    with playwright.sync_playwright() as manager:
        browser = manager.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        opened = browser.new_page()
        opened.trouble = []
        opened.on("console", lambda message: opened.trouble.append(message.text))
        opened.on("pageerror", lambda error: opened.trouble.append(str(error)))
        opened.on("request", lambda r: None if r.url.startswith((address, "data:", "blob:")) else opened.trouble.append(r.url))  # fmt: skip
        yield opened
        assert opened.trouble == []
        browser.close()


@pytest.mark.parametrize(("query", "found"), [("isoflop", "IsoFLOP"), ("区间", "区间")])
def test_search_finds_words_in_either_script(page, address, query, found):
    page.goto(address + "index.html")
    page.keyboard.press("f")
    page.fill("input.md-search__input", query)
    first = page.locator(".md-search-result__item").first
    first.wait_for(timeout=60_000)
    assert found.lower() in first.inner_text().lower()


@pytest.mark.parametrize("name", ["index", "tutorial", "api", "reference", "zh/tutorial"])
def test_page_is_no_wider_than_a_phone(page, address, name):
    page.set_viewport_size({"width": 390, "height": 844})
    page.goto(f"{address}{name}.html")
    # tables and code scroll within themselves
    assert page.evaluate("document.documentElement.scrollWidth") <= 390

"""The report in a real Chromium: nothing leaves it, it sorts, says, zooms, prints, and fits a phone."""

import re
import shutil

import matplotlib

matplotlib.use("Agg")

import pytest
from plot_data import isoflop_runs, with_curves

from scaling.analysis.data.runs import load
from scaling.analysis.fits.fitting import fit
from scaling.analysis.frontier.isoflops import fit_isoflops
from scaling.present.gallery import Gallery, Texts
from scaling.present.listing import listed
from scaling.present.report import write_report

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
BROWSER = shutil.which("chromium-headless-shell") or shutil.which("chromium")
pytestmark = pytest.mark.skipif(
    BROWSER is None, reason="no chromium-headless-shell or chromium on PATH"
)

ATTACK = "</script><img src=x onerror=document.title='hit'><svg onload=alert(1)>&\"'猫"
PHONE, DESK = {"width": 390, "height": 844}, {"width": 1280, "height": 900}


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A study with curves whose names are hostile wherever a name is given."""
    table = isoflop_runs((3e10, 1e11, 3e11), verify=(4e12,), noise=0.003).table
    names = [f"{ATTACK}-{name}" if i % 2 else name for i, name in enumerate(table["run_id"])]
    runs = with_curves(load(table.assign(run_id=names, sweep=f"规模 {ATTACK}", device=ATTACK)))
    path = write_report(
        tmp_path_factory.mktemp("page") / "研究 报告.html", runs=runs, fit=fit(runs, intervals="none"), iso=fit_isoflops(runs),
        question=f"多大？{ATTACK}", gallery=Gallery([ATTACK], [Texts(1e3, 1e4, 2.0, [ATTACK])], note=ATTACK),
        warnings=[ATTACK], command=f"scaling report '{ATTACK}'",
    )  # fmt: skip
    return path, listed(runs)


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as manager:
        opened = manager.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def opened(study, browser):
    """The page with everything that it said and asked for since it was opened."""
    page = browser.new_page(viewport=DESK, reduced_motion="reduce")
    page.said, page.asked = [], []
    page.on("console", lambda message: page.said.append(message.text))
    page.on("pageerror", lambda error: page.said.append(str(error)))
    page.on("dialog", lambda dialog: (page.said.append(dialog.message), dialog.dismiss()))
    page.on("request", lambda request: page.asked.append(request.url))
    page.goto(study[0].as_uri())
    return page


@pytest.fixture
def page(opened):
    """The page as it was opened: whole figures, nothing picked, in light."""
    opened.set_viewport_size(DESK)
    opened.emulate_media(color_scheme="light", media="screen")
    opened.mouse.move(0, 0)
    opened.evaluate("figures.forEach(f => f.reset()); if (picked !== null) pick(picked)")
    yield opened
    assert opened.said == []


def column(page, head):
    """The cells of the rows in sight, by the start of their heading."""
    return page.evaluate(
        """head => { const i = names.findIndex(n => n.startsWith(head));
        return [...document.querySelectorAll("#runs tbody tr")].filter(r => !r.hidden).map(r => r.cells[i].textContent); }""",
        head,
    )


def place(page, figure, run):
    """Where on the screen a run's mark is in a figure's first panel."""
    page.locator(f"#figure-{figure}").scroll_into_view_if_needed()
    return page.evaluate(
        """([figure, run]) => { const f = figures.find(f => f.stage.closest("figure").id === figure);
        return f.onScreen(f.panels[0].points.find(m => m[2] === run)); }""",
        [f"figure-{figure}", run],
    )


def view(page, figure="isoflop"):
    return [float(v) for v in page.get_attribute(f"#figure-{figure} svg[role=img]", "viewBox").split()]  # fmt: skip


def test_page_has_all_its_parts_and_asks_for_nothing(page, study):
    for part in ("verdict", "limits", "figures", "runs", "fit", "next", "gallery", "setup", "reproduce", "cite"):  # fmt: skip
        assert page.locator(f"#{part}").count() == (part != "next"), part
    assert page.locator("figure .stage > svg").count() == 2 * page.locator("figure").count() >= 14
    assert page.get_attribute("html", "lang") == "en"
    assert page.asked == [study[0].as_uri()]


def test_page_shows_hostile_names_as_text(page, study):
    assert page.title() == f"Scaling study 规模 {ATTACK}"
    assert page.inner_text("h1") == page.title()
    assert column(page, "run") == list(study[1]["run_id"])
    assert page.locator("img").count() == 0 and page.locator("pre b").inner_text() == ATTACK


def test_runs_sort_by_their_numbers_and_missing_ones_come_last(page):
    head = page.locator("#runs th", has_text="from the law")
    for direction in ("ascending", "descending"):
        head.locator("button").click()
        assert head.get_attribute("aria-sort") == direction
        shown = column(page, "from the law")
        values = [float(v) for v in shown if v != "-"]
        assert values == sorted(values, reverse=direction == "descending") and len(values) == 21
        assert shown[-1] == "-"  # the held-out run has no residual


def test_runs_are_filtered_by_words_and_conditions(page, study):
    rows = study[1]
    page.fill(".filter input", "fit n>10k loss<3")
    small = (rows["N"] > 1e4) & (rows["L"] < 3) & (rows["role"] == "fit")
    assert sorted(column(page, "run")) == sorted(rows["run_id"][small]) and 0 < small.sum() < 21
    assert page.inner_text(".filter output") == f"{small.sum()} of 22 runs"
    page.fill(".filter input", "constructor=1")  # a word that every object of a script has
    assert page.inner_text(".filter output") == "0 of 22 runs"
    page.fill(".filter input", "")


def test_pointing_at_a_mark_says_its_run(page, study):
    spot = place(page, "isoflop", 0)
    page.mouse.move(spot["x"] + 2, spot["y"] + 1)
    words = page.inner_text("#tip")
    assert study[1]["run_id"][0] in words and f"{study[1]['L'][0]:.4f}" in words
    page.mouse.move(2, 2)
    assert page.locator("#tip").is_hidden()


def test_a_run_leads_from_the_table_to_its_curve(page, study):
    page.locator("#runs tr[data-run='5'] a").click()
    assert page.url.endswith("#figure-curves")
    assert page.inner_text("#picked b") == study[1]["run_id"][5]
    assert page.locator("#figure-curves polyline.pick").count() == 1
    assert page.locator("#figure-isoflop circle.pick").count() == 1
    page.keyboard.press("Escape")
    assert page.locator(".pick").count() == 0 and page.locator("#picked").is_hidden()


def test_wheel_frame_and_double_click_change_the_view(page):
    spot = place(page, "isoflop", 3)
    home = view(page)
    page.mouse.move(spot["x"], spot["y"])
    page.mouse.wheel(0, -100)
    assert view(page) == home  # the page scrolls; the figure was not asked
    spot = place(page, "isoflop", 3)
    page.mouse.move(spot["x"], spot["y"])
    page.keyboard.down("Control")
    page.mouse.wheel(0, -100)
    page.keyboard.up("Control")
    page.wait_for_timeout(60)
    near = view(page)
    assert near[2] < 0.9 * home[2]
    after = place(page, "isoflop", 3)  # what is pointed at stays where it is, to a pixel or so
    assert abs(after["x"] - spot["x"]) < 2 and abs(after["y"] - spot["y"]) < 2
    page.mouse.dblclick(spot["x"], spot["y"])
    assert view(page) == pytest.approx(home)
    page.mouse.move(spot["x"], spot["y"])
    page.mouse.down()
    page.mouse.move(spot["x"] - 90, spot["y"] + 60, steps=3)
    page.mouse.up()
    assert view(page)[2] < 0.4 * home[2]


def test_zoomed_in_marks_keep_their_size_and_axes_are_said(page):
    def size():
        return page.evaluate("document.querySelector('#figure-isoflop g[clip-path] > use').getBoundingClientRect().width")  # fmt: skip

    before = size()
    page.evaluate("figures[0].zoomBy(4)")
    assert size() == pytest.approx(before, rel=0.02)  # four times as large otherwise
    ticks = page.locator("#figure-isoflop .over text").all_text_contents()
    assert len(ticks) >= 4 and any(t.endswith("k") for t in ticks)


def test_figures_are_read_from_the_keyboard(page, study):
    page.focus("#figure-isoflop .stage")
    page.keyboard.press("ArrowRight")
    first = page.inner_text("#tip")
    page.keyboard.press("ArrowRight")
    assert page.inner_text("#tip") != first
    page.keyboard.press("+")
    assert view(page)[2] < 460
    page.keyboard.press("0")
    assert view(page)[2] == pytest.approx(460.8)
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    assert page.inner_text("#picked b") in list(study[1]["run_id"])


def test_two_fingers_zoom(page):
    spot = place(page, "isoflop", 3)
    touch = page.context.new_cdp_session(page)
    for kind, apart in (("touchStart", 30), ("touchMove", 60), ("touchMove", 90), ("touchEnd", 0)):
        points = [{"x": spot["x"] + s * apart, "y": spot["y"], "id": i} for i, s in enumerate((-1, 1))]  # fmt: skip
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points if apart else []})  # fmt: skip
    assert 460.8 / view(page)[2] == pytest.approx(3, rel=0.1)  # as the fingers went apart


def test_phone_scrolls_tables_and_never_the_page(page):
    page.set_viewport_size(PHONE)
    width = page.evaluate("document.documentElement.scrollWidth")
    table = page.evaluate("(e => [e.scrollWidth, e.clientWidth])(document.querySelector('#runs .scroll'))")  # fmt: skip
    assert width == PHONE["width"] and table[0] > table[1]


CONTRAST = """() => {
  const light = c => { const [r, g, b] = c.map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const parts = c => c.match(/[\\d.]+/g).map(Number);
  const ground = e => { for (; e; e = e.parentElement) { const c = parts(getComputedStyle(e).backgroundColor); if (c.length < 4 || c[3] > 0) return c.slice(0, 3); } return [255, 255, 255]; };
  const found = [];
  for (const e of document.querySelectorAll("body *")) {
    if (e.closest("svg, script, style") || !e.offsetParent || ![...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim())) continue;
    const [a, b] = [light(parts(getComputedStyle(e).color).slice(0, 3)), light(ground(e))].sort((x, y) => y - x);
    found.push([(a + 0.05) / (b + 0.05), e.tagName + "." + e.className]);
  }
  return found.sort((x, y) => x[0] - y[0]);
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_contrast_by_system_and_by_choice(page, scheme):
    page.emulate_media(color_scheme=scheme)
    other = {"light": "dark", "dark": "light"}[scheme]
    for chosen in (other, scheme):
        found = page.evaluate(CONTRAST)
        assert found[0][0] >= 4.5 and len(found) > 200, found[0]  # WCAG 2.1, level AA
        page.click("#theme")
        assert page.get_attribute("html", "data-theme") == chosen
    page.evaluate("delete document.documentElement.dataset.theme; localStorage.clear()")


def test_page_prints_every_run_and_no_controls(page):
    page.emulate_media(media="print")
    assert page.locator(".tools").first.is_hidden() and page.locator("nav").is_hidden()
    box = page.evaluate("(e => [e.scrollHeight, e.clientHeight])(document.querySelector('#runs .scroll'))")  # fmt: skip
    assert box[0] == box[1]
    printed = page.pdf(format="A4")
    assert printed.startswith(b"%PDF") and 4 <= len(re.findall(rb"/Type /Page\b", printed)) <= 14

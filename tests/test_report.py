import re
import shutil
import subprocess

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import pandas as pd
import pytest
from plot_data import isoflop_runs

from scaling.analysis.data.runs import load
from scaling.analysis.fits.fitting import fit
from scaling.analysis.frontier.isoflops import fit_isoflops
from scaling.present.report import spent, write_report
from scaling.present.verification import verify

BUDGETS = (3e10, 1e11, 3e11, 1e12)
BROWSER = shutil.which("chromium-headless-shell") or shutil.which("chromium")
needs_browser = pytest.mark.skipif(
    BROWSER is None, reason="no chromium-headless-shell or chromium on PATH"
)


def study(tmp_path, *, off=0.0, change=None, **more):
    runs = isoflop_runs(BUDGETS, verify=(4e12,), noise=0.003, off=off)
    if change:
        runs = load(change(runs.table))
    law = fit(runs, resamples=60)
    path = write_report(
        tmp_path / "deep" / "report.html", runs=runs, fit=law, iso=fit_isoflops(runs), **more
    )
    return path, runs, law


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    plt.close("all")  # what other tests drew; the report must leave nothing open itself
    return study(
        tmp_path_factory.mktemp("report"),
        question="How large should a <model> be?",
        warnings=["Mind the gap."],
    )


def plain(path):
    """The visible text of the page."""
    source = re.sub(r"<(style|script|svg).*?</\1>", " ", path.read_text(), flags=re.S)
    return " ".join(re.sub(r"<[^>]+>", " ", source).split())


def test_report_counts_the_steps_of_a_trunk_once(tmp_path):
    def branches(table):
        """Every run but the first is half a branch of it."""
        first = table["run_id"].iloc[0]
        parent = [None] + [first] * (len(table) - 1)
        half = [None, *(table["tokens"].iloc[1:] / 2)]
        return table.assign(
            parent=parent, parent_tokens=half, seconds=60.0, parent_seconds=[None, *[30.0] * (len(table) - 1)]
        )  # fmt: skip

    path, runs, _ = study(tmp_path, change=branches)
    n, first = len(runs.frame), runs.frame["C"].iloc[0]
    seconds, flops = spent(runs.frame)
    assert seconds == 60 + 30 * (n - 1)
    assert flops == pytest.approx(first + (runs.frame["C"].sum() - first) / 2)
    text = plain(path)
    assert "counted once" in text and "branch of" in text
    assert text.count(runs.frame["run_id"].iloc[0]) >= n


def test_report_needs_no_network_and_is_small(written):
    source = written[0].read_text()
    assert not re.search(r"""(src|href)=["'](?!data:|#)""", source)
    assert "@import" not in source and "url(http" not in source
    assert len(source) < 2e6  # 30 runs; the limit is 5 MB for 1,000
    assert "branch of" not in source and "counted once" not in source
    assert source.count("<svg") == 7 and plt.get_fignums() == []


def test_report_states_question_verdict_check_and_limits(written):
    path, runs, law = written
    words = plain(path)
    assert "How large should a &lt;model&gt; be?" in words
    assert f"a = {law.get('a'):.3f}"[:8] in words and "90 % interval" in words
    assert "inside the 90 % interval" in words
    assert "cannot tell what happens orders of magnitude beyond" in words
    assert "Mind the gap." in words and runs.conventions in words


def make_awkward(table):
    """A study on a known source, with a lost run and names that are not safe in HTML."""
    status = ["diverged", *table["status"][1:]]
    loss = [None, *table["val_loss"][1:]]
    return table.assign(
        status=status, val_loss=loss, entropy_rate=1.3, true_loss=1.31,
        device="<script>alert(1)</script>", sweep="a&b",
    )  # fmt: skip


@pytest.fixture(scope="module")
def awkward(tmp_path_factory):
    return study(tmp_path_factory.mktemp("awkward"), off=0.08, change=make_awkward)


def test_report_says_when_the_prediction_missed_and_why(awkward):
    words = plain(awkward[0])
    assert "outside the 90 % interval" in words and "upwards" in words


def test_report_compares_the_floor_with_the_true_one(awkward):
    path, _, law = awkward
    words = plain(path)
    assert "Fitted floor and true floor" in words and "1.3000" in words
    lo, hi = law.interval("E")
    assert ("yes" if lo <= 1.31 <= hi else "no") in words.split("1.3100")[1][:8]


def test_report_has_every_run_with_its_status(awkward):
    path, runs, _ = awkward
    words = plain(path)
    assert all(name in words for name in runs.table["run_id"]) and "diverged" in words


def test_report_escapes_what_records_say(awkward):
    source = awkward[0].read_text()
    assert "<script>alert" not in source and "a&amp;b" in source


@pytest.mark.parametrize("law", ["power_C", "kaplan"])
def test_report_is_written_for_other_laws_and_without_intervals(tmp_path, law):
    runs = isoflop_runs(BUDGETS, verify=(4e12,), noise=0.003)
    law_fit = fit(runs, law=law, intervals="none")
    stated = verify(law_fit).assign(predicted=1.231, next_lo=1.23, next_hi=1.24)
    path = write_report(tmp_path / "r.html", runs=runs, fit=law_fit, verification=stated)
    assert "1.231" in plain(path)  # what was stated before is shown, not what the law says now
    assert "Repeat it" in plain(path) and " nan" not in plain(path)


@pytest.mark.slow
def test_report_of_a_thousand_runs_stays_under_5_megabytes(tmp_path):
    runs = isoflop_runs(tuple(10 ** (10 + 0.02 * i * 4) for i in range(100)), sizes=10, verify=())
    path = write_report(
        tmp_path / "r.html", runs=runs, fit=fit(runs, intervals="delta"), iso=fit_isoflops(runs)
    )
    assert len(runs) == 1000 and path.stat().st_size < 5e6


@needs_browser
def test_report_sorts_in_a_real_browser_without_console_errors(written, tmp_path):
    clicks = """<script>
      const heads = [...document.querySelectorAll("table.sortable th")];
      const loss = heads.findIndex(h => h.textContent.startsWith("val_loss"));
      const column = () => [...document.querySelectorAll("table.sortable tbody tr")].map(r => r.cells[loss].textContent).join(" ");
      heads[loss].querySelector("button").click(); document.body.dataset.up = column();
      heads[loss].querySelector("button").click(); document.body.dataset.down = column();
      document.body.dataset.wide = document.documentElement.scrollWidth > document.documentElement.clientWidth;
    </script></body>"""
    copy = tmp_path / "report.html"
    copy.write_text(written[0].read_text().replace("</body>", clicks))
    done = subprocess.run(
        [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--window-size=390,900",
         f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=2000", "--dump-dom", copy.as_uri()],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    up = re.search(r'data-up="([^"]*)"', done.stdout)[1].split()
    down = re.search(r'data-down="([^"]*)"', done.stdout)[1].split()
    losses = pd.Series(up).astype(float)
    assert len(up) == 29 and losses.is_monotonic_increasing and down == up[::-1]
    assert 'aria-sort="descending"' in done.stdout
    assert 'data-wide="false"' in done.stdout  # a phone scrolls tables, not the page
    assert "CONSOLE" not in done.stderr, done.stderr

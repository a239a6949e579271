import json
import re

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import pandas as pd
import pytest
from plot_data import isoflop_runs, with_curves

from scaling.analysis.allocation.design import next_sweep
from scaling.analysis.data.runs import load
from scaling.analysis.fits.fitting import fit
from scaling.analysis.frontier.isoflops import fit_isoflops
from scaling.present import page
from scaling.present.listing import listed
from scaling.present.marks import find_marks
from scaling.present.provenance import fingerprint, spent
from scaling.present.report import write_report
from scaling.present.verification import verify

BUDGETS = (3e10, 1e11, 3e11, 1e12)


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
    """A study with training curves and a sweep proposed."""
    plt.close("all")  # what other tests drew; the report must leave nothing open itself
    runs = with_curves(isoflop_runs(BUDGETS, verify=(4e12,), noise=0.003))
    law = fit(runs, resamples=60)
    path = write_report(
        tmp_path_factory.mktemp("report") / "deep" / "报告.html", runs=runs, fit=law, iso=fit_isoflops(runs),
        question="How large should a <model> be?", warnings=["Mind the gap."],
        proposal=next_sweep(law, C=[1e13]), command="scaling report mine law=chinchilla",
    )  # fmt: skip
    return path, runs, law


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
    assert source.count("<svg") == source.count("<figure") >= 7 and plt.get_fignums() == []


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
    return study(
        tmp_path_factory.mktemp("awkward"),
        off=0.08,
        change=make_awkward,
        proposal="no law, no sweep",
    )


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


def marks(source, name):
    """What can be pointed at in a figure: its panels, and of each the numbers of its runs."""
    block = source.split(f"<figure id='figure-{name}'")[1].split("</figure>")[0]
    panels = json.loads(re.search(r"class='marks'>(.*?)</script>", block)[1])
    points = [{m[2] for m in p["points"] if isinstance(m[2], int)} for p in panels]
    return panels, points, [{m[0] for m in p["lines"]} for p in panels]


def test_marks_of_figures_belong_to_the_rows_of_the_table(written):
    path, runs, _ = written
    source, rows = path.read_text(), listed(runs)
    fitted = set(rows.index[rows["role"] == "fit"])
    assert marks(source, "isoflop")[1][0] == fitted
    assert marks(source, "residuals")[1][0] == set(rows.index)  # the held-out run as well
    panels, _, lines = marks(source, "curves")
    assert lines[0] == marks(source, "curves_tokens")[2][0] == fitted
    assert len(marks(source, "collapse")[2][0]) > 5  # all of which end at one point
    panel = panels[0]  # the end of each curve is where its row says
    left, top, right, bottom = panel["box"]
    for run, x, y, *steps in panel["lines"]:
        at = ((x + sum(steps[::2])) / 10 - left) / (right - left), (bottom - (y + sum(steps[1::2])) / 10) / (bottom - top)  # fmt: skip
        ends = [a["lo"] * (a["hi"] / a["lo"]) ** share for a, share in zip((panel["x"], panel["y"]), at, strict=True)]  # fmt: skip
        # a tenth of a point of an axis of two decades is 0.2 %, and steps are rounded to it
        assert ends == pytest.approx([rows["C"][run], rows["L"][run]], rel=0.01)


def test_marks_of_runs_that_coincide_are_one_each():
    table = pd.DataFrame(
        {"run_id": list("abc"), "N": 1e6, "D": 1e7, "C": 6e13, "L": [2.0, 2.1, 2.2]}
    )
    _, ax = plt.subplots()
    ax.scatter(table["N"], table["D"])
    ax.plot(1e6, 6e13, "*", label="shared")  # has both values of every run, and is none
    ax.plot([1e6], [2.1], "o")
    drawn = ax.figure
    drawn.canvas.draw()
    (panel,) = find_marks(drawn, (100.0, 100.0), rows=table)
    plt.close(drawn)
    said = [m[2] for m in panel["points"]]
    assert sorted(m for m in said if isinstance(m, int)) == [0, 1, 1, 2]
    assert [m for m in said if isinstance(m, str)] == ["shared\n1e+06\n6e+13"]


def test_marks_without_a_run_say_what_they_are(written):
    panel = marks(written[0].read_text(), "frontier")[0][0]
    said = [m[2] for m in panel["points"] if isinstance(m[2], str)]
    assert any("N* ∝ C^a" in s and "training compute C: " in s for s in said)
    assert not any("$" in s or "\\" in s for s in said)


def test_rows_lead_to_the_figure_that_shows_their_run(written):
    path, runs, _ = written
    found = re.findall(r"<tr data-run=(\d+)><td><a href='#figure-(\w+)'>", path.read_text())
    assert [int(n) for n, _ in found] == list(range(len(runs.frame)))
    held = listed(runs)["role"] == "verify"
    assert all((name == "curves") != held[int(n)] for n, name in found)


def test_report_proposes_the_next_sweep(written):
    path, _, law = written
    words = plain(path)
    assert "scaling next" in words and "design:" in words  # the file itself
    proposal = next_sweep(law, C=[1e13])
    assert proposal.table().note in words and "7 runs" in proposal.table().note


def test_report_says_why_nothing_is_proposed(awkward):
    assert "no law, no sweep" in plain(awkward[0])


def test_report_can_be_repeated_and_cited(written):
    path, runs, _ = written
    words = plain(path)
    assert "scaling report mine law=chinchilla" in words
    assert "@misc{" in words and f"sha256:{fingerprint(runs)}" in words
    assert "Hoffmann et al. 2022" in words


def test_fingerprint_is_of_the_numbers_and_not_of_their_order():
    runs = isoflop_runs(BUDGETS)
    turned = load(runs.table.iloc[::-1].reset_index(drop=True))
    changed = load(runs.table.assign(val_loss=runs.table["val_loss"] * (1 + 1e-12)))
    assert fingerprint(turned) == fingerprint(runs) != fingerprint(changed)


def test_data_of_the_page_cannot_end_its_element():
    hostile = "</script><script>alert(1)</script><!-- \u2028 & 猫"
    source = page.data([hostile], "marks")
    inner = re.fullmatch(r"<script type='application/json' class='marks'>(.*)</script>", source)[1]
    assert "<" not in inner and ">" not in inner and json.loads(inner) == [hostile]


@pytest.mark.slow
def test_report_of_a_thousand_runs_stays_under_5_megabytes(tmp_path):
    runs = isoflop_runs(tuple(10 ** (10 + 0.02 * i * 4) for i in range(100)), sizes=10, verify=())
    runs = with_curves(runs, points=100)
    path = write_report(
        tmp_path / "r.html", runs=runs, fit=fit(runs, intervals="delta"), iso=fit_isoflops(runs)
    )
    assert len(runs) == 1000 and path.stat().st_size < 5e6
    assert len(marks(path.read_text(), "curves")[2][0]) == 1000


def test_report_of_a_table_trains_nothing_and_quotes_its_path(tmp_path):
    runs = isoflop_runs(BUDGETS[:3], verify=())
    table = "表 格/数据.csv"
    law = fit(runs, intervals="none")
    path = write_report(tmp_path / "r.html", runs=runs, fit=law, proposal=next_sweep(law, C=[1e12]), sweep=table, source=table)  # fmt: skip
    words = plain(path)
    assert "Scaling study 数据" in words and "scaling train &#x27;数据_next&#x27;" in words
    assert words.count("scaling train") == 1  # what comes next; these runs are not ours
    assert "scaling report &#x27;表 格/数据.csv&#x27; law=" in words
    assert "sl.load(&quot;表 格/数据.csv&quot;)" in words


def test_figure_that_cannot_be_drawn_leaves_the_page_to_the_others(tmp_path, monkeypatch):
    from scaling.present import plot
    from scaling.study.errors import FitError

    def refuse(fit, **_):
        raise FitError("profile: every value of E is <open>.")

    monkeypatch.setattr(plot, "profiles", refuse)
    text = plain(study(tmp_path)[0])
    assert "profile is left out: profile: every value of E is &lt;open&gt;." in text

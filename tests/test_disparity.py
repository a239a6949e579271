"""Gaps between groups: simulated runs whose gap is known to close, stay or widen."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import scaling as sl
from scaling.analysis.fits.disparity import SAME, judge, path
from scaling.cli import main
from scaling.study.errors import FitError

# bits/byte of a model of a million parameters and a hundred million tokens, roughly
BASE = {"E": 0.6, "A": 30.0, "alpha": 0.4, "B": 300.0, "beta": 0.4}
GROUPS = {
    "en": BASE,
    "close": BASE | {"A": 45.0, "B": 450.0},  # the same floor, so the gap goes to 0
    "stay": BASE | {"E": 0.9},  # another floor, and nothing else
    "widen": BASE | {"E": 0.9, "A": 15.0, "B": 150.0},  # learnt sooner, a higher floor
}


def _loss(p, N, D):
    return p["E"] + p["A"] * N ** -p["alpha"] + p["B"] * D ** -p["beta"]


def _table(groups=tuple(GROUPS), *, noise=0.002, shared=0.0, seed=0, se=0.001):
    """A grid of 36 runs; `noise` of each group alone and `shared` by all groups of a run, in log loss."""
    rng = np.random.default_rng(seed)
    rows = []
    for N in np.geomspace(1e4, 1e6, 6):
        for D in np.geomspace(1e6, 1e8, 6):
            luck = rng.normal(0, shared)
            scores = {f"val_bpb_{g}": _loss(GROUPS[g], N, D) * np.exp(luck + rng.normal(0, noise)) for g in groups}  # fmt: skip
            # one byte to a token: nats/token are ln 2 bits/byte
            scores |= {f"val_loss_{g}": scores[f"val_bpb_{g}"] * np.log(2) for g in groups}
            scores |= {f"val_se_{g}": se * np.log(2) for g in groups}
            mean = float(np.mean([scores[f"val_loss_{g}"] for g in groups]))
            rows.append({"params": N, "tokens": D, "val_loss": mean, **scores})
    return pd.DataFrame(rows)


@pytest.fixture(scope="module")
def found():
    return sl.gaps(sl.load(_table()), reference="en", target=6e16, resamples=200)


def test_verdicts_are_the_known_ones(found):
    assert {g: found.verdict(g) for g in found.others} == {
        "close": "closes", "stay": "stays", "widen": "widens",
    }  # fmt: skip


def test_intervals_hold_the_true_gaps(found):
    best = path(found.runs, np.array([found.now, found.target]))
    for row in found.table.to_dict("records"):
        for name, N, D in zip(("now", "target"), best["N"], best["D"], strict=True):
            true = _loss(GROUPS[row["group"]], N, D) - _loss(BASE, N, D)
            # 90 % intervals, six of them, one draw of the noise: wider by half leaves 1 in 70 outside.
            middle, half = row[name], 0.75 * (row[f"{name}_hi"] - row[f"{name}_lo"])
            assert abs(true - middle) < half, (row["group"], name)


def test_luck_that_groups_share_cancels_in_the_gap():
    """2 % that is common to all groups of a run widens each law and hardly the gap between them."""
    quiet, loud = (
        sl.gaps(sl.load(_table(("en", "stay"), shared=s)), reference="en", resamples=200) for s in (0.0, 0.02)
    )  # fmt: skip
    alone = [
        np.ptp(np.quantile(g.losses("stay", [g.now])[1:], [0.05, 0.95])) for g in (quiet, loud)
    ]
    gap = [float(g.table["now_hi"].iloc[0] - g.table["now_lo"].iloc[0]) for g in (quiet, loud)]
    assert alone[1] > 4 * alone[0]  # ten times the noise; four leaves room for the draws
    # 2 % of a difference of 0.3 is 0.006; unpaired, the gap of two losses of 1 would know 0.01 of each.
    assert gap[1] < 0.5 * np.hypot(alone[1], alone[1])


def test_few_documents_widen_the_gap_and_not_its_change():
    sure, unsure = (sl.gaps(sl.load(_table(("en", "stay"), se=se)), reference="en", resamples=400) for se in (0.0, 0.05))  # fmt: skip
    width = [float(g.table["now_hi"].iloc[0] - g.table["now_lo"].iloc[0]) for g in (sure, unsure)]
    # two independent errors of 0.05, 90 %: 2 x 1.645 x 0.0707; 400 draws know an end to 7 %
    assert width[1] == pytest.approx(0.2326, rel=0.2) and width[0] < 0.03
    moved = [np.ptp(np.quantile(np.diff(g.gap("stay", [g.now, g.target])[1:]), [0.05, 0.95])) for g in (sure, unsure)]  # fmt: skip
    assert moved[1] == pytest.approx(moved[0], rel=1e-6)


def test_reference_is_the_group_with_the_lowest_loss():
    assert sl.gaps(sl.load(_table(("stay", "en"))), resamples=20).reference == "en"


def test_verdict_follows_paired_draws():
    rng = np.random.default_rng(0)
    now = 0.3 + 0.01 * rng.standard_normal(1000)

    def said(then, before=now):
        return judge(before, then, level=0.9)

    assert said(now * 0.5) == "closes"
    assert said(now * (1 + SAME / 2)) == "stays"
    assert said(now * 1.5) == "widens"
    assert said(-now) == "reverses"
    assert said(now * (1 + rng.standard_normal(1000))) == "not identified"
    assert said(0.1 * now, before=now - 0.3) == "opens"
    assert said(now - 0.3, before=now - 0.3) == "no gap"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"reference": "fr"}, "reference: no group 'fr'"),
        ({"groups": ["en", "clsoe"]}, "Did you mean 'close'"),
        ({"groups": ["en"]}, "needs two groups or more"),
        ({"measure": "accuracy"}, "columns accuracy_GROUP; there is none"),
        ({"law": "single_n"}, "single_n"),
    ],
)
def test_what_cannot_be_compared_is_refused(options, words):
    with pytest.raises(FitError, match=words):
        sl.gaps(sl.load(_table()), **options)


def test_command_prints_verdicts_and_writes_table_and_figure(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _table(("en", "stay")).to_csv("my runs.csv", index=False)
    assert main(["gaps", "my runs.csv", "reference=en", "resamples=50", "out=mine"]) == 0
    said = capsys.readouterr().out
    assert "stay - en" in said and "stays" in said and "bits/byte" in said
    assert pd.read_csv("mine/gaps.csv")["verdict"].tolist() == ["stays"]
    assert {p.name for p in (tmp_path / "mine/figures").iterdir()} == {"gaps.png", "gaps.csv"}


def test_law_that_misses_the_measured_gap_says_nothing_beyond():
    """A group that is learnt all at once has no power law; the verdict must not read one."""
    table = _table(("en", "stay"))
    late = table["tokens"] > 5e7
    for column in ("val_bpb_stay", "val_loss_stay"):
        table.loc[~late, column] *= 2.0
    found = sl.gaps(sl.load(table), reference="en", resamples=100)
    assert found.verdict("stay") == "law misses it"
    assert "nothing is said" in found.summary().text()


def test_accuracy_is_compared_as_what_lacks_to_the_best():
    """The group with fewer right answers is the one with the gap above 0, and its law is that of the error."""
    table = _table(("en", "close", "stay"))
    for g in ("en", "close", "stay"):
        error = table.pop(f"val_bpb_{g}") / 4  # from 0.2 to 0.8
        table = table.drop(columns=[f"val_loss_{g}", f"val_se_{g}"])
        table[f"accuracy_{g}"], table[f"accuracy_{g}_se"] = 1 - error, 0.0002
    found = sl.gaps(sl.load(table), resamples=100)
    assert found.measure == "accuracy" and found.reference == "en" and found.unit == "1 - accuracy"
    assert [found.verdict(g) for g in ("close", "stay")] == ["closes", "stays"]
    assert float(found.table["measured"].min()) > 0
    # the floor's gap of 0.3 bits/byte over 4; the spread of 2e-3 noise over 36 runs is far below a third of it
    assert float(found.table.set_index("group").loc["stay", "floor"]) == pytest.approx(
        0.075, rel=0.3
    )
    assert "1 - accuracy" in found.summary().text()


def test_a_group_without_any_error_does_not_stop_the_law():
    table = _table(("en", "stay"))
    for g in ("en", "stay"):
        table[f"accuracy_{g}"] = np.minimum(1.0, 1.25 - table[f"val_bpb_{g}"] / 4)
    assert (table["accuracy_en"] == 1).any()
    found = sl.gaps(sl.load(table), measure="accuracy", resamples=20)
    assert found.perfect > 0 and "without any error" in found.summary().text()


def test_a_group_that_is_perfect_in_every_run_is_named():
    table = _table(("en", "stay"))
    table["accuracy_en"], table["accuracy_stay"] = 1.0, 1.25 - table["val_bpb_stay"] / 4
    with pytest.raises(FitError, match="accuracy_en: is 1, the most there can be, in all 36 runs"):
        sl.gaps(sl.load(table), measure="accuracy")

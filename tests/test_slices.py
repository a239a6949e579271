"""Held-out loss by group: a column of the user's files becomes a slice that every run scores."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from small_run import small_plan

from scaling.analysis.data.runs import load
from scaling.study.config import DataConfig
from scaling.study.errors import ConfigError, DataError
from scaling.study.record import read_record
from scaling.training.data import prepare
from scaling.training.trainer import train

WORDS = {"中文": "天地玄黄宇宙洪荒", "en": "the quick brown fox"}


def _write(path, *, documents=400, key="language", **rest):
    """Documents of two languages, three in four English, each of about 200 bytes and unlike the others."""
    rng = np.random.default_rng(0)
    rows = []
    for i in range(documents):
        label = "中文" if i % 4 == 0 else "en"
        letters = rng.choice(list(WORDS[label]), 70 if label == "中文" else 200)
        rows.append({"text": "".join(letters), key: label} | rest)
    path.write_text("\n".join(json.dumps(r, ensure_ascii=False) for r in rows), "utf-8")
    return path


def _config(tmp_path, path, **changes):
    values = {"source": "text", "path": str(path), "group_key": "language", "val_tokens": 8000, "cache": str(tmp_path / "cache")}  # fmt: skip
    return DataConfig(**(values | changes))


def test_group_key_makes_a_slice_of_each_label(tmp_path):
    data = prepare(_config(tmp_path, _write(tmp_path / "文 本.jsonl")), context=32)
    slices = {s.name: s for s in data.sets}
    assert set(slices) == {"中文", "en"}
    held = sum(len(s.val) for s in slices.values())
    assert (
        abs(held - len(data.val)) < 300
    )  # the same documents; the mixture is cut within the last one
    share = slices["中文"].share
    assert 0.2 < share < 0.35 and share + slices["en"].share == pytest.approx(1)
    assert slices["中文"].characters_per_token == pytest.approx(71 / 211, abs=1e-6)


def test_group_key_leaves_the_tokens_as_they_are(tmp_path):
    path = _write(tmp_path / "a.jsonl")
    with_groups, without = (
        prepare(_config(tmp_path, path, group_key=key), context=32) for key in ("language", None)
    )
    assert with_groups.data_hash == without.data_hash
    assert without.sets == ()


def test_parquet_has_groups_too(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    import pyarrow

    rows = [
        json.loads(line) for line in _write(tmp_path / "a.jsonl").read_text("utf-8").splitlines()
    ]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "b.parquet")
    one, other = (
        prepare(_config(tmp_path, tmp_path / name), context=32) for name in ("a.jsonl", "b.parquet")
    )
    assert [s.data_hash for s in one.sets] == [s.data_hash for s in other.sets]


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"group_key": "lang"}, DataError, "no group under 'lang'; there is: text, language"),
        ({"group_key": "text"}, ConfigError, "400 different values"),
        ({"source": "markov"}, ConfigError, "data.source=markov has none"),
    ],
)
def test_group_that_cannot_be_is_refused(tmp_path, changes, error, words):
    config = _config(tmp_path, _write(tmp_path / "a.jsonl"), **changes)
    with pytest.raises(error, match=words):
        prepare(config, context=32)


def test_txt_has_no_groups(tmp_path):
    (tmp_path / "a.txt").write_text("text " * 5000)
    with pytest.raises(DataError, match="has no column data.group_key=language"):
        prepare(_config(tmp_path, tmp_path / "a.txt"), context=32)


def test_run_scores_its_slices_and_they_add_up(tmp_path):
    """Slices hold the documents of the mixture, so its loss is their mean by tokens."""
    path = _write(tmp_path / "a.jsonl")
    source = {
        "data.source": "text",
        "data.path": str(path),
        "data.vocab": 256,
        "data.val_tokens": 8000,
    }
    plan = small_plan(tmp_path, **source, **{"data.group_key": "language"})
    assert plan.hash == small_plan(tmp_path, **source).hash  # the run's numbers do not depend on it
    train(plan)
    record = read_record(plan.folder)
    sets = record.val_sets or {}
    assert sets["中文"]["group"] == "中文" and sets["中文"]["text"] == "language=中文"
    tokens = {name: s["tokens"] for name, s in sets.items()}
    mean = sum(s["loss"] * s["tokens"] for s in sets.values()) / sum(tokens.values())
    # Only contexts at documents' edges differ: one in 200 tokens, by less than a nat.
    assert mean == pytest.approx(record.val_loss, abs=0.03)
    found = sets["中文"]
    assert found["bits_per_character"] == pytest.approx(found["loss"] / math.log(2) * 211 / 71)
    table = load(plan.folder.parent).table
    assert table["val_bpc_中文"].iloc[0] == found["bits_per_character"]
    assert table["val_share_en"].iloc[0] == sets["en"]["share"]

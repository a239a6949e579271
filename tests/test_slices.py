"""Held-out loss by group: a column of the user's files becomes a slice that every run scores."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from small_run import small_plan

from scaling.analysis.data.runs import load
from scaling.cli import main
from scaling.cli.evaluate import unscored
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


def _source(folder):
    """Return a file of documents in two languages, and the keys of a run on it."""
    path = _write(folder / "a.jsonl")
    keys = {
        "data.source": "text",
        "data.path": str(path),
        "data.vocab": 256,
        "data.val_tokens": 8000,
    }
    return path, keys


def test_run_scores_its_slices_and_they_add_up(tmp_path):
    """Slices hold the documents of the mixture, so its loss is their mean by tokens."""
    _, source = _source(tmp_path)
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


def _reviews(path, *, key="lang", count=600):
    """Pairs of two languages; the label is said by the first letter, in Chinese by another one."""
    rng = np.random.default_rng(0)
    rows = []
    for i in range(count):
        label, lang = i % 2, "中文" if i % 5 == 0 else "en"
        rest = "".join(rng.choice(list("天地玄黄" if lang == "中文" else "abcdefgh"), 5))
        rows.append(
            {
                "text": ("ab" if lang == "en" else "好坏")[label] + rest,
                "target": "+-"[label],
                key: lang,
            }
        )
    path.write_text("\n".join(json.dumps(r, ensure_ascii=False) for r in rows), "utf-8")
    return path


LABELS = {
    "model.kind": "encoder", "model.context": 24, "data.source": "pairs", "data.vocab": 256, "data.classes": 2,
    "data.val_tokens": 1500, "data.max_epochs": 99, "optim.batch_tokens": 480, "budget.tokens": 480 * 25,
}  # fmt: skip


def test_labelled_pairs_are_judged_by_group(tmp_path):
    """Groups divide the held-out pairs, so accuracy is the mean of theirs; a finished run is judged later too."""
    path = _reviews(tmp_path / "评 论.jsonl")
    grouped, plain = (
        small_plan(tmp_path / name, **LABELS, **{"data.path": str(path), "data.group_key": key})
        for name, key in (("a", "lang"), ("b", None))
    )
    assert grouped.hash == plain.hash  # the numbers do not depend on it
    one, other = train(grouped), train(plain)
    found = one.measures or {}
    parts = [found["accuracy_en"], found["accuracy_中文"]]
    assert found["accuracy_en"]["group"] == "en" and one.val_sets["中文"]["bits_per_byte"] is None
    count = sum(p["n"] for p in parts)
    assert count == found["accuracy"]["n"]
    assert sum(p["value"] * p["n"] for p in parts) / count == pytest.approx(
        found["accuracy"]["value"]
    )
    assert set(other.measures) == {"accuracy", "macro_f1"} and not other.val_sets
    assert main(["evaluate", str(plain.folder), "data.group_key=lang"]) == 0
    later = read_record(plain.folder)
    assert later.measures == one.measures and later.val_sets == one.val_sets
    assert later.data_hash == other.data_hash


def test_a_finished_text_run_is_scored_by_group_later(tmp_path, capsys):
    path, source = _source(tmp_path)
    plan = small_plan(tmp_path, **source)
    train(plan)
    again = small_plan(tmp_path, **source, **{"data.group_key": "language"})
    assert f"scaling evaluate {plan.folder} data.group_key=language" in unscored([again])
    assert main(["evaluate", str(plan.folder), "data.group_key=language"]) == 0
    assert "val_bpb_中文" in capsys.readouterr().out
    assert set(read_record(plan.folder).val_sets or {}) == {"中文", "en"} and not unscored([again])
    path.write_text(path.read_text("utf-8") + '\n{"text": "one more", "language": "en"}', "utf-8")
    assert main(["evaluate", str(plan.folder), "data.group_key=language"]) != 0
    assert "not there any more" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.jsonl", '{"text": "a", "target": "b"}\n', "no group under 'lang'; there is: text, target"),
        ("a.tsv", "a\tb\n", "first line is to name the columns between tabs: text, target and lang"),
        ("a.tsv", "text\ttarget\na\tb\n", "no column data.group_key=lang"),
    ],
)  # fmt: skip
def test_pairs_without_their_group_are_refused(tmp_path, name, content, said):
    path = tmp_path / name
    path.write_text(content, "utf-8")
    config = DataConfig(source="pairs", path=str(path), group_key="lang", cache=str(tmp_path))
    with pytest.raises(DataError, match=said):
        prepare(config, context=24)


def test_tsv_says_groups_by_its_first_line(tmp_path):
    rows = [json.loads(r) for r in _reviews(tmp_path / "a.jsonl").read_text("utf-8").splitlines()]
    lines = [
        "lang\ttext\ttarget",
        *("\t".join(r[k] for k in ("lang", "text", "target")) for r in rows),
    ]
    (tmp_path / "b.tsv").write_text("\n".join(lines), "utf-8")
    keys = {
        "source": "pairs",
        "group_key": "lang",
        "classes": 2,
        "val_tokens": 1500,
        "cache": str(tmp_path / "cache"),
    }
    one, other = (
        prepare(DataConfig(path=str(tmp_path / n), **keys), context=24)
        for n in ("a.jsonl", "b.tsv")
    )
    assert [s.data_hash for s in one.sets] == [s.data_hash for s in other.sets]
    assert one.sets[0].share == pytest.approx(0.8, abs=0.03)  # 600 pairs, a fifth of them Chinese

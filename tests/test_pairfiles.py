"""Pairs from files: both formats, Chinese, the split, and what is said of wrong files."""

from __future__ import annotations

import json

import numpy as np
import pytest
from small_run import small_plan

from scaling.study.config import DataConfig
from scaling.study.errors import ConfigError, DataError
from scaling.training.data import prepare
from scaling.training.data.pairfiles import read_files
from scaling.training.trainer import train

REVIEWS = [("这家店很好", "好"), ("太慢了", "差"), ("a fine place", "好"), ("服务 不错", "好")]


def config(path, folder=None, **changes):
    values = {"source": "pairs", "path": str(path), "val_tokens": 60}
    return DataConfig(**values | {"cache": str(folder or path.parent / "cache")} | changes)


def write(path, lines):
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def many(folder, count=60):
    lines = [f"第{i}句 number {i}\t{'好' if i % 3 else '差'}" for i in range(count)]
    return write(folder / "评论 file.tsv", lines)


def test_tsv_and_jsonl_hold_the_same_pairs(tmp_path):
    plain = write(tmp_path / "a.tsv", ["\t".join(p) for p in REVIEWS])
    named = write(tmp_path / "b.tsv", ["id\ttarget\ttext", *(f"7\t{b}\t{a}" for a, b in REVIEWS)])
    lines = [json.dumps({"text": a, "target": b}, ensure_ascii=False) for a, b in REVIEWS]
    objects = write(tmp_path / "c.jsonl", lines)
    for path in (plain, named, objects):
        assert list(read_files(config(path))) == REVIEWS


def test_other_columns_and_labels_that_are_numbers(tmp_path):
    path = write(tmp_path / "a.jsonl", ['{"review": "fine", "stars": 5}', '{"review": "bad", "stars": 1}'])  # fmt: skip
    keys = {"text_key": "review", "target_key": "stars"}
    assert list(read_files(config(path, **keys))) == [("fine", "5"), ("bad", "1")]


def test_pairs_are_split_by_their_text_and_kept_whole(tmp_path):
    path = many(tmp_path)
    data = prepare(config(path, classes=2), context=48)
    again = prepare(config(path, tmp_path / "other", classes=2), context=48)
    assert data.data_hash == again.data_hash
    parts = []
    for store in (data.train, data.val):
        words, length = store.read(np.arange(len(store.lengths)) * 48, part=0, most=40)
        texts = [bytes(w[:n].astype(np.uint8)).decode() for w, n in zip(words, length, strict=True)]
        labels = store.read(np.arange(len(store.lengths)) * 48, part=1, most=1)[0][:, 0]
        parts.append(dict(zip(texts, labels, strict=True)))
    both = parts[0] | parts[1]
    assert len(both) == len(parts[0]) + len(parts[1]) == 60
    order = sorted(["好", "差"])
    assert all(order[label] == ("好" if int(text.split()[-1]) % 3 else "差") for text, label in both.items())  # fmt: skip


def test_one_text_with_two_answers_falls_on_one_side(tmp_path):
    lines = [f"text {i // 2}\tanswer {i % 2}" for i in range(80)] + ["text 1\tanswer 0"]
    data = prepare(config(write(tmp_path / "a.tsv", lines)), context=40)
    assert len(data.train.lengths) + len(data.val.lengths) == 80
    sides = []
    for store in (data.train, data.val):
        words, length = store.read(np.arange(len(store.lengths)) * 40, part=0, most=20)
        sides.append({tuple(w[:n]) for w, n in zip(words, length, strict=True)})
    assert not sides[0] & sides[1] and len(sides[0]) + len(sides[1]) == 40


def test_a_run_learns_from_a_file(tmp_path):
    changes = {
        "model.kind": "encoder", "model.context": 40, "data.source": "pairs", "data.path": str(many(tmp_path)),
        "data.order": 5, "data.vocab": 256, "data.classes": 2, "data.val_tokens": 100, "data.max_epochs": 99,
        "optim.batch_tokens": 400, "budget.tokens": 4000,
    }  # fmt: skip
    record = train(small_plan(tmp_path, **changes))
    assert (
        record.status == "done" and record.objective == "classify" and record.tokenizer == "bytes"
    )


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.tsv", "one\ttwo\nthree\n", "a.tsv, line 2: 1 columns, not two columns"),
        ("a.tsv", "a\tb\tc\n", "3 columns, not two columns.*first line with their names, text and target"),
        ("a.tsv", "one\t \n", "line 1: 'target' is empty"),
        ("a.jsonl", '{"text": "a", "target": "b"}\n{"text"\n', "line 2: not JSON"),
        ("a.jsonl", '{"text": "a", "label": "b"}\n', "nothing under 'target'; there is: text, label. Set data.target_key"),
        ("a.jsonl", '{"body": "a", "target": "b"}\n', "nothing under 'text'.*Set data.text_key"),
        ("a.csv", "a,b\n", "none of .tsv, .jsonl"),
        ("a.tsv", "", "0 different pairs"),
        ("a.tsv", "a\tb\n", "1 different pairs.*too few"),
    ],
)  # fmt: skip
def test_wrong_files_are_named_with_what_to_do(tmp_path, name, content, said):
    path = tmp_path / name
    path.write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=said):
        prepare(config(path), context=40)


def test_files_that_are_not_there_or_not_utf8(tmp_path):
    with pytest.raises(DataError, match=r"no such file and no \.tsv, \.jsonl"):
        prepare(config(tmp_path / "none.tsv"), context=40)
    (tmp_path / "a.tsv").write_bytes("好\t坏".encode("gbk"))
    with pytest.raises(DataError, match="not UTF-8 at byte 0"):
        prepare(config(tmp_path / "a.tsv"), context=40)
    with pytest.raises(DataError, match="data.path: data.source=pairs needs it"):
        prepare(DataConfig(source="pairs", cache=str(tmp_path)), context=40)


def test_another_number_of_labels_is_refused(tmp_path):
    with pytest.raises(
        ConfigError, match=r"is 3, but .* has 2 different labels.*Set data.classes=2"
    ):
        prepare(config(many(tmp_path), classes=3), context=40)


def test_texts_that_are_plain_are_no_pairs(tmp_path):
    from scaling.training.data import TokenStore
    from scaling.training.objectives import build_objective

    plan = small_plan(tmp_path, **{"data.source": "translate", "data.depth": 2, "data.rules": 4, "model.context": 26})  # fmt: skip
    store = TokenStore(shards=(np.zeros(100, np.uint8),), vocab=32, sha256="")
    with pytest.raises(DataError, match="seq2seq needs pairs"):
        build_objective(plan).make(store, np.zeros(1, int), np.zeros(1, np.uint64))

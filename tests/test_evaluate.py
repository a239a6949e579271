"""Evaluation: standard errors that hold, and further held-out sets."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from small_run import small_plan
from torch import Tensor, nn

import scaling as sl
from scaling.cli import main, split_sweep
from scaling.cli.compose import compose_sweep
from scaling.cli.evaluate import describe_scores, unscored
from scaling.study.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    RecordError,
    TrainError,
)
from scaling.study.plan import RunPlan, make_plan
from scaling.study.record import RunRecord, read_metrics, read_record, write_record
from scaling.training.claim import Claim
from scaling.training.data import TokenData, prepare
from scaling.training.data.tokenizers import load_tokenizer
from scaling.training.evaluate import (
    Evaluation,
    Sums,
    evaluate,
    group_starts,
    standard_error,
    summarise,
)
from scaling.training.rescore import score_run
from scaling.training.trainer import train

CONTEXT = 32
CHINESE = [
    "天地玄黄，宇宙洪荒。",
    "日月盈昃，辰宿列张。",
    "寒来暑往，秋收冬藏。",
    "闰余成岁，律吕调阳。",
]


def score(loss_of_token: np.ndarray, ends: np.ndarray | None) -> Evaluation:
    """Score a text whose losses per target are given: targets are at places 1 ... n."""
    scored = Sums(group_starts(ends, tokens=len(loss_of_token) + 1, context=CONTEXT))
    place_BT = 1 + np.arange(len(loss_of_token)).reshape(-1, CONTEXT)
    scored.add(place_BT, loss_of_token.reshape(-1, CONTEXT))
    return summarise(scored, None, bytes_per_token=None)


def spread_over_error(results: list[Evaluation]) -> float:
    """Return the scatter of losses between draws over the standard error that each draw states."""
    stated = math.sqrt(np.mean([r.loss_se**2 for r in results]))
    return float(np.std([r.loss for r in results], ddof=1)) / stated


def documents(rng: np.random.Generator, tokens: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw a text of documents of unequal length, some hard and some easy throughout."""
    lengths = rng.geometric(1 / 200, tokens // 50)  # 200 tokens on average, six sequences
    level = np.repeat(rng.normal(2.0, 0.5, len(lengths)), lengths)[:tokens]
    return level + rng.exponential(1.0, tokens), np.cumsum(lengths)


def test_standard_error_holds_over_repeated_draws_of_documents():
    rng = np.random.default_rng(0)
    draws = [documents(rng, 512 * CONTEXT) for _ in range(400)]
    # SD of an SD of 400 draws: 3.5 %; four of them
    assert spread_over_error([score(loss, ends) for loss, ends in draws]) == pytest.approx(1, rel=0.14)  # fmt: skip
    # sequences as units, as is usual, see 512 where there are about 80 documents
    naive = [
        np.std(loss.reshape(-1, CONTEXT).mean(1), ddof=1) / math.sqrt(512) for loss, _ in draws
    ]
    assert np.std([loss.mean() for loss, _ in draws]) > 1.7 * np.mean(naive)


@pytest.mark.parametrize("count", [4, 7, 30])
def test_standard_error_holds_for_few_documents_of_very_different_lengths(count):
    rng = np.random.default_rng(count)
    means, stated = [], []
    for _ in range(3000):
        lengths = np.exp(rng.normal(8, 1.0, count))
        sums = rng.normal(2.0, 0.3, count) * lengths
        means.append(sums.sum() / lengths.sum())
        stated.append(standard_error(sums, lengths))
    # 1.04, 1.05 and 1.01 here; 3000 draws leave 2 %. The linear formula states 0.74, 0.81 and 0.90.
    ratio = math.sqrt(np.mean(np.square(stated))) / np.std(means)
    assert 0.95 < ratio < 1.12


def test_standard_error_of_equal_groups_is_that_of_a_mean():
    losses = np.array([1.0, 2.0, 4.0, 3.5])
    assert standard_error(10 * losses, np.full(4, 10.0)) == pytest.approx(
        np.std(losses, ddof=1) / 2
    )


def test_standard_error_of_blocks_holds_where_documents_are_not_known():
    rng = np.random.default_rng(1)
    results = []
    for _ in range(400):
        noise = rng.normal(0, 1, 512 * CONTEXT)
        kernel = np.exp(-np.arange(4 * CONTEXT) / CONTEXT)  # losses alike over one sequence or so
        results.append(score(2 + np.convolve(noise, kernel, "same"), None))
    # blocks of 8 sequences lose what reaches across their ends: correlation length over block, 1/8 of
    # the variance; and 3.5 % by chance
    assert spread_over_error(results) == pytest.approx(1.06, rel=0.14)
    assert results[0].groups == 64


def test_standard_error_falls_back_to_blocks_with_few_documents():
    assert len(group_starts(np.array([100, 200]), tokens=32 * 64 + 1, context=32)) == 16
    assert len(group_starts(np.arange(100, 400, 100), tokens=32 * 64 + 1, context=32)) == 4
    result = score(np.full(CONTEXT, 2.0), None)
    assert (result.loss_se, result.groups) == (None, 1)  # one sequence tells nothing


def write_texts(folder: Path) -> None:
    """Write a training text and two others: Chinese in lines of a .jsonl file, and digits."""
    (folder / "train").mkdir()
    lines = [f"the {i}th line of {i % 7} says {i * i}\n" * 20 for i in range(300)]
    for i, text in enumerate(lines):
        (folder / "train" / f"{i}.txt").write_text(text)
    rows = [{"text": f"{i}。" + "".join(CHINESE[i % 4 :]) * 5} for i in range(40)]
    (folder / "zh.jsonl").write_text(
        "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), encoding="utf-8"
    )
    (folder / "digits.txt").write_text("\n\n".join(str(i**5) for i in range(1000)))


@pytest.fixture(scope="module")
def texts(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("texts")
    write_texts(folder)
    return folder


def plan_of(folder: Path, texts: Path, **changes) -> RunPlan:
    sets = {"zh": str(texts / "zh.jsonl"), "digits": str(texts / "digits.txt")}
    values = {"data.source": "text", "data.path": str(texts / "train"), "data.vocab": 256, "data.validation": sets,
              "budget.tokens": 2560, "data.cache": str(texts / "cache")}  # fmt: skip
    return small_plan(folder, **(values | changes))


@pytest.fixture(scope="module")
def finished(tmp_path_factory, texts) -> tuple[RunPlan, RunRecord]:
    plan = plan_of(tmp_path_factory.mktemp("run"), texts)
    return plan, train(plan)


class TableModel(nn.Module):
    """Gives every target the loss of its number: what is scored can be added up by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor, y: Tensor, *, reduction: str = "mean") -> Tensor:
        return y.float() * self.scale


def test_sets_hold_the_text_in_the_tokens_of_the_run(texts, tmp_path):
    zh, digits = prepare(plan_of(tmp_path, texts).config.data, context=32).sets
    text = load_tokenizer("bytes").decode(zh.val[:])
    wanted = {json.loads(line)["text"] for line in (texts / "zh.jsonl").read_text("utf-8").splitlines()}  # fmt: skip
    whole = text.split("\0")[:-1]  # the last document may be cut at val_tokens
    assert set(whole) <= wanted and len(whole) == len(zh.document_ends)
    assert len(zh.val) == 2049  # as many as data.val_tokens, and one target more
    result = evaluate(TableModel(), zh, context=32)
    assert result.loss == pytest.approx(zh.val[1:2049].mean(), rel=1e-6)  # float32 losses
    assert result.bits_per_byte == pytest.approx(result.loss / math.log(2))
    assert digits.document_ends.size == 0  # one .txt of 13 kB


def test_sets_use_a_tokenizer_trained_on_the_training_text(texts, tmp_path):
    config = plan_of(tmp_path, texts, **{"data.tokenizer": "bpe", "data.vocab": 300}).config.data
    zh = prepare(config, context=32).sets[0]
    file = next((texts / "cache").glob("text-bpe-*/tokenizer.json"))
    text = load_tokenizer(str(file)).decode(zh.val[:200])
    assert "寒来暑往，秋收冬藏" in text
    assert 1 <= zh.bytes_per_token < 3  # the merges are English; a Chinese character has 3 bytes


def test_sets_are_scored_at_the_end_and_are_columns(finished):
    plan, record = finished
    assert set(record.val_sets) == {"zh", "digits"}
    zh = record.val_sets["zh"]
    assert zh["tokens"] == 2048 and zh["se"] > 0 and zh["groups"] == 5  # documents
    assert zh["loss"] > record.val_loss  # it has seen English only
    rows = [row for row in read_metrics(plan.folder) if "val_loss/zh" in row]
    assert [row["val_loss/zh"] for row in rows] == [zh["loss"]] and rows[0]["step"] == plan.steps
    assert read_record(plan.folder) == record
    runs = sl.load(plan.folder)
    assert runs.table["val_loss_zh"][0] == zh["loss"] and runs.table["val_se_zh"][0] == zh["se"]
    assert runs.using(loss="val_loss_digits").L[0] == record.val_sets["digits"]["loss"]
    assert "[bits/byte]" in runs.using(loss="val_bpb_zh").conventions
    assert runs.using(loss="val_loss_zh").curves().empty  # and not the curve of another text


def test_sets_leave_the_run_what_it_is(finished, texts, tmp_path):
    plan, record = finished
    bare = plan_of(tmp_path, texts, **{"data.validation": None})
    assert bare.run_id == plan.run_id
    alone = train(bare)
    assert alone.val_sets is None
    assert (alone.val_loss, alone.train_loss) == (record.val_loss, record.train_loss)


def test_sets_that_cannot_be_read_stop_a_run_before_it_starts(texts, tmp_path):
    (tmp_path / "short.txt").write_text("few")
    for path, message in (("nowhere.txt", "no such file"), (str(tmp_path / "short.txt"), "too few")):  # fmt: skip
        with pytest.raises(DataError, match=rf"data\.validation\.other.*{message}"):
            train(plan_of(tmp_path, texts, **{"data.validation": {"other": path}}))
    with pytest.raises(ConfigError, match="not text"):
        train(small_plan(tmp_path, **{"data.validation": {"other": "a.txt"}}))


@pytest.mark.parametrize("name", ["a b", "中", "se", ""])
def test_set_names_that_make_no_column_are_refused(tmp_path, name):
    with pytest.raises(ConfigError, match="cannot name a set"):
        small_plan(tmp_path, **{"data.validation": {name: "a.txt"}})


@pytest.mark.parametrize(
    "arguments",
    [
        ["data.validation.zh=文/a b.txt", "data.validation.en=c*.txt"],
        ["+data.validation.zh='文/a b.txt'", "++data.validation.en=c*.txt"],
        ["data.validation={zh: 文/a b.txt, en: c*.txt}"],
    ],
)
def test_sets_are_named_on_the_command_line(arguments):
    _, rest = split_sweep(["model.params=10k", *arguments])
    config = compose_sweep(rest).points[0].config
    assert config.data.validation == {"zh": "文/a b.txt", "en": "c*.txt"}


def test_sets_on_the_command_line_are_checked():
    for argument in ("data.validation={zh:a.txt}", "data.validation.a b=c", "data.validation.zh="):
        with pytest.raises(ConfigError, match=r"data\.validation"):
            compose_sweep(split_sweep([argument])[1])


def test_evaluation_of_a_data_set_without_documents_is_that_of_blocks(tmp_path):
    data: TokenData = prepare(small_plan(tmp_path).config.data, context=32)
    assert data.document_ends is None
    result = evaluate(TableModel(), dataclasses.replace(data, true_logprob=None), context=32)
    assert result.groups == 16 and result.excess is None


@pytest.fixture
def copied(finished, tmp_path) -> Path:
    folder = tmp_path / "results" / "single" / finished[0].run_id
    shutil.copytree(finished[0].folder, folder)
    return folder


def test_finished_run_is_scored_as_it_would_have_been(finished, copied, texts):
    text = {"again": str(texts / "zh.jsonl")}
    record = score_run(copied, text, changes={"data.cache": str(texts / "cache")})
    before = finished[1].val_sets
    assert record.val_sets["again"] == before["zh"]  # to the bit
    assert {k: record.val_sets[k] for k in before} == before
    assert read_record(copied) == record
    assert record.replace(val_sets=before) == finished[1]  # and nothing else has changed


def test_scores_that_are_there_are_kept_unless_the_tokens_are_others(copied, texts):
    text = {"zh": str(texts / "zh.jsonl")}
    before = (copied / "run.json").stat().st_mtime_ns
    score_run(copied, text)
    assert (copied / "run.json").stat().st_mtime_ns == before
    assert score_run(copied, text, tokens=640).val_sets["zh"]["tokens"] == 640


def test_run_without_weights_or_end_cannot_be_scored(copied, texts):
    text = {"more": str(texts / "zh.jsonl")}
    with Claim(copied), pytest.raises(TrainError, match="is training this run"):
        score_run(copied, text)
    shutil.rmtree(copied / "checkpoint")
    with pytest.raises(CheckpointError, match="keep_checkpoint"):
        score_run(copied, text)
    write_record(copied, read_record(copied).replace(status="running"))
    with pytest.raises(RecordError, match="the run is running"):
        score_run(copied, text)


def test_evaluate_command_scores_a_sweep_and_names_what_it_could_not(copied, texts, capsys):
    bad = copied.with_name("bad")
    shutil.copytree(copied, bad)
    shutil.rmtree(bad / "checkpoint")
    results = f"results={copied.parents[1]}"
    sets = [f"data.validation.more={texts / 'zh.jsonl'}", "data.val_tokens=1k"]
    assert main(["evaluate", "single", *sets, results]) == 1
    out = capsys.readouterr().out
    assert "val_loss_more" in out and "±" in out and "bad/checkpoint" in out
    assert read_record(copied).val_sets["more"]["tokens"] == 992  # whole sequences of 32
    assert main(["evaluate", str(copied), *sets]) == 0
    for arguments in (["single", results], ["single", *sets, "seed=1"], ["nowhere", *sets]):
        assert main(["evaluate", *arguments]) == 1


def test_rerun_of_a_finished_run_names_the_command_that_scores_new_sets(finished):
    plan, _ = finished
    assert unscored([plan]) == ""
    hint = unscored([make_plan(plan.config.replace(**{"data.validation": {"more": "a b.txt"}}))])
    assert f"scaling evaluate {plan.folder} data.validation.more='a b.txt'" in hint


def test_table_of_scores_marks_what_an_even_guess_would_beat():
    sets = {"zh": {"loss": 6.0, "se": 0.02}, "en": {"loss": 5.5, "se": 0.02}, "bad": {"loss": None}}
    record = RunRecord(
        run_id="r", status="done", val_loss=1.9, vocab=256, tokens=1000, params_non_embedding=10, val_sets=sets
    )  # fmt: skip
    table = str(describe_scores([record], ["zh", "en", "bad"]))
    # ln 256 = 5.5452 is the loss of an even guess over bytes
    assert "6.0000 ± 0.0200 !" in table and "even guess over the tokens (5.5452)" in table
    assert "5.5000 ± 0.0200 !" not in table and "1.9000 !" not in table
    assert "even guess" not in str(describe_scores([record], ["en", "bad"]))

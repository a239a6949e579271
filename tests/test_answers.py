"""Input that does not suit (sweep files, values, texts, trackers) is answered in a line that says what to do."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from small_run import small_plan

from scaling.analysis.data.runs import load
from scaling.analysis.fits.fitting import fit
from scaling.cli import main, quote_text
from scaling.study.config import DataConfig
from scaling.study.errors import DataError, FitError
from scaling.training.data import prepare
from scaling.training.data.texts import cut_text
from scaling.training.trainer import train

CHINESE = "天地玄黄宇宙洪荒日月盈昃辰宿列张寒来暑往秋收冬藏闰余成岁律吕调阳"


def test_long_chinese_text_is_cut_by_bytes_so_that_pieces_can_be_held_out(tmp_path):
    order = np.random.default_rng(0).integers(len(CHINESE), size=60_000)
    text = "".join(CHINESE[i] for i in order)
    pieces = list(cut_text(text, piece=1000))
    assert "".join(pieces) == text
    assert max(len(p.encode()) for p in pieces) == 999  # 333 characters of three bytes
    path = tmp_path / "text.txt"
    path.write_text(text, encoding="utf-8")
    config = DataConfig(source="text", path=str(path), val_tokens=2048, cache=str(tmp_path / "c"))
    assert len(prepare(config, context=32).train) > 100_000


def test_documents_too_long_to_be_held_out_are_answered(tmp_path):
    path = tmp_path / "long.jsonl"
    path.write_text("".join(f'{{"text": "{c * 20_000}"}}\n' for c in "abcdef"))
    config = DataConfig(source="text", path=str(path), val_tokens=2048, cache=str(tmp_path / "c"))
    with pytest.raises(DataError, match="each of its 6 documents has more than 16 KiB"):
        prepare(config, context=32)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"# @package _global_\ndesign: {grid: [1,2}\n", "not readable as YAML"),
        (b"# @package _global_\n\xff\xfe", "not readable as YAML"),
        (b"design: {grid: {seed: [1]}}\n", "its first line must be `# @package _global_`"),
        (b"# @package _global_\ndesign: 3\n", "design: expected keys below it"),
        (b"# @package _global_\ndesign: {verify: 3}\n", "verify: 3 is not one {key: value}"),
        (b"# @package _global_\ndesign: {points: [3]}\n", "points: 3 is not {key: value}"),
    ],
)
def test_broken_sweep_file_is_answered_in_one_line(text, message, tmp_path, monkeypatch, capsys):
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "sweeps" / "mine.yaml").write_bytes(text)
    monkeypatch.chdir(tmp_path)
    assert main(["train", "mine"]) == 1
    answer, *more = capsys.readouterr().err.splitlines()
    assert message in answer and len(more) == 1 and more[0].startswith("More: ")


def test_sweep_whose_runs_all_diverged_has_nothing_to_fit(tmp_path):
    for seed in (0, 1):
        train(small_plan(tmp_path, **{"optim.lr": 1e6, "seed": seed}))
    with pytest.raises(FitError, match=r"none of 2 runs is done with role fit \(2 diverged\)"):
        fit(load(tmp_path / "results"))


def test_broken_wandb_is_noted_and_the_run_goes_on(tmp_path, monkeypatch):
    (tmp_path / "wandb.py").write_text('raise RuntimeError("half installed")')
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    plan = small_plan(tmp_path, **{"tracker.name": "wandb"})
    assert train(plan).status == "done"
    assert "wandb cannot be imported (half installed)" in (plan.folder / "notes.log").read_text()


def test_refused_run_is_answered_in_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "model.params=3k", "budget.tokens=-5"]) == 1
    assert capsys.readouterr().err == (
        "scaling train: budget.tokens: must be above 0 tokens; got -5.\n"
    )
    assert main(["train", "=3"]) == 1
    assert "no key before the =" in capsys.readouterr().err


def test_names_in_other_scripts_need_no_quotes(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SCALING_CACHE", str(tmp_path / "cache"))
    run = ["model.params=3k", "budget.tokens=4k", "data=text", "data.tokenizer=bytes"]
    assert main(["train", *run, "data.vocab=256", "data.path=没有.txt"]) == 1
    assert "data.path='没有.txt': no such file" in capsys.readouterr().err
    assert quote_text("data.path=一.txt,b.txt") == "data.path='一.txt',b.txt"
    assert quote_text("data.path='一'") == "data.path='一'"

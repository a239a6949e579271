"""Text from runs: `scaling generate`, whole characters as they come, the gallery of the report."""

from __future__ import annotations

import numpy as np
import pytest
from small_run import small_plan
from test_export import text_plan

from scaling.cli import main
from scaling.cli.gallery import make_gallery
from scaling.cli.generate import printable, read_request
from scaling.present.gallery import gallery_section
from scaling.study.errors import CheckpointError, ConfigError
from scaling.training.data.tokenizers import ByteTokenizer
from scaling.training.export import export_run
from scaling.training.generation import Decoding
from scaling.training.trainer import train
from scaling.training.words import Speller, TextWords
from scaling.training.writer import generate, open_writer

MARKED = {"model.kind": "encoder_decoder", "budget.tokens": 4096}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A sweep of two sizes on a text, with a path that has a space and Chinese in it."""
    folder = tmp_path_factory.mktemp("结果 folder")
    plans = [text_plan(folder, sweep="two", **{"model.width": width}) for width in (16, 24)]
    for plan in plans:
        assert train(plan).status == "done"
    return folder, plans


def test_a_run_continues_a_prompt_the_same_each_time(trained):
    plan = trained[1][1]
    first = generate(plan.folder, ["the cat", "天地"], tokens=20, temperature=0.8, seed=3)
    assert first == generate(plan.folder, ["the cat", "天地"], tokens=20, temperature=0.8, seed=3)
    assert first != generate(plan.folder, ["the cat", "天地"], tokens=20, temperature=0.8, seed=4)
    assert len(generate(plan.folder, "the", temperature=1.0, samples=3)) == 3
    (greedy,) = generate(plan.folder, "the cat sat on the ", tokens=12)
    assert greedy.isprintable() and len(greedy) == 12


def test_pieces_of_a_stream_make_the_whole_text(trained):
    writer = open_writer(trained[1][0].folder)
    for how in (Decoding(tokens=30, temperature=1.5, seed=1), Decoding(tokens=10, beams=3)):
        pieces = list(writer.stream("天地", how))
        assert "".join(pieces) == writer.write(["天地"], how)[0]


def test_an_exported_folder_writes_what_its_run_writes(trained, tmp_path):
    plan = trained[1][0]
    export_run(plan.folder, tmp_path / "model")
    ours = generate(plan.folder, "the dog", tokens=20)
    assert ours == generate(tmp_path / "model", "the dog", tokens=20)


@pytest.mark.parametrize("text", ["naïve 你好，世界 🙂👩‍🔬 𠀀 end", "plain", "天" * 200])
def test_characters_come_whole(text):
    words = TextWords(ByteTokenizer())
    tokens = words.encode(text).tolist()
    speller = Speller(words, words.encode("说：").tolist())
    pieces = [speller.add(t) for t in tokens]
    assert "".join(pieces) == text and speller.finish() == ""
    assert not any("\ufffd" in piece for piece in pieces)


def test_bytes_that_are_no_character_are_replaced_at_last():
    words = TextWords(ByteTokenizer())
    tokens = [*"天".encode()[:2], *b"ok", *[0xFF] * 9, *"地".encode()[:2]]
    speller = Speller(words)
    text = "".join(speller.add(t) for t in tokens) + speller.finish()
    assert text == bytes(tokens).decode("utf-8", "replace")
    rng = np.random.default_rng(0)
    for _ in range(50):
        noise = rng.integers(1, 256, size=150).tolist()
        speller = Speller(words, [97])
        assert "".join(map(speller.add, noise)) + speller.finish() == bytes(noise).decode("utf-8", "replace")  # fmt: skip


def test_command_shows_every_size_on_one_prompt(trained, capsys):
    folder, plans = trained
    results = f"results={folder / 'results'}"
    assert main(["generate", "two", "prompt=天地 = the", "tokens=8", results]) == 0
    shown = capsys.readouterr().out
    heads = [line for line in shown.splitlines() if line.startswith("--- N ")]
    assert len(heads) == 2 and all("loss" in head for head in heads)
    assert [head.rsplit(" ", 1)[1] for head in heads] == [plan.run_id for plan in plans]
    assert shown.count("天地 = the") == 2
    one = ["generate", plans[0].run_id, "prompt=the", "samples=2", "tokens=4", results]
    assert main(one) == 0
    assert "[2] the" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (["two"], "no prompt"),
        (["prompt=a"], "no run"),
        (["two", "prompt=a", "temprature=1"], "Did you mean 'temperature'"),
        (["two", "prompt=a", "tokens=1.5"], "whole number"),
        (["two", "prompt=a", "tokens=many"], "tokens"),
        (["two", "prompt=a", "samples=2", "temperature=0"], "would all be the same"),
        (["two", "prompt=a", "beams=2", "temperature=1"], "Leave one out"),
        (["elsewhere", "prompt=a"], "no runs there"),
    ],
)
def test_command_says_what_is_wrong(line, says, trained, capsys):
    results = f"results={trained[0] / 'results'}"
    assert main(["generate", *line, results]) == 1
    assert says in capsys.readouterr().err


def test_prompts_mean_nothing_but_themselves():
    request = read_request(["run", "prompt=a=b ${x} [1,2] --help", "beams=3"])
    assert request.prompt == "a=b ${x} [1,2] --help" and request.how["temperature"] == 0
    assert read_request(["run", "prompt="]).how == {"temperature": 0.8}


def test_text_cannot_steer_the_terminal():
    assert printable("a\x1b[2Jb\r\x07\x7f\x9b\n\t天🙂") == "a␛[2Jb␍␇\ufffd\ufffd\n\t天🙂"


def test_an_encoder_decoder_fills_in_what_is_missing(tmp_path):
    plan = text_plan(tmp_path, **MARKED)
    train(plan)
    writer = open_writer(plan.folder)
    given = writer.words.encode("the <extra_id_0> sat<extra_id_1>")
    assert given.tolist() == [*b"the ", 258, *b" sat", 259, 257]
    assert writer.words.decode([258, *b"cat", 259]) == "<extra_id_0>cat<extra_id_1>"
    assert writer.words.encode("the").tolist() == [*b"the", 258, 257]
    assert generate(plan.folder, "the <extra_id_0> sat", tokens=5)
    with pytest.raises(ConfigError, match="beyond the run's 32 marks"):
        writer.words.encode("<extra_id_40>")


def test_symbols_are_given_and_written_as_numbers(tmp_path):
    plan = small_plan(tmp_path)
    train(plan)
    (made,) = generate(plan.folder, "3 17 4", tokens=6)
    assert len(made.split()) == 6 and all(0 <= int(n) < 32 for n in made.split())
    with pytest.raises(ConfigError, match="numbers below 32"):
        generate(plan.folder, "3 99", tokens=6)


def test_gallery_continues_held_out_texts_by_size(trained):
    folder, plans = trained
    gallery = make_gallery(folder / "results" / "two")
    assert [m.params for m in gallery.models] == [p.counts.non_embedding for p in plans]
    assert len(gallery.prompts) == len(gallery.truth) == len(gallery.models[0].continuations)
    text = (folder / "text.txt").read_text(encoding="utf-8")
    for prompt, rest in zip(gallery.prompts, gallery.truth, strict=True):
        assert prompt + rest.rstrip("\ufffd") in text
    page = gallery_section(gallery)
    assert page.count("held-out text") == len(gallery.prompts) and "temperature 0.8" in page


def test_gallery_says_when_weights_were_not_kept(tmp_path):
    plan = small_plan(tmp_path, sweep="light", **{"train.keep_checkpoint": False})
    train(plan)
    gallery = make_gallery(plan.folder.parent)
    assert gallery.models == () and "keep_checkpoint=true" in gallery_section(gallery)
    assert make_gallery(tmp_path / "runs.csv") is None and gallery_section(None) == ""
    with pytest.raises(CheckpointError, match="keep_checkpoint=true"):
        generate(plan.folder, "1 2")

"""`scaling init`: what it writes can be planned, trained and fitted as it is, and nothing is lost by it."""

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from children import fresh_cache

from scaling.cli import main
from scaling.cli.compose import compose_sweep
from scaling.cli.init import name_of
from scaling.cli.owntext import look_at_text
from scaling.cli.starter import TEMPLATES, choose_scale, most_tokens
from scaling.study.errors import ConfigError, DataError
from scaling.study.plan import make_plan

LINE = "天地玄黄 the quick brown fox jumps over the lazy dog {}\n"


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_text(path, size):
    """Write about so many bytes of text without repeated documents."""
    lines = "".join(LINE.format(i) for i in range(size // 50))
    path.write_text(lines.encode()[:size].decode(errors="ignore"))
    return path


def files_of(folder):
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()
    }


def test_init_writes_a_study_that_trains_and_fits(place, monkeypatch, capsys):
    write_text(place / "我的 text.txt", 300_000)
    assert main(["init", "my study", "data=我的 text.txt", "name=研究"]) == 0
    told = capsys.readouterr().out
    assert "about 300,000 bytes" in told and "scaling plan 研究" in told and "cd 'my study'" in told
    monkeypatch.chdir(place / "my study")
    assert main(["plan", "研究", "calibrate=false", "simulate=false"]) == 0
    assert "25 runs, 0 finished" in capsys.readouterr().out
    # the sweep's own runs take a minute; these are the smallest that its text and file give
    small = [
        "budget.flops=null",
        "budget.tokens_per_param=null",
        "data.val_tokens=4096",
        "train.evals=1",
    ]
    runs = ["model.params=2k,3k", "budget.tokens=4k,8k,16k", "seed=0", "hydra/launcher=here"]
    runs.append(f"data.cache={place / 'cache'}")
    assert main(["train", "研究", *small, *runs]) == 0
    assert main(["fit", "研究", "resamples=20"]) == 0
    assert json.loads(Path("results/研究/fit.json").read_text())["law"] == "chinchilla"


def test_init_without_text_takes_what_every_machine_has(place):
    assert main(["init", "first"]) == 0
    os.chdir("first")
    plans = [make_plan(p.config) for p in compose_sweep(["sweeps=first"]).points]
    assert len({p.run_id for p in plans}) == 25
    assert {p.config.data.source for p in plans} == {"stdlib"}
    assert max(p.tokens for p in plans) <= most_tokens(1.6e11)
    # the cost that the file states, within its rounding and that of steps and sizes
    assert sum(p.flops.counted * p.tokens for p in plans) == pytest.approx(1.3e12, rel=0.05)


def test_init_never_overwrites(place, capsys):
    (place / "README.md").write_text("mine")
    assert main(["init", ".", "name=one"]) == 0
    first = files_of(place)
    assert first["README.md"] == b"mine" and "left as it is: README.md" in capsys.readouterr().out
    assert main(["init", ".", "name=one"]) == 0  # the same again changes nothing
    assert main(["init", ".", "name=two"]) == 0  # another study beside it
    assert first.items() <= files_of(place).items()
    write_text(place / "text.txt", 3_000_000)
    before = files_of(place)
    assert main(["init", ".", "name=one", "data=text.txt"]) == 1
    told = capsys.readouterr().err
    assert "sweeps/one.yaml" not in told  # which would be the same
    assert "conf/data/one.yaml" in told and "Nothing was written" in told and "name=second" in told
    assert files_of(place) == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["data=nowhere.txt"], ["nowhere.txt", "no such file", "Nothing was written"]),
        (["data=latin.txt"], ["latin.txt", "not UTF-8 at byte 3"]),
        (["data=body.jsonl"], ["body.jsonl, line 1", "text_key=COLUMN"]),
        (["data=empty.txt"], ["no text in it"]),
        (["data=short.txt"], ["about 5,000 bytes", "smallest sweep takes"]),
        (["name=quickstart"], ["'quickstart' is a sweep", "name=my_quickstart"]),
        (["name=a b"], ["'a b' cannot name a sweep"]),
        (["name=null"], ["'null' cannot name a sweep"]),
        (["dta=x.txt"], ["dta: no such option", "Did you mean 'data'?"]),
        (["other"], ["'other': a second folder"]),
        (["--force"], ["'--force': a second folder"]),
    ],
    ids=lambda value: value[0],
)
def test_init_refuses_with_a_cure_and_writes_nothing(place, capsys, arguments, words):
    (place / "latin.txt").write_bytes("caf\xe9 au lait".encode("latin-1"))
    (place / "body.jsonl").write_text('{"body": "x"}\n')
    (place / "empty.txt").write_text("\n")
    write_text(place / "short.txt", 5000)
    assert main(["init", "study", *arguments]) == 1
    told = capsys.readouterr().err
    assert all(word in told for word in words), told
    assert not (place / "study").exists()


@pytest.mark.parametrize("name", ["--force", "-x", ""])
def test_init_begins_no_folder_by_a_mistyped_option(place, capsys, name):
    assert main(["init", name]) == 1
    assert "is no folder to begin in" in capsys.readouterr().err
    assert not files_of(place)


def test_init_says_that_a_folder_takes_no_file(place, capsys):
    (place / "file").touch()
    assert main(["init", "file/study"]) == 1
    assert "Not a directory. Free room, or take another folder" in capsys.readouterr().err


def test_init_keeps_signs_that_configurations_would_replace(place):
    (place / "${oc.env:HOME}").mkdir()
    text = write_text(place / "${oc.env:HOME}" / "a$b.txt", 400_000)
    assert main(["init", ".", "name=mine", f"data={text}", "question=Is ${x} \\${y} all?"]) == 0
    sweep = compose_sweep(["sweeps=mine"])
    assert {p.config.data.path for p in sweep.points} <= {str(text), "${oc.env:HOME}/a$b.txt"}
    assert sweep.design.question == "Is ${x} \\${y} all?"


def test_sweep_fits_into_the_text_it_is_made_for(place):
    for size, epochs in ((300_000, 4), (1_000_000, 4), (3_000_000, 1), (5_000_000, 1)):
        write_text(place / "some.txt", size)
        text = look_at_text("some.txt")
        scale = choose_scale(text)
        assert scale.epochs == epochs
        assert most_tokens(scale.flops) <= epochs * (text.tokens - scale.val_tokens)
        assert scale.val_tokens <= text.tokens / 10


def test_long_text_is_counted_by_its_beginning(place, monkeypatch):
    monkeypatch.setattr("scaling.cli.owntext.LOOKED_AT", 100_000)
    exact = write_text(place / "long.txt", 1_000_001).stat().st_size
    assert look_at_text("long.txt").tokens == pytest.approx(exact, rel=1e-3)
    rows = [json.dumps({"text": LINE.format(i)}, ensure_ascii=False) for i in range(20_000)]
    (place / "long.jsonl").write_text("\n".join(rows))
    # a row of JSON has 14 bytes beside 60 of text, which is allowed for; escapes are not
    exact = sum(len(LINE.format(i).encode()) for i in range(20_000))
    assert look_at_text("long.jsonl").tokens == pytest.approx(exact, rel=0.05)
    with pytest.raises(DataError, match="not UTF-8"):
        (place / "bad.txt").write_bytes(b"good\n" * 100 + b"\xff" + b"good\n" * 100)
        look_at_text("bad.txt")


def test_own_conf_adds_choices_to_groups_and_nothing_else(place, capsys):
    (place / "conf" / "data").mkdir(parents=True)
    (place / "conf" / "seed").mkdir()  # another project's folder, named as a key is
    (place / "conf" / "seed" / "1.yaml").write_text("x: 1\n")
    (place / "conf" / "train.yaml").write_text("strange: true\n")
    (place / "conf" / "data" / "mine.yaml").write_text("source: markov\nvocab: 64\n")
    point = compose_sweep(["data=mine", "model.params=10k", "seed=1"]).points[0]
    assert (point.config.data.source, point.config.data.vocab, point.config.seed) == (
        "markov",
        64,
        1,
    )
    assert main(["plan", "data=mien", "model.params=10k"]) == 1
    assert "Did you mean 'mine'?" in capsys.readouterr().err
    (place / "conf" / "data" / "mine.yaml").write_text("source: [")
    with pytest.raises(ConfigError, match="mine.yaml: not readable as YAML"):
        compose_sweep(["data=mine", "model.params=10k"])


def test_folder_names_become_names_of_sweeps(tmp_path):
    wanted = {"my study": "my_study", "2026-11": "study_2026-11", "研究": "研究", "a.b": "a_b"}
    assert {name: name_of(tmp_path / name) for name in wanted} == wanted


def test_notebook_of_a_study_is_thin():
    notebook = json.loads((TEMPLATES / "notebook.ipynb").read_text(encoding="utf-8"))
    code = [c for c in notebook["cells"] if c["cell_type"] == "code"]
    assert len(notebook["cells"]) <= 12
    for cell in code:
        assert not cell["outputs"] and "def " not in "".join(cell["source"])


@pytest.mark.slow
def test_printed_commands_work_one_after_another(tmp_path):
    text = sysconfig.get_path("stdlib") + "/argparse.py"
    text_of_own = tmp_path / "own.txt"
    text_of_own.write_text(Path(text).read_text() * 4)
    env = {**os.environ, "SCALING_CACHE": fresh_cache(tmp_path), "MPLBACKEND": "Agg"}

    def scaling(*arguments, cwd):
        done = subprocess.run([sys.executable, "-m", "scaling", *arguments], cwd=cwd, env=env, capture_output=True, text=True)  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    told = scaling("init", "study", "data=own.txt", cwd=tmp_path)
    typed = [
        line.split("   ")[0].split() for line in told.splitlines() if line.startswith("  scaling ")
    ]
    assert [words[1] for words in typed] == ["plan", "train", "fit", "verify"]
    for words in typed:
        told = scaling(*words[1:], cwd=tmp_path / "study")
    assert "90 % interval" in told
    notebook = json.loads((tmp_path / "study" / "study.ipynb").read_text())
    cells = ["".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == "code"]
    subprocess.run(
        [sys.executable, "-c", "\n".join(cells)], cwd=tmp_path / "study", env=env, check=True
    )

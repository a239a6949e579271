"""Tab completion: what may stand where the cursor is, asked of real shells."""

import os
import pty
import select
import shutil
import subprocess
import sys
import time

import pytest

from scaling.analysis.laws import names
from scaling.cli import VERBS, main
from scaling.cli.candidates import (
    FIT_KEYS,
    OF_RESULTS,
    OF_RUNS,
    OF_SWEEPS,
    RUN_KEYS,
    find_candidates,
)
from scaling.cli.complete import split_line


def offered(*words):
    return [c.text for c in find_candidates(list(words))]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with a sweep, a source and results of one's own, and the command on the path."""
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "sweeps" / "zebra.yaml").touch()
    (tmp_path / "conf" / "data").mkdir(parents=True)
    (tmp_path / "conf" / "data" / "zoo.yaml").touch()
    (tmp_path / "results" / "zulu" / "llama-n1k").mkdir(parents=True)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "scaling").write_text(
        f'#!/bin/sh\nexec "{sys.executable}" -m scaling "$@"\n'
    )
    (tmp_path / "bin" / "scaling").chmod(0o755)
    (tmp_path / "my text.txt").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    return tmp_path


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["ini"], ["init"]),
        (["nothing"], []),
        (["train", "z"], ["zebra"]),
        (["fit", "z"], ["zebra", "zulu"]),
        (["fit", "results="], []),  # a folder: the shell's own business
        (["export", "llama"], ["llama-n1k"]),
        (["train", "model.norm="], ["model.norm=layernorm", "model.norm=rmsnorm"]),
        (["train", "model.tied="], ["model.tied=false", "model.tied=true"]),
        (["train", "model=l"], ["model=llama"]),
        (["train", "model=llama,g"], ["model=llama,gpt2"]),
        (["plan", "data=z"], ["data=zipf_memory", "data=zoo"]),
        (["plan", "hydra/launcher=sl"], ["hydra/launcher=slurm"]),
        (["plan", "hydra/launcher=slurm", "hydra.launcher.part"], ["hydra.launcher.partition="]),
        (["plan", "hydra/launcher=ray", "hydra.launcher.part"], []),
        (["fit", "zulu", "target.f"], ["target.flops="]),
        (["fit", "objective=huber"], ["objective=huber", "objective=huber_log"]),
        (["forecast", "sea"], ["seal"]),
        (["completion", ""], ["bash", "fish", "zsh", "--help"][:3]),
        (["status", "--w"], ["--watch"]),
        (["doctor", "js"], ["json="]),
        (["keys", "opti"], ["optim"]),
    ],
    ids=" ".join,
)  # fmt: skip
def test_word_is_completed(place, words, wanted):
    assert offered(*words) == wanted


def test_keys_come_part_by_part(place):
    first, second = offered("train", "mo"), offered("train", "model.")
    assert first == ["model.", "model="] and "model.norm=" in second
    assert len(offered("train", "")) < 80  # groups, not two hundred keys


def test_every_verb_answers_and_every_list_names_verbs(place):
    assert {*OF_SWEEPS, *OF_RESULTS, *OF_RUNS, *FIT_KEYS, *RUN_KEYS} <= set(VERBS)
    for verb in VERBS:
        assert "--help" in offered(verb, "-"), verb
        offered(verb, "")


def test_laws_that_are_offered_exist():
    laws = {text.partition("=")[2] for text in offered("fit", "law=")}
    assert {"chinchilla", "kaplan"} < laws <= set(names())


def test_completing_loads_nothing_heavy(place):
    code = (
        "import sys; from scaling.cli import main\n"
        "main(['complete', 'fish', 'train', 'model.']); main(['complete', 'zsh', 'fit', '--help', 'law='])\n"
        "print([m for m in ('torch', 'numpy', 'hydra', 'pandas', 'yaml') if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    assert "model.norm=\tKind of normalisation" in done.stdout and "law=kaplan" in done.stdout


def test_line_is_split_as_far_as_it_is_typed():
    assert split_line("scaling train mo") == ["scaling", "train", "mo"]
    assert split_line("scaling train ") == ["scaling", "train", ""]
    assert split_line("scaling init 'my st") == ["scaling", "init", "my st"]
    assert split_line('a "b c" d\\ e') == ["a", "b c", "d\\ e"]


@pytest.mark.parametrize(
    "name", ["$(touch taken)", "`touch taken`", ";touch taken", "a b", "*", "'"]
)
def test_names_of_files_are_never_commands(place, name):
    """What Tab puts into a line of bash is one word, and it is the name."""
    (place / "results" / f"z{name}\nnot one").mkdir()
    (place / "results" / f"zq{name}").mkdir()
    line = (
        "source <(scaling completion bash); COMP_LINE='scaling fit zq'; COMP_POINT=14; COMP_WORDS=(scaling); "
        "_scaling_complete; eval \"printf '<%s>' ${COMPREPLY[*]}\""
    )
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=True)
    assert done.stdout == f"<zq{name}>" and not (place / "taken").exists()


def test_unknown_shell_is_refused_with_a_cure(capsys):
    assert main(["completion", "bsh"]) == 1
    assert "Did you mean 'bash'?" in capsys.readouterr().err


def _typed(command, keys, *, until, seconds=20.0):
    """Type keys into an interactive shell; return what it shows once `until` is there."""
    child, terminal = pty.fork()
    if child == 0:
        os.environ |= {"TERM": "dumb", "COLUMNS": "200", "HISTFILE": ""}
        os.execvp(command[0], command)
    shown, end = "", time.monotonic() + seconds
    try:
        for wait_for, key in keys:
            shown = _read_until(terminal, wait_for, end)
            os.write(terminal, key.encode())
        shown = _read_until(terminal, until, end)
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)
        os.close(terminal)
    return shown


def _read_until(terminal, text, end):
    shown = ""
    while text not in shown and time.monotonic() < end:
        if select.select([terminal], [], [], 0.2)[0]:
            shown += os.read(terminal, 4096).decode(errors="replace")
    assert text in shown, shown
    return shown


# What is typed, and what Tab makes of it.
TYPED = (
    ("scaling doc\t", "scaling doctor"),
    ("scaling train zeb\t", "scaling train zebra"),
    ("scaling train model.norm=rm\t", "scaling train model.norm=rmsnorm"),
    ("scaling train data.path=my\t", "my\\ text.txt"),
)


@pytest.mark.parametrize(("keys", "wanted"), TYPED, ids=[k.strip() for k, _ in TYPED])
def test_tab_completes_in_bash(place, keys, wanted):
    if shutil.which("bash") is None:
        pytest.skip("no bash on this machine")
    start = "PS1='READY'; source <(scaling completion bash); echo GO\n"
    _typed(
        ["bash", "--norc", "--noprofile", "-i"], [("", start), ("GO\r\nREADY", keys)], until=wanted
    )


@pytest.mark.parametrize(("keys", "wanted"), TYPED[:3], ids=[k.strip() for k, _ in TYPED[:3]])
def test_tab_completes_in_zsh(place, keys, wanted):
    if shutil.which("zsh") is None:
        pytest.skip("no zsh on this machine")
    start = "PS1=READY; source <(scaling completion zsh); echo G''O\n"
    _typed(["zsh", "-f", "-i"], [("", start), ("GO", keys)], until=wanted)


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("scaling doc", "doctor"),
        ("scaling train zeb", "zebra"),
        ("scaling train model.norm=rm", "model.norm=rmsnorm"),
        ("scaling init data=my", "data=my"),
    ],
)
def test_tab_completes_in_fish(place, line, wanted):
    if shutil.which("fish") is None:
        pytest.skip("no fish on this machine")
    code = f"scaling completion fish | source; complete -C '{line}'"
    done = subprocess.run(["fish", "--no-config", "-c", code], capture_output=True, text=True, env={**os.environ, "HOME": str(place)})  # fmt: skip
    assert wanted in done.stdout, done.stderr

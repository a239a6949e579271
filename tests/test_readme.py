"""What the README and the docs tell people to type works."""

import importlib
import json
import os
import re
import shlex
import shutil
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
from doc_pages import PAGES, README, ROOT, SAMPLE, blocks
from small_run import small_plan
from small_sweep import make_origins

from scaling.analysis.audits.claims import get_claims
from scaling.analysis.data.simulation import isoflop_grid, simulate
from scaling.analysis.laws import CHINCHILLA
from scaling.cli import VERBS, main, split_sweep
from scaling.cli.auto import Question, split_keys
from scaling.cli.compose import compose_fit
from scaling.cli.growing import FEWEST, start_growing
from scaling.training.export import export_run
from scaling.training.trainer import train_together

CHEAP = ("plan", "status", "fit", "plot", "report", "next", "keys")  # run; the others train
READERS = ("fit", "plot", "report", "next", "audit", "noise")  # these need the sweep's results
KEEPERS = ("clean", "merge", "bundle")
WEIGHTS = ("export", "evaluate")  # these need a run's kept weights
LOOKERS = (
    "attention",
    "lens",
    "induction",
    "gaps",
    "generate",
)  # tested on models and groups of their own
OWN_TEXT = ("data.tokenizer=", "data.vocab=", "objective.specials.")  # of folders that are not here
QUIZ = '{"question": "import", "choices": ["numpy", "zqxjk"], "answer": 0}\n'
FEW = {  # a small audit, and some figures: all are drawn in test_cli.py
    "audit": ["laws=chinchilla", "objectives=huber_log", "outliers=none"],
    "plot": ["figures=isoflop,frontier"],
}


def commands():
    """Every line of every sh block once, as a list of words without its comment."""
    lines = [line for page in PAGES for block in blocks(page, "sh") for line in block.splitlines()]
    words = [shlex.split(line.split(" > ")[0], comments=True) for line in lines]
    return sorted({tuple(w for w in some if w not in ("...", "&")) for some in words if some})


EPOCH = CHINCHILLA.published_set("epoch").params
SCALING = [list(c[1:]) for c in commands() if c[0] == "scaling"]
OTHER = [list(c) for c in commands() if c[0] != "scaling"]


@pytest.fixture(scope="module")
def copied(tmp_path_factory):
    """Copies of the sample, to link to: two hundred tests each take both."""
    folder = tmp_path_factory.mktemp("copied")
    for name in ("sample", "quickstart"):
        shutil.copytree(SAMPLE, folder / name)
    return folder


@pytest.fixture
def workplace(copied, tmp_path, monkeypatch):
    """A folder as after `make demo`: results of the quickstart, and the sample."""
    matplotlib.use("Agg")
    # what is written anew replaces the link and not the file
    shutil.copytree(copied, tmp_path / "results", copy_function=os.link)
    N, D = isoflop_grid(np.geomspace(1e18, 1e20, 4), points=5)
    runs = simulate("chinchilla", EPOCH, N, D, noise=0.004)
    theirs = {"n_million": N / 1e6, "seen_billion": D / 1e9, "final": runs.L}
    pd.DataFrame(theirs).to_csv(tmp_path / "runs.csv", index=False)
    (tmp_path / "runs.columns.yaml").write_text("".join(blocks(README, "yaml")))
    (tmp_path / "conf" / "model").mkdir(parents=True)
    preset = blocks(ROOT / "docs" / "own_model.md", "yaml")[1]
    (tmp_path / "conf" / "model" / "mine.yaml").write_text(preset)
    (tmp_path / "claims.yaml").write_text(blocks(ROOT / "docs" / "audit.md", "yaml")[0])
    (tmp_path / "docs.jsonl").write_text('{"text": "the cat", "language": "en"}\n' * 9000)
    (tmp_path / "sweeps").mkdir()
    own = {"mine": "trunks", "first": "tutorial", "first_next": "tutorial"}
    for name, page in own.items():
        text = blocks(ROOT / "docs" / f"{page}.md", "yaml")[0]
        (tmp_path / "sweeps" / f"{name}.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Two seeds of a tiny model on text, with their weights: a folder and its first run's plan."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "my.txt").write_text("the cat sat on the mat. 猫坐在垫子上。\n" * 500)
    said = {"en": "the cat sat on the mat", "zh": "猫坐在垫子上"}
    rows = [{"text": f"{i} {t}", "language": k} for i in range(500) for k, t in said.items()]
    (folder / "my.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    text = {
        "data.source": "text",
        "data.path": str(folder / "my.jsonl"),
        "data.vocab": 256,
        "sweep": "seeds",
    }
    plans = [small_plan(folder, **text, **{"seed": s, "budget.tokens": 2560}) for s in (0, 1)]
    train_together(plans)
    export_run(plans[0].folder, folder / "my_model")
    return folder, plans[0]


@pytest.fixture(scope="module")
def origins(tmp_path_factory):
    """A folder with the sweeps that others start from."""
    return make_origins(tmp_path_factory.mktemp("origins"))


def keep(arguments):
    """Run a command of housekeeping; what comes from elsewhere is a copy of the sample."""
    theirs = Path("elsewhere", "results").absolute()
    if "/mnt/cluster/results" in arguments:
        shutil.copytree(SAMPLE, theirs / "sample")
    assert main([str(theirs) if a == "/mnt/cluster/results" else a for a in arguments]) == 0


def ask(arguments):
    """Compose what `scaling auto` would begin with, and check what it is asked."""
    name, rest = split_sweep(arguments[1:])
    of_fit, of_training = split_keys(rest)
    question = Question.from_config(compose_fit(name, of_fit))
    growing = start_growing(name, of_training, flops=question.total, question="?", results=Path())
    assert len(growing.first) >= FEWEST


def run_on_weights(arguments, folder, plan):
    """Run a command that needs weights on the trained run."""
    name = r"^(llama|bert)-n.*|^quickstart$|^translate$|^samples$|^mysweep$"
    arguments = [re.sub(name, str(plan.folder), a) for a in arguments]
    (folder / "quiz.jsonl").write_text(QUIZ)
    for name in [a.split("=")[1] for a in arguments if a.startswith("data.validation.")]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(folder / "my.txt", folder / name)
    if arguments[0] == "export":
        shutil.rmtree(folder / arguments[2], ignore_errors=True)
    assert main(arguments) == 0


def asked_of(verb, arguments):
    """Check that a command's keys are those its help names."""
    named = importlib.import_module(VERBS[verb])
    text = getattr(named, "HELPS", {}).get(verb) or named.__doc__
    keys = [a.split("=")[0].split(".")[0] for a in arguments if "=" in a]
    assert verb in text and all(key in text for key in keys if key not in ("fixed", "where"))


def composed(arguments):
    """The plan that composes the same runs as a command that trains."""
    kept = [a for a in arguments[1:] if a != "-m" and not a.startswith(OWN_TEXT)]
    left_out = ["model.params=1M"] if kept == ["model=bert"] else []  # written as ...
    # what a design tells is simulated for one page's sake, and tested elsewhere
    simulated = [] if kept == ["isoflop"] else ["simulate=false"]
    return ["plan", *kept, *left_out, "calibrate=false", *simulated]


@pytest.mark.parametrize("arguments", SCALING, ids=" ".join)
def test_command_runs_or_at_least_composes(
    arguments, workplace, trained, capsys, monkeypatch, request
):
    if any("submitit" in a for a in arguments):
        pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    arguments = [re.sub(r"results/single/llama-n.*", str(trained[1].folder), a) for a in arguments]
    if any("model.init_from" in a for a in arguments) or arguments[:2] == ["noise", "seeds"]:
        monkeypatch.chdir(trained[0])
    if arguments[0] == "train" and ("transfer" in arguments or "sweep:" in " ".join(arguments)):
        monkeypatch.chdir(request.getfixturevalue("origins"))
    if arguments[0] in WEIGHTS and "--help" not in arguments:
        monkeypatch.chdir(trained[0])
        run_on_weights(arguments, *trained)
        return
    verb, asks_only = arguments[0], "--help" in arguments or "--cfg" in arguments
    if verb in LOOKERS and not asks_only:
        asked_of(verb, arguments[1:])
        return
    if any(a.startswith("claims=") for a in arguments):  # judged in tests/test_auditing.py
        asked_of(verb, arguments[1:])
        assert get_claims(arguments[2].split("=")[1]).params
        return
    if verb == "forecast":
        if arguments[1] == "board":  # something to count
            assert (
                main(["forecast", "seal", "sample", "target.params=400k", "target.tokens=3M"]) == 0
            )
        assert main(arguments) == (1 if arguments[1] == "score" else 0)  # nothing is trained
        return
    other = any(
        a.startswith(("loss=val_loss_", "loss=val_bpb_")) for a in arguments
    )  # a text that the sample lacks
    if verb in READERS and (
        other or not any((Path.cwd() / p / arguments[1]).exists() for p in ("", "results"))
    ):
        assert compose_fit(arguments[1], arguments[2:]).sweep == arguments[1]
        return
    if verb == "auto" and not asks_only:
        return ask(arguments)
    if verb == "merge" and arguments[1].endswith(".zip"):
        assert main(["bundle", "sample", arguments[1]]) == 0
    if "my_study" in arguments[1:2] and verb != "init":
        assert main(["init", ".", "name=my_study"]) == 0
    if verb == "doctor":  # looks at this machine, which is tested elsewhere
        arguments = ["doctor", "--help"]
    if verb == "init":
        Path("path/to").mkdir(parents=True)
        Path("path/to/text.txt").write_text("".join(f"line {i} of a text\n" for i in range(30_000)))
    if asks_only or verb in ("keys", "status", "completion", "doctor", "init"):
        # the sample is no record of today's quickstart, whose end would be waited for
        assert main([a for a in arguments if a != "--watch"]) == 0
    elif verb in KEEPERS:
        keep(arguments)
    elif verb in READERS:
        if arguments == ["report", "quickstart"]:  # a copy of the sample, whose report is written
            return
        few = [] if verb == "noise" else ["resamples=50", *FEW.get(verb, [])]
        assert main([*arguments, *few]) == 0  # the numbers are tested elsewhere
        if verb == "report":
            assert (
                "Which model size is compute-optimal between"
                in Path("results/sample/report.html").read_text()
            )
    else:
        assert main(composed(arguments)) == 0
    assert len(capsys.readouterr().out) > 20


@pytest.mark.parametrize("words", OTHER, ids=" ".join)
def test_other_command_has_what_it_names(words):
    if words[:3] == ["python", "-m", "pytest"]:
        assert all((ROOT / path).exists() for path in words[3:])
    elif words[0] == "python":
        assert (ROOT / words[2].replace(".", "/")).with_suffix(".py").exists()
    elif words[0] == "make":
        assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
    else:
        known = ("cd", "torchrun", "srun", "scancel", "ray", "SCALING_JOBS=6", "echo", "lm_eval")
        assert words[0] in known or words[:2] == ["pip", "install"]


@pytest.mark.parametrize("name", ["generation", "huggingface"])
def test_python_that_needs_weights_runs(name, trained, monkeypatch):
    monkeypatch.chdir(trained[0])
    for block in blocks(ROOT / "docs" / f"{name}.md", "python"):
        ours = re.sub(r"results/gallery/llama-n[\w-]+", str(trained[1].folder), block)
        exec(compile(ours, name, "exec"), {})

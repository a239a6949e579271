"""Files from somebody else run no code, whatever they hold."""

from __future__ import annotations

import ast
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from disturbed import assert_alike, interrupted
from small_run import small_plan

from scaling.analysis.allocation import design
from scaling.study.errors import DataError
from scaling.training.checkpoint import list_checkpoints
from scaling.training.data import prepare
from scaling.training.data.build import prepared_folder
from scaling.training.trainer import train

OFTEN = {"train.checkpoint_seconds": 1e-6}


class Bomb:
    """What a pickle from somebody else may do to whoever opens it."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_pickle_in_place_of_a_checkpoint_is_refused_and_runs_nothing(tmp_path, undisturbed):
    plan, trace = interrupted(tmp_path), tmp_path / "code_was_run"
    newest, older = list_checkpoints(plan.folder)
    newest.write_bytes(pickle.dumps(Bomb(trace)))
    torch.save(Bomb(trace), older)
    assert_alike(plan, undisturbed)
    assert not trace.exists()
    notes = (plan.folder / "notes.log").read_text()
    assert notes.count(": damaged") == 2 and "starts again from the first step" in notes


def test_pickle_in_place_of_prepared_numbers_is_refused(tmp_path):
    plan, trace = small_plan(tmp_path), tmp_path / "code_was_run"
    prepare(plan.config.data, context=32)
    path = prepared_folder(plan.config.data) / "true_logprob.npy"
    np.save(path, np.array([Bomb(trace)], object), allow_pickle=True)
    with pytest.raises(DataError, match=r"true_logprob\.npy: damaged .* Delete the folder"):
        train(plan)
    assert not trace.exists()


def test_no_module_can_load_code_from_a_file():
    loaders = {
        "load": {"torch", "pickle", "joblib", "dill"},
        "loads": {"pickle", "marshal", "dill"},
    }
    unsafe = {"eval", "exec", "read_pickle", "unsafe_load", "full_load", "import_module"}
    # processes of one run, started together, talk in pickles; verbs are modules of this package; YAML is
    # read by the safe loader's form in C
    known = {
        ("world.py", "loads"), ("cli/__init__.py", "import_module"), ("scaling/__init__.py", "import_module"),
        ("cli/stopping.py", "import_module"), ("allocation/design.py", "load"),
    }  # fmt: skip
    assert issubclass(design._LOADER, yaml.SafeLoader | yaml.CSafeLoader)
    root = Path(__file__).parents[1] / "scaling"
    for path in root.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            function = node.func
            name = getattr(function, "attr", getattr(function, "id", ""))
            owner = getattr(getattr(function, "value", None), "id", "")
            if any(str(path).endswith(file) and name == call for file, call in known):
                continue
            plain = isinstance(function, ast.Name)  # model.eval() is another thing
            assert owner not in loaders.get(name, ()), f"{path}:{node.lineno}"
            assert not (name in unsafe and (plain or name not in ("eval", "exec"))), f"{path}:{node.lineno}"  # fmt: skip
            assert not (name == "load" and owner == "yaml"), f"{path}:{node.lineno}"

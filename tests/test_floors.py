"""Imports go downwards only, the wings never meet, and the front door is light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import scaling

ROOT = Path(scaling.__file__).parent
ALLOWED = {  # a floor may import itself and what is listed
    "study": {"study"},
    "training": {"study", "training"},
    "analysis": {"study", "analysis"},
    "present": {"study", "analysis", "present"},
    "cli": {"study", "training", "analysis", "present", "cli"},
}
HOMES = {
    "hydra": {"cli"},
    "omegaconf": {"cli"},
    "matplotlib": {"present"},
    "torch": {"training"},
    "wandb": {"training", "analysis"},
    "scipy": {"study", "analysis", "training"},
}


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_downwards_only(path):
    floor = path.relative_to(ROOT).parts[0]
    for name in imports(path):
        parts = name.split(".")
        if parts[0] == "scaling" and len(parts) > 1 and floor in ALLOWED:
            assert parts[1] in ALLOWED[floor], f"{floor} imports {name}"
        if parts[0] in HOMES and floor in ALLOWED:
            assert floor in HOMES[parts[0]], f"{floor} imports {name}"


@pytest.mark.parametrize(
    "code", ["import scaling", "from scaling.cli import main; main(['--help'])"]
)
def test_front_door_loads_nothing_heavy(code):
    heavy = (
        "torch",
        "wandb",
        "matplotlib",
        "pandas",
        "scipy",
        "numpy",
        "hydra",
        "omegaconf",
        "rich",
    )
    script = f"{code}\nimport sys; print([m for m in {heavy} if m in sys.modules], file=sys.stderr)"
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert result.stderr.strip() == "[]"


def test_lazy_names_all_exist():
    for name in scaling.__all__:
        assert getattr(scaling, name) is not None


def test_training_alone_loads_neither_compiler_nor_several_processes():
    code = """if True:
        import sys, torch, scaling.training.trainer
        from scaling.study.config import OptimConfig
        from scaling.training.optim import build_optimizer
        build_optimizer(torch.nn.Linear(2, 2), OptimConfig(), lr=0.1, weight_decay=0.1)
        print([m for m in sys.modules if "fsdp" in m or m == "torch._dynamo"])
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (
        done.stdout.strip() == "[]"
    )  # FSDP takes two seconds to import, the compiler one and more

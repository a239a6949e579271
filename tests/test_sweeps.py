"""Every file of conf/ and sweeps/ composes, and every sweep says truly what it costs."""

import re
from pathlib import Path

import pytest
from small_sweep import make_origins

from scaling.cli.compose import compose, compose_sweep
from scaling.cli.sweep import unique_plans
from scaling.study.trunks import find_trunks

ROOT = Path(__file__).parent.parent
SWEEPS = sorted((ROOT / "sweeps").glob("*.yaml"))
CHOICES = sorted(p for p in (ROOT / "conf").glob("*/*.yaml") if p.parent.name != "hydra")


def header(path):
    """The comments before the first setting, as one line."""
    lines = path.read_text().split("\n\n")[0].splitlines()
    comments = [line[1:].strip() for line in lines if line.startswith("#")]
    return " ".join(comments)


def cost(text):
    """Runs and FLOPs of a sentence such as `25 runs, 7.2e12 FLOPs, about two minutes`."""
    found = re.search(r"(\d+) runs, ([\d.]+e\d+) FLOPs", text)
    assert found, f"no `N runs, X FLOPs` in: {text}"
    return int(found[1]), float(found[2])


@pytest.fixture(scope="module", params=SWEEPS, ids=lambda p: p.stem)
def planned(request, tmp_path_factory):
    """A sweep file, its composition and all its plans."""
    with pytest.MonkeyPatch.context() as patch:
        if "sweep:" in request.param.read_text():  # it starts from another's runs
            patch.chdir(make_origins(tmp_path_factory.mktemp("origins")))
        sweep = compose_sweep([f"sweeps={request.param.stem}"])
        return request.param, sweep, [plan for _, plan in unique_plans(sweep.points)]


def test_sweep_has_the_name_of_its_file(planned):
    path, sweep, _ = planned
    assert sweep.name == path.stem


def test_sweep_opens_with_question_and_cost(planned):
    path, sweep, _ = planned
    assert path.read_text().startswith("# @package _global_\n# Question: ")
    assert re.search(r"Question: .+\? .*Cost: +\d", header(path))
    assert sweep.design.question.endswith("?")


def test_sweep_costs_what_it_says(planned):
    path, sweep, plans = planned
    each = sum(plan.flops_counted for plan in plans)
    shared = sum(trunk.shared_flops for trunk in find_trunks(plans))
    for text in (header(path), sweep.design.cost):
        runs, stated = cost(text)
        flops = each - shared if "after sharing trunks" in text else each
        assert runs == len(plans)
        assert stated == pytest.approx(flops, rel=0.05)  # stated to two digits


def test_sweep_plans_every_run_once(planned):
    _, sweep, plans = planned
    assert len(plans) == len(sweep.points)
    for plan in plans:
        # a size is met within 1 % from 10k on; below, one channel more or less can be 2 %
        assert plan.params == pytest.approx(
            plan.params_target, rel=0.01 if plan.params > 1e4 else 0.02
        )
        # tokens are whole steps, so within half a step
        assert abs(plan.tokens - plan.tokens_target) <= plan.batch_tokens / 2 + 1


@pytest.mark.parametrize("path", CHOICES, ids=lambda p: f"{p.parent.name}={p.stem}")
def test_choice_of_a_group_composes(path):
    sweep = compose_sweep([f"{path.parent.name}={path.stem}", "model.params=50k"])
    assert len(sweep.points) == 1
    stated = dict(re.findall(r"^(\w+): *([\w.]+)", path.read_text(), re.MULTILINE))
    group = getattr(sweep.points[0].config, path.parent.name)
    name = stated.get("source") or stated.get("family") or stated["name"]
    assert name in (getattr(group, "source", None), getattr(group, "family", None), group.__dict__.get("name"))  # fmt: skip


@pytest.mark.parametrize("path", sorted((ROOT / "conf/hydra/launcher").glob("*.yaml")), ids=lambda p: p.stem)  # fmt: skip
def test_launcher_composes(path):
    cfg = compose("train", ["model.params=50k", f"hydra/launcher={path.stem}"])
    assert cfg.hydra.launcher._target_.endswith("Launcher")


def test_fit_composes():
    assert compose("fit", []).law == "chinchilla"

"""Sweeps on Ray: workers, machines and the launching process may die, and losses stay the same."""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
from types import SimpleNamespace

import pytest
from small_run import small_plan
from sweep_run import kill_a_saved_run, losses, records, saved_claims, start_sweep, wait_until

from hydra_plugins.scaling_lab.ray_launcher import Place, RayLauncher, _describe, _fits, run_task
from scaling.cli import main
from scaling.cli.workers import PROCESS_BYTES
from scaling.study.errors import ConfigError, TrainError

ON_RAY = ("hydra/launcher=ray", "+hydra.launcher.init.num_cpus=2")
SWEEP = ("seed=1,2,3", "budget.tokens=300k", "train.checkpoint_seconds=0.2")
needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="Ray is not installed: pip install ray"
)


def test_machines_take_as_many_runs_as_each_holds():
    node = {"CPU": 8.0, "GPU": 2.0, "memory": 10e9}
    assert _fits(node, {"CPU": 1}) == 8
    assert _fits(node, {"CPU": 1, "GPU": 1}) == 2
    assert _fits(node, {"CPU": 1, "GPU": 0.4}) == 4  # two shares on each GPU, none of two halves
    assert _fits(node, {"CPU": 0.1}) == 80
    assert _fits(node, {"CPU": 1, "memory": 4e9}) == 2
    assert _fits(node, {"CPU": 1, "a100": 1}) == 0
    assert _describe({"CPU": 1, "memory": 2**30}) == "1 CPU, 1 GiB of memory"


def test_missing_ray_is_answered_in_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SCALING_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(sys.modules, "ray", None)
    run = ["model.params=3k", "budget.tokens=4k", "data=markov", "data.vocab=64", "data.size=40k"]
    assert main(["train", "-m", *run, "hydra/launcher=ray", "seed=1,2"]) == 1
    line, more = capsys.readouterr().err.splitlines()
    assert more.endswith("docs/launchers.md#ray")
    assert "pip install 'scaling-lab[ray]', or take hydra/launcher=local" in line


@needs_ray
def test_address_where_nobody_listens_is_answered_at_once():
    with pytest.raises(
        ConfigError, match=r"cannot be reached or started with '127.0.0.1:1' \(.*refused"
    ):
        RayLauncher(address="127.0.0.1:1")._connect()


def test_folder_that_a_machine_lacks_is_named(tmp_path):
    result = run_task(None, Place(str(tmp_path / "没有 这里"), {}), 0, ["seed=1"])
    with pytest.raises(TrainError, match=r"没有 这里: not on machine .* share the folder"):
        _ = result.return_value


def cluster(*nodes):
    """A connected ray, as far as a launcher asks it."""
    total = {k: sum(n.get(k, 0) for n in nodes) for n in nodes for k in n}
    return SimpleNamespace(
        cluster_resources=lambda: total,
        nodes=lambda: [{"Alive": True, "Resources": n} for n in nodes],
    )


def prepared(plans, *nodes, **options):
    launcher = RayLauncher(**options)
    launcher._connect = lambda: cluster(*nodes)
    return launcher, launcher.prepare(plans)


def test_runs_ask_for_what_the_cluster_has(tmp_path):
    plan = small_plan(tmp_path, **{"train.device": "auto"})
    launcher, at_once = prepared([plan], {"CPU": 4, "memory": 8e9})
    assert launcher.needs["num_gpus"] == 0 and at_once == 4
    assert PROCESS_BYTES < launcher.needs["memory"] < 1.1 * PROCESS_BYTES  # the model has 1 MB
    launcher, at_once = prepared([plan], {"CPU": 16, "GPU": 4.0, "memory": 64e9})
    assert (launcher.needs["num_gpus"], launcher.needs["memory"], at_once) == (1, None, 4)
    launcher, at_once = prepared([small_plan(tmp_path)], {"CPU": 16, "GPU": 4.0, "memory": 64e9})
    assert (launcher.needs["num_gpus"], at_once) == (0, 16)  # train.device=cpu


def test_what_no_machine_has_is_said(tmp_path, capsys):
    node = {"CPU": 4, "memory": 8e9}
    with pytest.raises(ConfigError, match=r"no machine has the 1 CPU, 2 GPU that a run asks for"):
        prepared([small_plan(tmp_path)], node, num_gpus=2)
    _, at_once = prepared([small_plan(tmp_path)], node, num_gpus=2, address="auto")
    assert at_once is None  # a cluster of somebody's may grow
    assert "Waiting for one that has" in capsys.readouterr().err


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The sweep's losses where one run after another trains in one process."""
    folder = tmp_path_factory.mktemp("undisturbed")
    assert start_sweep(folder, *SWEEP).wait(600) == 0
    return losses(folder)


@needs_ray
@pytest.mark.slow
def test_run_whose_ray_worker_is_killed_ends_with_the_same_losses(tmp_path, undisturbed):
    folder = tmp_path / "有 空格"
    folder.mkdir()
    sweep = start_sweep(folder, *SWEEP, *ON_RAY)
    killed = kill_a_saved_run(folder)
    said = sweep.communicate(timeout=600)[0]
    assert sweep.returncode == 0, said
    assert "Ray on this machine: 2 runs at once" in said and "3/3" in said
    assert losses(folder) == undisturbed
    assert {i for i, r in records(folder).items() if r.resumes} == {killed}


@needs_ray
@pytest.mark.slow
def test_killed_driver_and_ctrl_c_leave_what_the_same_command_ends(tmp_path, undisturbed):
    # 1. the launching process is killed, and its cluster with it
    sweep = start_sweep(tmp_path, *SWEEP, *ON_RAY)
    wait_until(lambda: any(tmp_path.rglob("*.safetensors")))
    sweep.kill()
    sweep.wait(60)
    # 2. again, and Ctrl-C: runs in progress save where they are
    sweep = start_sweep(tmp_path, *SWEEP, *ON_RAY)
    wait_until(lambda: sum(r.status == "running" and r.resumes for r in records(tmp_path).values()))
    os.kill(sweep.pid, signal.SIGINT)
    said = sweep.communicate(timeout=120)[0]
    assert sweep.returncode == 130 and "Traceback" not in said
    stopped = [r for r in records(tmp_path).values() if r.status == "running"]
    assert stopped and all("interrupted by SIGINT" in r.reason for r in stopped)
    assert not list(tmp_path.rglob("claim.json"))
    # 3. and to the end
    sweep = start_sweep(tmp_path, *SWEEP, *ON_RAY)
    assert sweep.wait(600) == 0
    assert losses(tmp_path) == undisturbed


@needs_ray
@pytest.mark.slow
def test_machine_that_dies_hands_its_run_to_another(tmp_path, undisturbed):
    from ray.cluster_utils import Cluster

    own = {"num_cpus": 1, "object_store_memory": 100 * 2**20}
    ray_cluster = Cluster(initialize_head=True, head_node_args=own)
    try:
        second = ray_cluster.add_node(**own)
        sweep = start_sweep(
            tmp_path, *SWEEP, "hydra/launcher=ray", f"hydra.launcher.address={ray_cluster.address}"
        )
        wait_until(lambda: len(saved_claims(tmp_path)) == 2)  # one on each
        ray_cluster.remove_node(second, allow_graceful=False)
        said = sweep.communicate(timeout=600)[0]
        assert sweep.returncode == 0, said
    finally:
        ray_cluster.shutdown()
    assert losses(tmp_path) == undisturbed
    assert sum(r.resumes for r in records(tmp_path).values()) == 1

"""The launcher of several processes on this machine: what each sees, and what a kill costs."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from hydra import compose as hydra_compose
from hydra.core.global_hydra import GlobalHydra
from hydra.types import HydraContext
from sweep_run import kill_a_saved_run, losses, records, start_sweep

from hydra_plugins.scaling_lab.local_launcher import LocalLauncher
from scaling.cli.compose import _hydra
from scaling.cli.workers import count_cores
from scaling.study.errors import TrainError

NAMES = ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS")


def look(cfg) -> dict:
    """Return what a job sees of its process; seed 3 is killed whenever it runs, seed 4 once."""
    trace = Path(f"killed-{cfg.seed}")
    if cfg.seed == 3 or (cfg.seed == 4 and not trace.exists()):
        trace.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return {"pid": os.getpid(), "seed": cfg.seed} | {n: os.environ.get(n) for n in NAMES}


def launch(seeds, **options):
    """Launch jobs by seed as Hydra would."""
    from hydra._internal.callbacks import Callbacks

    with _hydra():
        loader = GlobalHydra.instance().config_loader()
        cfg = hydra_compose("train", ["hydra/launcher=local"], return_hydra_config=True)
        launcher = LocalLauncher(**options)
        context = HydraContext(config_loader=loader, callbacks=Callbacks())
        launcher.setup(hydra_context=context, task_function=look, config=cfg)
        return launcher.launch([[f"seed={s}"] for s in seeds], initial_job_idx=0)


@pytest.fixture(autouse=True)
def _place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)


def test_workers_see_one_gpu_each_and_their_share_of_the_cores():
    saw = [r.return_value for r in launch([0, 1], gpus=[5, "MIG-7"])]
    assert [s["seed"] for s in saw] == [0, 1]  # in the order of the jobs
    assert {s["CUDA_VISIBLE_DEVICES"] for s in saw} == {"5", "MIG-7"}
    assert len({s["pid"] for s in saw} | {os.getpid()}) == 3
    assert {s["OMP_NUM_THREADS"] for s in saw} == {str(max(1, count_cores() // 2))}


def test_killed_worker_is_replaced_and_takes_nobody_with_it(capsys):
    results = launch([0, 3, 4, 1], n_jobs=2, gpus=[], retries=1)
    assert [r.status.name for r in results] == ["COMPLETED", "FAILED", "COMPLETED", "COMPLETED"]
    with pytest.raises(TrainError, match=r"killed from outside 2 times, .* same command goes on"):
        _ = results[1].return_value
    said = capsys.readouterr().err
    assert said.count("its runs go on in a new one") == 2  # of seeds 3 and 4, each once


def test_one_place_is_this_process():
    (result,) = launch([0], n_jobs=1, gpus=[])
    assert result.return_value["pid"] == os.getpid()
    (result,) = launch([0], n_jobs=1, gpus=[2])  # its GPU has to be set before CUDA starts
    assert result.return_value["pid"] != os.getpid()
    assert result.return_value["CUDA_VISIBLE_DEVICES"] == "2"


@pytest.mark.slow
def test_run_whose_worker_is_killed_ends_with_the_same_losses(tmp_path):
    arguments = ("seed=1,2,3", "budget.tokens=300k", "train.checkpoint_seconds=0.2")
    launcher = ("hydra/launcher=local", "hydra.launcher.n_jobs=2")
    (tmp_path / "whole").mkdir()
    whole = start_sweep(tmp_path / "whole", *arguments)
    assert whole.wait(300) == 0
    (tmp_path / "hit").mkdir()
    hit = start_sweep(tmp_path / "hit", *arguments, *launcher)
    killed = kill_a_saved_run(tmp_path / "hit")
    said = hit.communicate(timeout=300)[0]
    assert hit.returncode == 0 and "its runs go on in a new one" in said
    assert losses(tmp_path / "hit") == losses(tmp_path / "whole")
    assert {i for i, r in records(tmp_path / "hit").items() if r.resumes} == {killed}

"""Places: how many runs train at once on this machine, on which GPU, and in how much memory."""

from __future__ import annotations

import pytest
from small_run import small_plan

from scaling.cli.compose import compose
from scaling.cli.workers import (
    CONTEXT_BYTES,
    KEEP_FREE,
    PROCESS_BYTES,
    Places,
    _fit_cores,
    _fit_gpus,
    _need,
    count_cores,
    find_places,
    local_workers,
)
from scaling.study.errors import ConfigError
from scaling.training.gpus import visible_gpus


def launcher(**changes):
    return {"n_jobs": -1, "per_gpu": 1, "gpus": None} | changes


def test_places_without_gpus_are_one_per_core():
    assert find_places(launcher(gpus=[]), ["auto"]).gpus == (None,) * count_cores()
    assert find_places(launcher(n_jobs=3, gpus=[]), ["auto"]).gpus == (None,) * 3


def test_runs_are_spread_over_gpus_before_any_has_two():
    assert find_places(launcher(gpus=[0, 1], per_gpu=2), ["auto"]).gpus == ("0", "1", "0", "1")
    three = find_places(launcher(gpus=[0, 1], per_gpu=2, n_jobs=3), ["cuda"])
    assert three.gpus == ("0", "1", "0")
    assert three.describe(2) == "2 runs at once on GPU 0, 1"
    assert three.describe(20) == "3 runs at once on GPU 0, 1, at most 2 on each"
    assert find_places(launcher(gpus=["MIG-a"]), ["auto"]).gpus == ("MIG-a",)


@pytest.mark.parametrize("device", ["cpu", "cuda:1"])
def test_runs_for_the_cpu_or_for_one_gpu_get_none_chosen_for_them(device):
    assert set(find_places(launcher(gpus=[0, 1], n_jobs=2), [device]).gpus) == {None}


@pytest.mark.parametrize("wrong", [{"n_jobs": 0}, {"per_gpu": 0}])
def test_no_run_at_once_is_refused(wrong):
    with pytest.raises(ConfigError, match=f"hydra.launcher.{next(iter(wrong))}: at least 1 run"):
        find_places(launcher(**wrong), ["auto"])


def test_gpus_are_named_as_cuda_visible_devices_names_them(tmp_path, monkeypatch):
    assert visible_gpus({}, devices=tmp_path) == []
    (tmp_path / "nvidia0").touch()
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert visible_gpus({}, devices=tmp_path) == ["0", "1"]
    named = {"CUDA_VISIBLE_DEVICES": "GPU-8f, 3,-1,2"}  # CUDA stops at the first that is no device
    assert visible_gpus(named, devices=tmp_path) == ["GPU-8f", "3"]


def test_places_are_as_many_as_the_memory_holds(tmp_path):
    small = small_plan(tmp_path, **{"train.stack": 1})
    large = small_plan(tmp_path, **{"train.stack": 1, "model.width": 256})
    plans, four = [large, small, small_plan(tmp_path, **{"train.stack": 1, "seed": 1})], Places((None,) * 4)  # fmt: skip
    needs = [_need(large), _need(small), _need(small)]
    assert needs[0] > 10 * needs[1]
    three = (sum(needs) + 3 * PROCESS_BYTES) / (1 - KEEP_FREE)
    assert _fit_cores(four, plans, free=three * 1.01) == four  # there are no more than three jobs
    two = _fit_cores(four, plans, free=three * 0.99)
    assert len(two) == 2
    assert two.note.startswith("2 runs at once rather than 3: one holds up to ")
    assert (
        len(_fit_cores(four, plans, free=1.0)) == 1
    )  # a run alone says itself that it does not fit


def test_gpus_share_as_their_memory_allows(tmp_path):
    plans = [small_plan(tmp_path, **{"seed": s, "train.stack": 1}) for s in range(8)]
    six = find_places(launcher(gpus=[0, 1], per_gpu=3), ["auto"])
    each = (_need(plans[0]) + CONTEXT_BYTES) / (1 - KEEP_FREE)
    assert _fit_gpus(six, plans, free=3.01 * each) == six
    four = _fit_gpus(six, plans, free=2.99 * each)
    assert four.gpus == ("0", "1", "0", "1") and "2 runs on a GPU rather than 3" in four.note


def test_launchers_say_how_many_train_at_once():
    def count(*overrides):
        return local_workers(compose("train", [*overrides]))

    assert count() is None and count("hydra/launcher=here") is None
    assert count("hydra/launcher=local", "hydra.launcher.n_jobs=3") == 3
    assert count("hydra/launcher=local", "hydra.launcher.gpus=[0,1]") == 2
    assert count("hydra/launcher=joblib") == count_cores()

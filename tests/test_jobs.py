"""Jobs: runs that share a trunk reach one process, and come out as they were planned."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
from hydra import compose as hydra_compose
from hydra.core.hydra_config import HydraConfig
from small_run import small_plan

from scaling.cli.compose import (
    _hydra,
    compose,
    compose_sweep,
    to_run_config,
    without_hydra,
)
from scaling.cli.jobs import TOGETHER, _changes, arrange_jobs, further_configs, stack_sizes
from scaling.cli.overrides import as_override
from scaling.cli.rounds import find_failures, report_failures
from scaling.cli.sweep import unique_plans
from scaling.cli.train import train_task
from scaling.study.plan import make_plan
from scaling.study.record import read_record

SWEEP = ["model.params=10k,30k", "budget.tokens=50k,100k,200k", "model.context=64"]


def arranged(*overrides):
    return arrange_jobs(unique_plans(compose_sweep([*SWEEP, *overrides]).points))


def test_budgets_of_one_model_are_one_job():
    jobs = arranged("optim.horizon=50k")
    assert [len(job.plans) for job in jobs] == [3, 3]
    assert [job.plans[0].tokens > 190e3 for job in jobs] == [True, True]  # the longest first
    assert jobs[0].plans[0].params > jobs[1].plans[0].params  # the dearest job first
    # 20 % cooldown: 0.8 x (50k + 100k) of 350k tokens are shared
    assert jobs[0].flops == pytest.approx(
        sum(p.flops_counted for p in jobs[0].plans) * 230 / 350, rel=0.01
    )  # budgets are whole steps


def test_runs_by_their_own_rules_are_jobs_of_their_own():
    assert [len(job.plans) for job in arranged()] == [1] * 6


def test_design_with_trunks_sets_the_smallest_budget_as_horizon(tmp_path, monkeypatch):
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "sweeps" / "mine.yaml").write_text(
        "# @package _global_\nsweep: mine\nmodel: {context: 64}\n"
        "design: {trunks: true, grid: {model.params: [10k, 30k], budget.flops: [1e9, 4e9]}}\n"
    )
    monkeypatch.chdir(tmp_path)
    plans = [p for _, p in unique_plans(compose_sweep(["sweeps=mine"]).points)]
    horizons = {p.shape.width: set() for p in plans}
    for p in plans:
        horizons[p.shape.width].add(p.config.optim.horizon)
    assert sorted(h.pop() for h in horizons.values()) == sorted(
        min(p.tokens_target for p in plans if p.shape.width == w) for w in horizons
    )
    assert len(arrange_jobs(unique_plans(compose_sweep(["sweeps=mine"]).points))) == 2


def test_job_hands_its_runs_over_as_they_were_planned():
    for job in arranged("optim.horizon=50k", "data.source=text", "data.path='a, \"b\".txt'"):
        cfg = without_hydra(compose("train", ["optim.horizon=50k", "model.context=64", *job.overrides()]))  # fmt: skip
        config = to_run_config(cfg)
        sent = [
            make_plan(c).config.budget for c in (config, *further_configs(config, cfg.together))
        ]
        assert sent == [p.config.budget for p in job.plans]


def test_paths_with_quotes_and_chinese_survive_the_way_to_a_worker(tmp_path):
    plans = [small_plan(tmp_path, **{"seed": s, "results": f'it\'s "{s}" 结果\\'}) for s in (0, 1)]
    text = as_override(TOGETHER, json.dumps([_changes(plans[0].config, plans[1].config)]))
    cfg = without_hydra(compose("train", ["model.params=1M", text]))
    assert further_configs(plans[0].config, cfg.together) == [plans[1].config]


def test_worker_trains_all_runs_of_its_job(tmp_path):
    tiny = [
        "model.layers=2", "model.width=16", "model.heads=2", "model.context=32", "data.source=markov",
        "data.vocab=32", "data.size=40000", "data.val_tokens=512", f"data.cache={tmp_path}/cache",
        f"results={tmp_path}/results", "optim.horizon=2048", "train.evals=1",
    ]  # fmt: skip
    sweep = compose_sweep([*tiny, "budget.tokens=2048,4096"])
    (job,) = arrange_jobs(unique_plans(sweep.points))
    with _hydra():
        cfg = hydra_compose("train", overrides=[*tiny, *job.overrides()], return_hydra_config=True)
        cfg.hydra.mode = "MULTIRUN"
        HydraConfig.instance().set_config(cfg)
        result = train_task(without_hydra(cfg))
    assert set(result) == {p.run_id for p in job.plans}
    assert [read_record(p.folder).status for p in job.plans] == ["done", "done"]
    assert read_record(job.plans[1].folder).parent == job.plans[0].run_id


def test_failures_are_told_by_run(tmp_path, capsys):
    jobs = arranged("optim.horizon=50k", f"results={tmp_path}")
    results = [
        SimpleNamespace(_return_value=ValueError("no disk")),
        SimpleNamespace(_return_value={}),
    ]
    errors = find_failures(results, jobs)
    report_failures(errors, {})
    text = capsys.readouterr().err
    assert len(errors) == 3 and text.count("no disk") == 1
    assert all(p.run_id in text for p in jobs[0].plans)


def test_seeds_of_one_shape_are_one_job_where_a_stack_is_faster():
    small = ["model.params=10k", "model.context=64", "budget.tokens=50k", "train.device=cpu"]
    points = unique_plans(compose_sweep([*small, "seed=0,1,2,3,4,5,6,7"]).points)
    (job,) = arrange_jobs(points)
    assert sorted(p.config.seed for p in job.plans) == list(range(8))
    assert [len(j.plans) for j in arrange_jobs(points, workers=2)] == [4, 4]  # no worker waits
    sizes = stack_sizes([plan for _, plan in points], workers=2)
    assert sizes == {plan.run_id: 4 for _, plan in points}
    alone = unique_plans(compose_sweep([*small, "seed=0,1", "train.stack=1"]).points)
    assert len(arrange_jobs(alone)) == 2


def test_runs_for_a_machine_that_is_not_this_one_are_jobs_of_their_own():
    sweep = ["model.params=10k", "budget.tokens=50k", "model.context=64", "seed=0,1"]
    plans = compose_sweep([*sweep, "train.device=cuda:7"]).points
    assert [len(job.plans) for job in arrange_jobs(unique_plans(plans))] == [1, 1]

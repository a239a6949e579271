"""Composition: sweeps give the configurations that Hydra gives, and every file composes."""

import pytest

from scaling.cli import sweep_names
from scaling.cli.compose import (
    compose,
    compose_fit,
    compose_sweep,
    run_config,
    to_run_config,
    without_hydra,
)
from scaling.cli.overrides import as_override
from scaling.study.config import RunConfig, config_keys, config_values
from scaling.study.errors import ConfigError, ScalingError
from scaling.study.paths import data_dir
from scaling.study.plan import make_plan

SIZED = ["model.params=1M", "budget.tokens=20M"]


@pytest.fixture(scope="module")
def base():
    return without_hydra(compose("train", SIZED))


def by_hydra(*overrides):
    return to_run_config(without_hydra(compose("train", [*SIZED, *overrides])))


def quickly(base, *overrides):
    def never(_):
        raise AssertionError("composed again")

    return run_config(base, overrides, never)


@pytest.mark.parametrize(
    "override",
    [
        "budget.tokens=1e7", "budget.tokens=10M", "budget.tokens=10_000_000", "budget.tokens=2.5e+6", "model.params=.5M",
        "optim.weight_decay=0", "optim.weight_decay=null", "optim.lr=1e-05", "seed=7", "model.params=1048576.0",
        "model.tied=true", "model.tied=False", "train.compile=TRUE", "model.layers=2",
        "optim.schedule=cosine", "optim.schedule='cosine'", 'data.path="a b.txt"', "data.path='it\\'s.txt'", "data.path=a/b-c.txt",
        "data.path=null", "data.path='null'", "sweep=a.b-c", "results=/tmp/x y", "train.device=cuda:1", "optim.schedule= cosine",
        "data.val_tokens=${model.context}", "data.cache=${results}/cache",
    ],
)  # fmt: skip
def test_value_is_read_as_hydra_reads_it(base, override):
    assert quickly(base, override) == by_hydra(override)


@pytest.mark.parametrize(
    "override",
    ["model.params=[1M,2M]", "seed=1.5", "seed=true", "model.tied=1", "optim.schedule=linear", "sweep=2024", "data.path=???",
     "model.layers={a: 1}", "model.context=null", "seed.x=1", "model.n_layers=3"],
)  # fmt: skip
def test_value_that_hydra_or_the_schema_refuses_is_refused(base, override):
    for read in (lambda o: quickly(base, o), by_hydra):
        with pytest.raises(ScalingError):
            read(override)


def test_every_key_can_be_swept(base):
    """A value other than the default for each key, all in one composition."""
    special = {
        "data.source": "ngram",
        "optim.name": "adamw",
        "data.validation": {"other": "text"},
        "objective.specials": {"mask": 4},
        "budget.tokens": "3M",
        "budget.flops": None,
        "budget.tokens_per_param": None,
    }
    other = {}
    for key in config_keys():
        values = [c for c in key.choices if c != key.default] or [{"text": "name", "true/false": not key.default}.get(
            key.type.split(" or ")[0], 1 if key.default != 1 else 2)]  # fmt: skip
        other[key.name] = special.get(key.name, values[0])
    for name in ("model.width", "model.layers", "model.ffn"):  # the size is given by params
        other[name] = None
    other |= {
        "model.context": 16,
        "optim.beta1": 0.5,
        "optim.beta2": 0.5,
        "model.rotary_base": 500,
        "data.vocab": 64,
        "data.classes": 2,
        "data.target_tokens": 8,
        "data.size": 5000,
        "claim.takeover": "10min",
        "optim.warmup": 0.5,
        "optim.cooldown": 0.5,
    }
    overrides = [as_override(name, value) for name, value in other.items()]
    config = quickly(base, *overrides)
    assert config == by_hydra(*overrides)
    changed = {key.name for key, value in config_values(config) if value != key.default}
    assert len(changed) >= len(list(config_keys())) - 8, "nearly every key was really changed"


@pytest.mark.parametrize(
    "value",
    [
        "a b",
        "a,b",
        "it's",
        "x=1",
        "[1]",
        "{a}",
        "40M",
        "\\d",
        "\\",
        "a\\'b",
        "中文",
        "",
        True,
        None,
        3,
        1e-5,
    ],
)
def test_override_of_a_value_reads_back(base, value):
    key = {bool: "model.tied", int: "seed", float: "optim.lr"}.get(type(value), "data.path")
    config = quickly(base, as_override(key, value))
    assert {k.name: v for k, v in config_values(config)}[key] == value
    assert config == by_hydra(as_override(key, value))


def test_interpolation_in_a_sweep_file_follows_the_swept_key(tmp_path, monkeypatch):
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "sweeps" / "repeat.yaml").write_text(
        "# @package _global_\nsweep: repeat\ndesign: {grid: {budget.tokens: [1M, 2M]}}\n"
        "model: {params: 100k}\ndata: {unique_tokens: '${budget.tokens}', val_tokens: 8192}\n"
    )
    monkeypatch.chdir(tmp_path)
    sweep = compose_sweep(["sweeps=repeat"])
    assert [p.config.data.unique_tokens for p in sweep.points] == [1e6, 2e6]
    for point in sweep.points:  # what a launcher will compose for this job
        launched = to_run_config(
            without_hydra(compose("train", ["sweeps=repeat", *point.overrides]))
        )
        assert make_plan(launched).run_id == make_plan(point.config).run_id


def test_group_in_a_design_is_composed(tmp_path, monkeypatch):
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "sweeps" / "families.yaml").write_text(
        "# @package _global_\nsweep: families\ndesign: {grid: {model: [llama, gpt2], seed: [0, 1]}}\nbudget: {flops: 1e12}\n"
    )
    monkeypatch.chdir(tmp_path)
    sweep = compose_sweep(["sweeps=families", "model.params=100k"])
    assert [(p.config.model.norm, p.config.seed) for p in sweep.points] == [
        ("rmsnorm", 0), ("rmsnorm", 1), ("layernorm", 0), ("layernorm", 1)]  # fmt: skip
    assert {p.config.model.params for p in sweep.points} == {1e5}


def write_sweep(folder, name, text):
    (folder / "sweeps").mkdir(exist_ok=True)
    (folder / "sweeps" / f"{name}.yaml").write_text(f"# @package _global_\n{text}")


@pytest.mark.parametrize("value", ["yess", "3", '"false"', "[true]"])
def test_trunks_that_are_neither_true_nor_false_are_refused(tmp_path, monkeypatch, value):
    write_sweep(tmp_path, "mine", f"design: {{trunks: {value}, grid: {{seed: [0, 1]}}}}\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ScalingError, match=r"design\.trunks: .*true or false"):
        compose_sweep(["sweeps=mine", *SIZED])


@pytest.mark.parametrize(
    ("design", "said"),
    [
        ("points: {model.params: 1M}", "design.points: .*list"),
        ("points: [3]", "design.points: 3"),
        ("grid: [1M]", "design.grid: .*mapping"),
        ("grid: {seed: 3}", "design.grid: seed needs a list"),
        ("verify: 3M", "design.verify: '3M'"),
        ("question: [why]", "design.question: .*sentence"),
    ],
)
def test_design_of_another_kind_is_refused_by_name(tmp_path, monkeypatch, design, said):
    write_sweep(tmp_path, "mine", f"design: {{{design}}}\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ScalingError, match=said):
        compose_sweep(["sweeps=mine", *SIZED])


def test_sweep_without_a_name_takes_that_of_its_file(tmp_path, monkeypatch):
    write_sweep(tmp_path, "nameless", "design: {grid: {seed: [0, 1]}}\n")
    monkeypatch.chdir(tmp_path)
    sweep = compose_sweep(["sweeps=nameless", *SIZED])
    assert sweep.name == "nameless"
    assert {make_plan(p.config).folder.parent.name for p in sweep.points} == {"nameless"}
    assert compose_sweep(["sweeps=nameless", "sweep=other", *SIZED]).name == "other"


def test_command_line_has_the_last_word_over_a_design():
    sweep = compose_sweep(["sweeps=quickstart", "budget.flops=1e10,2e10", "seed=3"])
    assert len(sweep.points) == 2 * 5  # five D/N of the design remain
    assert {p.config.seed for p in sweep.points} == {3}


@pytest.mark.parametrize("name", sweep_names())
def test_every_sweep_file_plans(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sweep = compose_sweep([f"sweeps={name}"])
    assert sweep.design.question and sweep.points
    after = [p for p in sweep.points if (p.config.model.init_from or "").startswith("sweep:")]
    for point in after:  # runs of another sweep, which is not trained here
        with pytest.raises(ConfigError, match="Train it first: scaling train "):
            make_plan(point.config)
    plans = [make_plan(p.config) for p in sweep.points if p not in after]
    assert len({p.run_id for p in plans}) == len(sweep.points) - len(after) > 0


@pytest.mark.parametrize(
    "file", sorted(p for g in ("model", "data", "tracker") for p in (data_dir("conf") / g).glob("*.yaml")), ids=lambda p: f"{p.parent.name}-{p.stem}"
)  # fmt: skip
def test_every_file_of_conf_composes(file):
    config = to_run_config(
        without_hydra(compose("train", [*SIZED, f"{file.parent.name}={file.stem}"]))
    )
    assert isinstance(config, RunConfig)


def test_fit_configuration_takes_the_sweep_from_the_bare_word():
    config = compose_fit("mine", ["law=kaplan", "target.flops=1e13"])
    assert (config.sweep, config.law, config.target.flops) == ("mine", "kaplan", 1e13)


def test_isoflop_of_a_sweep_file_gives_runs_of_equal_compute(tmp_path, monkeypatch):
    write_sweep(
        tmp_path,
        "mine",
        "design: {question: q, isoflop: {budgets: [1e11, 1e12], sizes: 3, window: 2}, grid: {seed: [0, 1]}}\n",
    )
    monkeypatch.chdir(tmp_path)
    sweep = compose_sweep(["sweeps=mine"])
    plans = [make_plan(p.config) for p in sweep.points]
    assert len({p.run_id for p in plans}) == 2 * 3 * 2
    for (
        plan
    ) in plans:  # whole steps of whole sequences round D by up to half a step in some hundred
        assert plan.flops_6nd == pytest.approx(plan.config.budget.flops, rel=5e-3)
    wider = compose_sweep(["sweeps=mine", "design.isoflop.budgets=[1e13]", "seed=3"])
    assert {p.config.budget.flops for p in wider.points} == {1e13}  # a key of the design itself

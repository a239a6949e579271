"""What will be run: exact N, steps, tokens, FLOPs and hyperparameters of one configuration.

The numbers of a plan are what the trainer does, not what was asked for; both are kept.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scaling.study.adoption import Rows, adopt_shape, adopted_shape, check_parts, map_rows
from scaling.study.config import OptimConfig, RunConfig, config_values
from scaling.study.errors import ConfigError
from scaling.study.flops import FlopsPerToken, flops_6nd, flops_per_token
from scaling.study.objective import KINDS, PAIRS, PLAIN, Layout, find_layout
from scaling.study.origin import find_origin, names_sweep
from scaling.study.parametrization import Parametrization, with_attention_scale
from scaling.study.pretrained import Pretrained, open_pretrained
from scaling.study.record import NUMBERS_VERSION
from scaling.study.rules import (
    batch_tokens_rule,
    learning_rate_rule,
    timescale_decay_rule,
    weight_decay_rule,
)
from scaling.study.shape import ModelShape, ParamCounts, count_params, resolve_shape
from scaling.study.specials import check_specials, read_specials
from scaling.study.units import format_quantity

DEFAULT_TOKENS_PER_PARAM = 20.0  # Hoffmann et al. 2022 (arXiv:2203.15556): near the optimum

# Sizes solved for start here: below, one channel is several per cent. A budget down to half of what
# this size costs still gets it, with fewer tokens per parameter than asked; the plan shows D/N.
SMALLEST = 1.25e3

HASH_VERSION = 1  # of `RunPlan.hash`; another number makes every run another run
# keys that enter the hash as the numbers they lead to: shape, steps, batch, rates
_RESOLVED = (
    "model.",
    "budget.",
    "optim.lr",
    "optim.batch",
    "optim.weight_decay",
    "optim.horizon",
    "data.order_seed",
)
# keys that only some choices of another key read: (these keys, while that key is one of these)
_UNREAD = (
    (("optim.cooldown", "optim.cooldown_shape"), "optim.schedule", ("cosine", "constant")),
    (("optim.final_lr",), "optim.schedule", ("constant",)),
    (("optim.base_width", "optim.base_depth"), "optim.parametrization", ("standard",)),
    (("optim.base_depth",), "optim.parametrization", ("mup",)),
    (("finetune.blocks",), "finetune.parts", ("all", "head", "lora")),
    (
        ("finetune.rank", "finetune.alpha", "finetune.targets"),
        "finetune.parts",
        ("all", "head", "last"),
    ),
    (
        ("objective.masking", "objective.next_sentence"),
        "model.kind",
        ("decoder", "encoder_decoder"),
    ),
    (("objective.span",), "model.kind", ("decoder", "encoder")),
    (("objective.rate",), "model.kind", ("decoder",)),
    (
        ("data.share",),
        "data.source",
        (
            "stdlib",
            "ngram",
            "unigram",
            "markov",
            "grammar",
            "repeats",
            "text",
            "zipf_memory",
            *PAIRS,
        ),
    ),
    (("objective.name",), "model.kind", tuple(KINDS)),  # it follows from kind and data
    (
        ("objective.masking", "objective.next_sentence", "objective.rate", "objective.span"),
        "data.source",
        PAIRS,
    ),
)
_RESOLVED_TO = (
    "steps",
    "batch_seqs",
    "lr",
    "weight_decay",
    "warmup_steps",
    "cooldown_steps",
    "order_seed",
)


@dataclass(frozen=True)
class RunPlan:
    """One run as it will be trained.

    Units: tokens, steps, tokens/step; flops is training FLOPs per token by part.
    """

    config: RunConfig
    shape: ModelShape
    counts: ParamCounts
    flops: FlopsPerToken
    params_target: float
    tokens_target: float
    tokens: int
    steps: int
    batch_seqs: int
    lr: float
    weight_decay: float
    warmup_steps: int
    cooldown_steps: int
    layout: Layout = PLAIN  # of one window of text
    source: Pretrained | None = None  # the weights it starts from; null: fresh ones

    @property
    def batch_tokens(self) -> int:
        return self.batch_seqs * self.shape.context

    @property
    def params(self) -> int:
        """N in the convention the size was asked for in."""
        return self.counts.by(self.config.model.params_convention)

    @property
    def flops_6nd(self) -> float:
        """6 N D with N in the configuration's convention."""
        return flops_6nd(self.params, self.tokens)

    @property
    def flops_counted(self) -> float:
        """Training compute, every matrix product counted."""
        return float(self.flops.counted) * self.tokens

    @property
    def order_seed(self) -> int:
        seed = self.config.data.order_seed
        return self.config.seed if seed is None else seed

    @property
    def objective(self) -> str:
        """What the loss is the loss of, as records name it."""
        return self.layout.objective + ("+next_sentence" if self.layout.pairs else "")

    @property
    def parametrization(self) -> Parametrization:
        """Factors by which parameters differ from the standard parametrisation."""
        return Parametrization.of(self.config.optim, self.shape)

    @property
    def rows(self) -> Rows | None:
        """The row of the source that each row of the token table starts as; null: no source."""
        if self.source is None:
            return None
        return map_rows(self.source, self.layout, vocab=self.config.data.vocab)

    @functools.cached_property
    def hash(self) -> str:
        """8 hex digits of everything that changes the run's numbers, and of nothing else.

        Taken from resolved values, so that two ways to ask for the same run are one run, and a
        changed rule is another. Values at their default do not enter, so that a new key leaves
        finished runs valid; a changed default needs another `HASH_VERSION`.
        """
        return hash_of([*_versions(), *self.identity])

    @functools.cached_property
    def setting_hash(self) -> str:
        """The hash without seeds: what runs have in common that differ in nothing but their luck."""
        asked, resolved, shape = self.identity
        asked.pop("seed", None)
        resolved.pop("order_seed")
        return hash_of([*_versions(), asked, resolved, shape])

    @property
    def identity(self) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        """What `hash` is taken of: keys that differ from their default, resolved numbers, shape.

        Keys that are not read, such as the cooldown of a cosine, do not enter.
        """
        read = read_keys(self.config)
        asked = {
            k.name: v
            for k, v in config_values(self.config)
            if v != k.default and k.numbers and k.name in read and not k.name.startswith(_RESOLVED)
        }
        resolved = {name: getattr(self, name) for name in _RESOLVED_TO}
        if self.source is not None:
            resolved["init_hash"] = self.source.hash
        values = vars(self.shape)
        shape = {
            f.name: values[f.name]
            for f in dataclasses.fields(self.shape)
            if values[f.name] != f.default
        }
        return asked, resolved, shape

    @functools.cached_property
    def run_id(self) -> str:
        """Readable slug and hash; the name of the run's folder."""
        family = re.sub(r"[^A-Za-z0-9]+", "", self.config.model.family) or "model"
        size, tokens = (format_quantity(v).replace(".", "_") for v in (self.params, self.tokens))
        return f"{family}-n{size}-d{tokens}-s{self.config.seed}-{self.hash}"

    @functools.cached_property
    def folder(self) -> Path:
        return Path(self.config.results) / self.config.sweep / self.run_id


def _versions() -> list[int]:
    """What opens every hash; the version of the numbers enters once it is no longer the first."""
    return [HASH_VERSION] if NUMBERS_VERSION == 1 else [HASH_VERSION, NUMBERS_VERSION]


def hash_of(values: Any) -> str:
    """Return 8 hex digits of plain values."""
    text = json.dumps(values, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def read_keys(config: RunConfig) -> dict[str, Any]:
    """Return the value of every key that has an effect beside the others."""
    values = {key.name: value for key, value in config_values(config)}
    unread = {name for names, key, choices in _UNREAD if values[key] in choices for name in names}
    return {name: value for name, value in values.items() if name not in unread}


def make_plan(config: RunConfig) -> RunPlan:
    """Turn a configuration into the exact run it stands for; launches and loads nothing.

    Raises:
        ConfigError: the shape or budget cannot be met; the message names the key.
        CheckpointError: `model.init_from` holds no weights that can be read.
    """
    asked = config.objective.specials
    # 1. N: the shape, from its own keys, from a target, from two budgets, or from weights
    config, source = _adopt(_look_up_specials(config))
    layout = find_layout(config.objective, config.model, config.data)
    config = _keep_specials(config, layout, asked)
    target = _params_target(config)
    if source is not None:
        shape = adopted_shape(source, layout, model=config.model, vocab=config.data.vocab)
    else:
        shape = resolve_shape(config.model, vocab=config.data.vocab, params=target, layout=layout)
        shape = with_attention_scale(shape, optim=config.optim, model=config.model)
    check_parts(config, shape)
    counts, flops = count_params(shape), flops_per_token(shape)
    params = counts.by(config.model.params_convention)

    # 2. D: the budget, in whole steps of whole sequences
    wanted = _tokens_target(config, params, flops)
    batch_seqs = _batch_seqs(config, wanted)
    steps = max(1, round(wanted / (batch_seqs * shape.context)))
    tokens = steps * batch_seqs * shape.context

    # 3. hyperparameters: rules in (N, D) where nothing else is asked for
    optim = config.optim
    horizon = optim.horizon or tokens
    lr = (optim.lr or _learning_rate(config, params, horizon)) * optim.lr_scale
    decay = _weight_decay(optim, counts.total, params, horizon, batch_seqs * shape.context, lr)
    warmup_steps = math.ceil(optim.warmup * steps)
    if optim.horizon:
        horizon_steps = max(1, round(horizon / (batch_seqs * shape.context)))
        warmup_steps = min(steps, math.ceil(optim.warmup * horizon_steps))
    return RunPlan(
        config=config, shape=shape, counts=counts, flops=flops,
        params_target=target or params, tokens_target=wanted,
        tokens=tokens, steps=steps, batch_seqs=batch_seqs, lr=float(f"{lr:.6g}"), weight_decay=float(f"{decay:.6g}"),
        warmup_steps=warmup_steps,
        cooldown_steps=math.ceil(optim.cooldown * steps) if optim.schedule == "wsd" else 0,
        layout=layout, source=source,
    )  # fmt: skip


def _look_up_specials(config: RunConfig) -> RunConfig:
    """Fill in the special tokens that the tokenizer has, if they may be needed."""
    given, fresh = config.objective.specials, config.model.init_from is None
    if given is not None:
        check_specials(given, vocab=config.data.vocab)
    plain = config.model.kind == "decoder" and config.data.source not in PAIRS
    if given is not None or (fresh and plain):
        return config
    return _with_specials(config, read_specials(config.data.tokenizer))


def _keep_specials(config: RunConfig, layout: Layout, asked: dict[str, int] | None) -> RunConfig:
    """Leave those that the run uses: the tokenizer's folder may be elsewhere tomorrow."""
    if asked is not None and (layout.specials or layout.given):
        return config
    return _with_specials(config, dict(layout.given) or None)


def _with_specials(config: RunConfig, specials: dict[str, int] | None) -> RunConfig:
    objective = dataclasses.replace(config.objective, specials=specials)
    return dataclasses.replace(config, objective=objective)


def _adopt(config: RunConfig) -> tuple[RunConfig, Pretrained | None]:
    """Fill in the shape of the weights that a run starts from, if it starts from any."""
    asked = config.model.init_from
    if asked is None:
        return config, None
    if names_sweep(asked):
        source = open_pretrained(find_origin(config, _asked_shape(config)))
    else:
        source = open_pretrained(asked, results=config.results)
    model = adopt_shape(config.model, source, data=config.data, objective=config.objective)
    if names_sweep(asked):  # what it names may be another run tomorrow
        model = dataclasses.replace(model, init_from=source.name)
    return dataclasses.replace(config, model=model), source


def _asked_shape(config: RunConfig) -> ModelShape | None:
    """The shape that a run asks for by itself; null where it leaves that to the weights."""
    model = config.model
    if model.params is None and (model.layers is None or model.width is None):
        return None
    layout = find_layout(config.objective, model, config.data)
    return resolve_shape(model, vocab=config.data.vocab, layout=layout)


def _learning_rate(config: RunConfig, params: int, tokens: float) -> float:
    """The rule's rate: at this size, or at the base shape that the other parametrisations refer to."""
    optim = config.optim
    if optim.parametrization != "standard":
        params = 12 * optim.base_depth * optim.base_width**2  # 4 d^2 attention, 8 d^2 feed-forward
    return learning_rate_rule(params, tokens)


def _weight_decay(
    optim: OptimConfig, total: int, params: int, tokens: float, batch_tokens: int, lr: float
) -> float:
    if optim.weight_decay is None:
        return weight_decay_rule(params, tokens)
    if isinstance(optim.weight_decay, str):  # timescale, which counts all parameters
        return timescale_decay_rule(total, tokens, batch_tokens=batch_tokens, lr=lr)
    return optim.weight_decay


def _params_target(config: RunConfig) -> float | None:
    """The size asked for: given, or what two of D, C and D/N leave for N."""
    model, budget = config.model, config.budget
    if model.params is not None or (model.layers is not None and model.width is not None):
        return model.params
    if budget.flops is None:
        assert budget.tokens and budget.tokens_per_param  # RunConfig.from_dict checked it
        return budget.tokens / budget.tokens_per_param
    if budget.convention == "6nd":
        if budget.tokens is not None:
            return budget.flops / (6 * budget.tokens)
        assert budget.tokens_per_param
        return math.sqrt(budget.flops / (6 * budget.tokens_per_param))
    return _solve_counted(config)


def _solve_counted(config: RunConfig) -> float:
    """Find N whose counted FLOPs over its tokens meet the budget, by bisection in log N."""
    budget = config.budget

    layout = find_layout(config.objective, config.model, config.data)

    def excess(log_params: float) -> float:
        params = math.exp(log_params)
        shape = resolve_shape(config.model, vocab=config.data.vocab, params=params, layout=layout)
        tokens = budget.tokens or (budget.tokens_per_param or 0) * params
        return flops_per_token(shape).counted * tokens - (budget.flops or 0)

    lo, hi = math.log(SMALLEST), math.log(1e12)
    if excess(lo) > (budget.flops or 0):
        raise ConfigError(
            f"budget: flops={budget.flops:g} leaves no model of {SMALLEST:g} parameters or more at the tokens asked for. "
            "Ask for a larger budget.flops, or for fewer tokens or tokens per parameter."
        )
    for _ in range(30):
        middle = (lo + hi) / 2
        lo, hi = (middle, hi) if excess(middle) < 0 else (lo, middle)
    return math.exp((lo + hi) / 2)


def _tokens_target(config: RunConfig, params: int, flops: FlopsPerToken) -> float:
    budget = config.budget
    if budget.flops is not None:  # wins over tokens_per_param, which has already chosen N
        return budget.flops / (6 * params if budget.convention == "6nd" else flops.counted)
    if budget.tokens is not None:
        return budget.tokens
    return (budget.tokens_per_param or DEFAULT_TOKENS_PER_PARAM) * params


def _batch_seqs(config: RunConfig, tokens: float) -> int:
    """Sequences per step: asked for or by rule, in whole sequences."""
    context, asked = config.model.context, config.optim.batch_tokens
    if asked is not None and asked > tokens:
        raise ConfigError(
            f"optim.batch_tokens: a batch of {asked:g} tokens is larger than the budget of {tokens:g}. "
            "Ask for a smaller batch or a larger budget."
        )
    if tokens < context:
        raise ConfigError(
            f"budget: {tokens:g} tokens are less than one sequence of {context} (model.context). "
            "Ask for a larger budget or a shorter context."
        )
    by_rule = batch_tokens_rule(config.optim.horizon or tokens)
    return max(1, round((asked or by_rule) / context))

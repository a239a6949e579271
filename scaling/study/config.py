"""What one run is asked to be: typed, checked, and each key with its unit and a sentence.

`RunConfig.from_dict` is the only way in from YAML or the command line; it names the wrong key.
Keys marked `numbers=False` change how a run is executed but not its numbers, so that they stay out
of the run's hash: the same run on another machine is the same run.
"""

from __future__ import annotations

import dataclasses
import functools
import operator
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from scaling.study.cost import AXES, CostConfig
from scaling.study.errors import ConfigError
from scaling.study.finetune import FinetuneConfig
from scaling.study.schema import Key, build, check_filled, keys_of
from scaling.study.schema import declare as _key


# fmt: off
@dataclass(frozen=True)
class ModelConfig:
    """Shape and parts of the Transformer. Sizes left null are chosen from `params`."""

    family: str = _key("llama", "", "Name of the preset; the other keys say what it is made of.")
    kind: str = _key("decoder", "", "decoder: each position sees those before it; encoder: all of them (BERT's kind); encoder_decoder: an encoder reads, a decoder writes (T5's kind).", choices=("decoder", "encoder", "encoder_decoder"))
    encoder_layers: int | None = _key(None, "layers", "encoder_decoder: depth of the encoder; null: as deep as the decoder, whose depth is `layers`.", least=1)
    params: float | None = _key(None, "parameters", "Target size N; layers, width and ffn are chosen to hit it within 1 % (2 % below 10k).", above=0)
    params_convention: str = _key("non_embedding", "", "Which N `params`, 6ND and the hyperparameter rules mean.", choices=("non_embedding", "total"))
    layers: int | None = _key(None, "layers", "Depth; null: chosen from `params`.", least=1)
    width: int | None = _key(None, "channels", "Model width d; null: chosen from `params`.", least=1)
    heads: int | None = _key(None, "heads", "Query heads; null: width / head size, head size 8 to 64 by width.", least=1)
    kv_heads: int | None = _key(None, "heads", "Key and value heads (grouped-query attention); null: as many as `heads`.", least=1)
    ffn: int | None = _key(None, "channels", "Hidden width of the feed-forward part; null: chosen from `params`.", least=1)
    context: int = _key(128, "tokens", "Sequence length T.", least=2)
    norm: str = _key("rmsnorm", "", "Kind of normalisation.", choices=("rmsnorm", "layernorm"))
    norm_at: str = _key("pre", "", "Where a norm stands: pre: before each part, and one at the end; post: after each part was added (BERT, the first Transformer).", choices=("pre", "post"))
    embedding_norm: bool = _key(False, "", "A norm of the embeddings, before the first layer (BERT).")
    position: str = _key("rotary", "", "How positions enter; relative: a bias of the scores by distance, one table for all layers of a stack (T5).", choices=("rotary", "learned", "sinusoidal", "relative", "none"))
    rotary_base: float = _key(10_000.0, "", "Base of the rotary wavelengths.", above=1)
    activation: str = _key("swiglu", "", "Feed-forward activation: swiglu and geglu (T5 1.1) have a third matrix; gelu and geglu are in GPT-2's tanh form, gelu_exact (BERT) is not.", choices=("swiglu", "gelu", "gelu_exact", "geglu", "relu", "relu2"))
    qk_norm: str = _key("none", "", "RMS norm of queries and keys, per head or over all of them.", choices=("none", "head", "full"))
    scale_scores: bool = _key(True, "", "Attention scores are divided by sqrt(head size); T5 leaves that to the weights.")
    tied: bool = _key(False, "", "Output head shares the token embedding.")
    head_transform: bool = _key(False, "", "A dense layer, the activation and a norm before the output head, which has a bias of its own where there are biases (BERT).")
    scale_head: bool = _key(False, "", "What the output head reads is divided by sqrt(width) (T5 with a tied head).")
    segments: bool = _key(False, "", "A table that tells two halves of a sequence apart; objective.next_sentence brings it anyway, without it all is the first half (BERT).")
    bias: bool = _key(False, "", "Biases in linear layers and in LayerNorm.")
    init_from: str | None = _key(None, "folder", "Weights to start from: a Hugging Face model (llama, gpt2, bert, t5), one of our runs (its folder, or its id under `results`), or sweep:NAME, the run of the same shape that the sweep has (sweep:NAME@2M: of so many tokens); sizes left null and parts at their default are taken from it.")
    norm_eps: float = _key(1e-5, "", "Added to the variance in norms; 1e-5 in GPT-2 and Llama 2, 1e-6 in Llama 1.", above=0)


@dataclass(frozen=True)
class DataConfig:
    """Which text, in which tokens."""

    source: str = _key("stdlib", "", "Where text comes from.", choices=("stdlib", "ngram", "unigram", "markov", "grammar", "bilingual", "repeats", "text", "zipf_memory", "classify", "translate", "summarize", "pairs"))
    path: str | None = _key(None, "", "source=text: a .txt, .jsonl or .parquet file, a folder or glob of them, or a Hugging Face dataset name; source=pairs: a .tsv or .jsonl file, or a folder or glob of them.")
    text_key: str = _key("text", "", "source=text, pairs: the column that holds the text.")
    group_key: str | None = _key(None, "", "source=text, pairs: the column that says the group (language, domain) of a document or pair; held-out ones are scored per group as well.", numbers=False)
    target_key: str = _key("target", "", "pairs: the column that holds the label, or the text to be written.")
    classes: int | None = _key(None, "labels", "classify, pairs: how many labels a text may have; null: the second of a pair is a text to be written.", least=2)
    target_tokens: int | None = _key(None, "tokens", "translate, summarize, pairs: places kept for the text to be written and its end, the rest of `model.context` is for the text that is read; null: half of it.", least=2)
    levels: int = _key(1, "levels", "translate, summarize: how many levels of the hierarchy one must see through; 0: each word by itself.", least=0, most=12)
    tokenizer: str = _key("bytes", "", "bytes, bpe (trained on the source with `vocab` entries), or a Hugging Face tokenizer by name or folder.")
    vocab: int = _key(256, "tokens", "Vocabulary size V; must be what the tokenizer has.", least=2)
    order: int = _key(5, "bytes", "ngram: how many bytes of context the true model sees.", least=1, most=7)
    rules: int = _key(32, "rules", "grammar, classify, translate, summarize: productions of each symbol, at most `vocab`; drawn by Zipf's law with exponent 1.5.", least=1)
    depth: int = _key(4, "levels", "grammar, classify, translate, summarize: levels of the hierarchy; a sentence has 2^depth tokens.", least=1, most=12)
    share: float = _key(0.5, "share of bytes", "bilingual: how much of the text is Chinese; the rest is English.", above=0, most=1)
    second_share: float | None = _key(None, "share of texts", "classify: how many texts are written in a second alphabet that nothing else tells from the first, so that each is a group; it takes half of `vocab`. Null: one alphabet.", above=0, most=1)
    alpha: float = _key(0.5, "", "zipf_memory: exponent a of the context frequencies i^-(1+a).", above=0)
    noise: float = _key(0.0, "", "zipf_memory: standard deviation of ln loss between seeds; classify: share of labels that are drawn at random.", least=0)
    size: float = _key(16e6, "tokens", "Training text of a generated source, or read of a streamed dataset (stdlib and files have what they have).", least=1000)
    source_seed: int = _key(0, "", "Seed of a generated source's own text.", least=0)
    unique_tokens: float | None = _key(None, "tokens", "Train on only the first so many tokens; null: all there are.", above=0)
    max_epochs: float = _key(1.0, "epochs", "A run that would see its unique tokens more often than this is refused.", above=0, numbers=False)
    val_tokens: float = _key(131_072, "tokens", "Fixed held-out tokens that every validation loss is a mean over.", above=0)
    validation: dict[str, str] | None = _key(None, "", "Further held-out texts by name, data.validation.NAME=PATH with paths as data.path takes; scored at the end, at most `val_tokens` of each.", numbers=False)  # noqa: RUF009
    order_seed: int | None = _key(None, "", "Seed of the order in which tokens are seen; null: the run's seed.", least=0)
    cache: str | None = _key(None, "folder", "Where token shards are kept; null: $SCALING_CACHE, else the user's cache folder.", numbers=False)


@dataclass(frozen=True)
class ObjectiveConfig:
    """What a model learns to predict, and from what."""

    name: str | None = _key(None, "", "next_token; masked: some tokens from all others; span_corruption: cut-out spans; seq2seq: the second text of a pair; classify: its label. Null: by `data`, else next_token for a decoder, masked for an encoder, span_corruption for an encoder_decoder.", choices=("next_token", "masked", "span_corruption", "seq2seq", "classify"))
    rate: float = _key(0.15, "share of tokens", "masked, span_corruption: how many are predicted.", above=0, most=1)
    masking: str = _key("bert", "", "masked: what takes a chosen token's place. bert: 80 % the mask, 10 % a random token, 10 % itself; plain: always the mask.", choices=("bert", "plain"))
    next_sentence: bool = _key(False, "", "masked: also tell whether the second half of a sequence follows the first.")
    span: float = _key(3.0, "tokens", "span_corruption: mean length of a span.", least=1)
    specials: dict[str, int] | None = _key(None, "", "Numbers of special tokens that the tokenizer has, objective.specials.mask=4 (mask, cls, sep; start, end, span_0, span_1 ...); null: read from the tokenizer's folder. What is missing comes behind its vocabulary.")  # noqa: RUF009


@dataclass(frozen=True)
class BudgetConfig:
    """How long to train: exactly one of the three (with `model.params` null, two of them give N as well)."""

    tokens: float | None = _key(None, "tokens", "Training tokens D.", above=0)
    flops: float | None = _key(None, "FLOPs", "Training compute C in the convention below.", above=0)
    tokens_per_param: float | None = _key(None, "tokens/parameter", "D / N; 20 if no budget is given.", above=0)
    convention: str = _key("6nd", "", "What `flops` counts: 6 N D, or every matrix product (attention and head too).", choices=("6nd", "counted"))


@dataclass(frozen=True)
class OptimConfig:
    """Optimiser and schedule. What is null follows a rule in (N, D) that `scaling plan` shows."""

    name: str = _key("adamw", "", "adamw; muon: matrices in blocks by Muon, the rest by AdamW.", choices=("adamw", "muon"))
    parametrization: str = _key("standard", "", "How rates and initial sizes follow the shape: standard (the rule in N), mup (width), completep (width and depth).", choices=("standard", "mup", "completep"))
    base_width: int = _key(64, "channels", "mup, completep: width at which every rate is as given.", least=1)
    base_depth: int = _key(2, "layers", "completep: depth at which every rate is as given.", least=1)
    lr: float | None = _key(None, "1/step", "Peak learning rate; null: by rule.", above=0)
    lr_scale: float = _key(1.0, "", "Factor on the learning rate, to check the rule.", above=0)
    batch_tokens: float | None = _key(None, "tokens/step", "Global batch; null: by rule; rounded to whole sequences.", above=0)
    weight_decay: float | str | None = _key(None, "", "Decoupled weight decay of matrices; null: by rule; timescale: by batch, rate, D and N (Power Lines).", least=0, words=("timescale",))
    horizon: float | None = _key(None, "tokens", "Budget that the rules for batch, rates and warm-up are read at; null: the run's own. Runs with one horizon can share a trunk.", above=0)
    beta1: float = _key(0.9, "", "Adam's first moment.", least=0, most=0.9999)
    beta2: float = _key(0.95, "", "Adam's second moment.", least=0, most=0.99999)
    eps: float = _key(1e-8, "", "Adam's epsilon.", above=0)
    clip: float = _key(1.0, "", "Gradient norm is clipped to this; 0: never.", least=0)
    schedule: str = _key("wsd", "", "wsd: warm-up, stable, decay; cosine ends at the budget.", choices=("wsd", "cosine", "constant"))
    warmup: float = _key(0.05, "share of steps", "Linear warm-up.", least=0, most=1)
    cooldown: float = _key(0.2, "share of steps", "wsd: last part that decays.", least=0, most=1)
    cooldown_shape: str = _key("1-sqrt", "", "wsd: how it decays.", choices=("linear", "1-sqrt"))
    final_lr: float = _key(0.0, "share of peak", "Learning rate at the end of cosine or cooldown.", least=0, most=1)


@dataclass(frozen=True)
class TrainConfig:
    """How a run is executed."""

    device: str = _key("auto", "", "auto, cpu, cuda, cuda:1 ...", numbers=False)
    precision: str = _key("auto", "", "float32, bfloat16 (autocast; weights stay float32), or auto: bfloat16 where it is fast.", choices=("auto", "float32", "bfloat16"))
    compile: bool | str = _key("auto", "", "torch.compile the model; auto: where the run is long enough to repay it.", words=("auto",), numbers=False)
    attention: str = _key("auto", "", "native: kernels compiled for this CPU (attention, norms, loss); sdpa: torch's fused kernel; matmul: plain matrix products; auto: the fastest for the device.", choices=("auto", "sdpa", "matmul", "native"), numbers=False)
    micro_batch_tokens: float | None = _key(None, "tokens", "Tokens per forward pass; gradients accumulate to the batch; null: as many as fit well.", above=0, numbers=False)
    recompute: bool | str = _key("auto", "", "Keep only each block's input for the backward pass and compute the rest again: less memory, a third more time; auto: where it would not fit otherwise.", words=("auto",), numbers=False)
    parallel: str = _key("auto", "", "Several processes (torchrun, srun) on one run: ddp copies the model, fsdp divides it; none: each for itself; auto: ddp where it fits.", choices=("auto", "none", "ddp", "fsdp"), numbers=False)
    threads: int | None = _key(None, "threads", "CPU threads; null: what the launcher leaves each run.", least=1, numbers=False)
    stack: int | str = _key("auto", "", "Most runs of one shape that train as one program; 1: each alone; auto: as many as it makes faster.", least=1, words=("auto",), numbers=False)
    evals: int = _key(12, "points", "Validation points along the run, spaced evenly in log tokens; the last is at the end.", least=1, numbers=False)
    log_points: int = _key(200, "rows", "Training-loss rows in metrics.jsonl, each the mean since the last.", least=1, numbers=False)
    checkpoint_seconds: float = _key(60.0, "s", "Time between checkpoints.", above=0, numbers=False)
    keep_checkpoint: bool = _key(True, "", "Keep the final weights of a finished run.", numbers=False)


@dataclass(frozen=True)
class TrackerConfig:
    """A mirror of the metrics elsewhere; the truth stays in the results folder."""

    name: str = _key("none", "", "none or wandb.", choices=("none", "wandb"), numbers=False)
    project: str = _key("scaling", "", "wandb project.", numbers=False)
    entity: str | None = _key(None, "", "wandb entity.", numbers=False)
    tags: str | None = _key(None, "", "Further wandb tags, with commas; family, data, budget, objective and optimiser are tags anyway.", numbers=False)
    mode: str = _key("offline", "", "wandb mode; offline needs no account and never waits for a server.", choices=("offline", "online", "disabled"), numbers=False)


@dataclass(frozen=True)
class RetryConfig:
    """What a sweep does about runs that failed or diverged."""

    failed: int = _key(2, "times", "A run that failed is tried again so often, in this launch and later ones.", least=0, numbers=False)
    again: bool = _key(False, "", "Try failed runs anew although their tries are spent.", numbers=False)
    diverged: int = _key(0, "times", "A run that diverged is followed by up to so many others at a lower rate.", least=0, numbers=False)
    lr_factor: float = _key(0.5, "", "Rate of such a run over the rate of the one that diverged.", above=0, most=1, numbers=False)
    of: str | None = _key(None, "", "The run that diverged, where this is such a run; set by the sweep.", numbers=False)


@dataclass(frozen=True)
class ClaimConfig:
    """Which process may train a run."""

    takeover: float = _key(600.0, "s", "A process elsewhere that was silent for so long is dead, and its run is taken over; a live one is heard of every 5 s.", least=15, numbers=False)


@dataclass(frozen=True)
class RunConfig:
    """Everything one run is asked to be."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    finetune: FinetuneConfig = field(default_factory=FinetuneConfig)
    budget: BudgetConfig = field(default_factory=BudgetConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    tracker: TrackerConfig = field(default_factory=TrackerConfig)
    retry: RetryConfig = field(default_factory=RetryConfig)
    claim: ClaimConfig = field(default_factory=ClaimConfig)
    cost: CostConfig = field(default_factory=CostConfig)
    seed: int = _key(0, "", "Seed of weights and, unless data.order_seed is set, of token order.", least=0)
    role: str = _key("fit", "", "verify: held out from every fit, trained to check a prediction.", choices=("fit", "verify"), numbers=False)
    sweep: str = _key("single", "", "Folder under `results` that the run belongs to.", numbers=False)
    results: str = _key("results", "folder", "Where run records are written.", numbers=False)
    # fmt: on

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RunConfig:
        """Check a nested mapping and return the typed configuration.

        Raises:
            ConfigError: unknown key, wrong type, value out of range; names the key and the cure.
        """
        config = build(cls, values, _known_keys())
        check_filled(config, ("sweep", "results", "model.init_from"))
        _check_budget(config)
        check_set_names(config.data.validation or {})
        return config

    def to_dict(self) -> dict[str, Any]:
        """Return the nested plain mapping that `from_dict` reads back."""
        return dataclasses.asdict(self)

    def replace(self, **changes: Any) -> RunConfig:
        """Return a copy with dotted keys changed: `config.replace(**{"model.params": "1M"})`."""
        values = self.to_dict()
        for dotted, value in changes.items():
            *groups, name = dotted.split(".")
            target = values
            for group in groups:
                target = target[group]
            target[name] = value
        return RunConfig.from_dict(values)


# fmt: off
@dataclass(frozen=True)
class TargetConfig:
    """What the fit is asked about beyond its own data."""

    flops: float | None = _key(None, "FLOPs", "Compute to find the optimum for; null: 1, 10, 100 and 1000 times the largest in the data.", above=0)
    loss: float | None = _key(None, "nats/token", "Loss to find the least compute for.", above=0)
    inference: float | None = _key(None, "tokens", "Tokens the model will read and write: the size that is cheapest to train and use.", above=0)
    unique: float | None = _key(None, "tokens", "Unique tokens that exist: the best size with no more text than that.", above=0)
    params: float | None = _key(None, "parameters", "With target.tokens: the run whose loss is predicted.", above=0)
    tokens: float | None = _key(None, "tokens", "With target.params: the run whose loss is predicted.", above=0)
    decide: str = _key("size", "", "next, auto: what is to be known at target.flops: the best size, or the lowest loss.", choices=("size", "loss"))
    within: float | None = _key(None, "", "auto: stop once the interval reaches no further from the estimate than this factor (size; null: 1.3) or so many nats/token (loss; null: 0.02).", above=0)


@dataclass(frozen=True)
class AutoConfig:
    """What `scaling auto` may spend."""

    flops: float | None = _key(None, "FLOPs", "Compute of all runs together, the first design's included, in the convention of budget.convention.", above=0)
    rounds: int = _key(8, "rounds", "Most rounds after the first design.", least=0)


@dataclass(frozen=True)
class LimitsConfig:
    """What a single proposed run may be."""

    flops: float | None = _key(None, "FLOPs", "Most compute of one proposed run; null: a sixth of the allowance, for the loss a third.", above=0)
    smallest: float | None = _key(None, "parameters", "Smallest size that is proposed; null: the smallest in the fit.", above=0)
    largest: float | None = _key(None, "parameters", "Largest size that is proposed; null: what limits.flops allows.", above=0)
    least_ratio: float | None = _key(None, "tokens/parameter", "Fewest tokens per parameter; null: half of the runs' fewest, at most 10.", above=0)
    most_ratio: float | None = _key(None, "tokens/parameter", "Most tokens per parameter; null: twice the runs' most, at least 100.", above=0)


@dataclass(frozen=True)
class FitCostConfig(CostConfig):
    """What a device costs, and how fast it is where no run tells; stated here it holds for all runs."""

    speed: float | None = _key(None, "FLOPs/s", "Speed of one device, in FLOPs of the fit's convention, at which an optimum's cost is reckoned; null: as the runs did.", above=0)


@dataclass(frozen=True)
class FitConfig:
    """How finished runs are fitted: law, objective, conventions, intervals, and what is written."""

    law: str = _key("chinchilla", "", "Law to fit: chinchilla, chinchilla_k, chinchilla_tied, kaplan, or another of scaling.laws.names().")
    objective: str | None = _key(None, "", "What is minimised: huber_log, mse_log, l1_log, huber, mse, l1, asymmetric; null: what the law states, huber_log for a loss of N and D.")
    delta: float | str | None = _key(None, "nats", "Knee of the Huber objectives: a number on log loss or loss as the objective is (null: 0.001), noise (1.345 SDs of the residuals) or free.", above=0, words=("noise", "free"))
    over: float = _key(1.0, "", "Weight of over-estimates against under-estimates.", above=0)
    weights: str | None = _key(None, "", "Weights of the runs: a column, or seeds for 1/SD^2 measured from repeated runs.")
    params: str | None = _key(None, "", "Which N; null: as the sweep counted its sizes.", choices=("non_embedding", "total", "body_head", "given"))
    flops: str | None = _key(None, "", "Which C; null: as the sweep counted its budgets.", choices=("6nd", "counted", "given"))
    loss: str = _key("val_loss", "", "Column that is fitted: val_loss, val_excess, train_loss, or one of a table's.")
    columns: dict[str, str] | None = _key(None, "", "A table's own column names, {mine: params}, or columns.mine=params; ours are params, tokens, flops, val_loss.")  # noqa: RUF009
    units: dict[str, str] | None = _key(None, "", "Units of a table's columns, {params: M} or units.params=M.")  # noqa: RUF009
    where: dict[str, str] | None = _key(None, "", "Fit only runs with these values, where.COLUMN=VALUE.")  # noqa: RUF009
    mixed: str | None = _key(None, "", "Fit runs together that differ in data (text, tokens), code (version of the numbers) or all of these; null: they are refused.")
    group: str | None = _key(None, "", "Column that splits the runs; each group is fitted alone.")
    fixed: dict[str, float] | None = _key(None, "", "Parameters to hold, {E: 0.9} or fixed.E=0.9.")  # noqa: RUF009
    priors: bool = _key(False, "", "Use the priors that the law states.")
    starts: int = _key(8, "starts", "Starts that are solved to the end.", least=1)
    holdout_above: float | None = _key(None, "FLOPs", "Fit runs up to this compute only and score the rest.", above=0)
    intervals: str = _key("auto", "", "How intervals are found: auto, profile, bootstrap, bayesian, by_model, by_budget, by:COLUMN, residual, wild, parametric, delta, none.")
    resamples: int = _key(500, "resamples", "Bootstrap resamples.", least=10)
    level: float = _key(0.9, "", "Nominal level of intervals.", above=0, most=0.999)
    seed: int = _key(0, "", "Seed of the bootstrap.", least=0)
    points: int | None = _key(None, "runs", "next: most runs that are proposed (null: 12); without target.flops, sizes per budget (null: 7).", least=3)
    allowance: float | None = _key(None, "FLOPs", "next: compute of all proposed runs together; null: as much as the fitted runs took.", above=0)
    limits: LimitsConfig = field(default_factory=LimitsConfig)
    auto: AutoConfig = field(default_factory=AutoConfig)
    target: TargetConfig = field(default_factory=TargetConfig)
    cost: FitCostConfig = field(default_factory=FitCostConfig)
    figures: str | None = _key(None, "", "plot: figures to draw, by name, several with commas; all: those that take longer too; null: what the runs allow and a few seconds draw.")
    formats: str = _key("png", "", "plot: files of each figure: png, svg, pdf; several with commas.")
    x: str | None = _key(None, "", "plot: draw the lowest loss against this alone; null: every other figure.", choices=tuple(AXES))
    sweep: str = _key("quickstart", "", "Sweep whose results are read: a folder under `results`, or the path of a folder or table.")
    results: str = _key("results", "folder", "Where run records are.")
    out: str | None = _key(None, "folder", "Where results of the fit are written; null: beside the records, for a table the current folder.")
    format: str | None = _key(None, "", "Files beside fit.json: markdown, latex, html, csv or all; several with commas.")
    # fmt: on

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> FitConfig:
        """Check a nested mapping and return the typed configuration."""
        config = build(cls, values, _known_keys())
        check_filled(config, ("law", "loss", "weights", "group", "mixed", "sweep", "results", "out", "format", "figures", "formats"))
        return config


def config_keys(cls: type = RunConfig) -> tuple[Key, ...]:
    """Return every configuration key with its dotted name, type, default, unit and sentence."""
    return keys_of(cls)


@functools.cache
def _known_keys() -> tuple[str, ...]:
    return tuple(k.name for root in (RunConfig, FitConfig) for k in keys_of(root))


def config_values(config: RunConfig) -> Iterator[tuple[Key, Any]]:
    """Yield each key with the value it has in this configuration."""
    keys, read = _reader()
    return zip(keys, read(config), strict=True)


@functools.cache
def _reader() -> tuple[tuple[Key, ...], operator.attrgetter]:
    keys = config_keys()
    return keys, operator.attrgetter(*(key.name for key in keys))


def check_set_names(sets: Mapping[str, str]) -> None:
    """Refuse names of validation sets that make no column, and paths that are empty.

    Raises:
        ConfigError: names the set.
    """
    for name, path in sets.items():
        if not re.fullmatch(r"[A-Za-z0-9_-]+", name) or name == "se":  # val_loss_se is a column already
            raise ConfigError(
                f"data.validation: {name!r} cannot name a set, for it becomes the column val_loss_{name}. "
                "Use letters a to z, digits, _ and -, and not `se`; the path may hold any script."
            )
        if not path.strip():
            raise ConfigError(f"data.validation.{name}: no path. Give a file, folder, glob or dataset name, or leave the set out.")


def _check_budget(config: RunConfig) -> None:
    """A run needs N and D: one budget when N is given by the model, two when it is not."""
    budget, model = config.budget, config.model
    given = {k: getattr(budget, k) for k in ("tokens", "flops", "tokens_per_param") if getattr(budget, k) is not None}
    sized = model.init_from is not None or model.params is not None or (model.layers is not None and model.width is not None)
    if sized and len(given) > 1:
        text = " and ".join(f"{k}={v:g}" for k, v in given.items())
        raise ConfigError(f"budget: set one of tokens, flops, tokens_per_param; got {text}. Drop one, e.g. budget.{next(iter(given))}=null.")
    if not sized and len(given) != 2:
        raise ConfigError(
            "model: no size is given. Set model.params=1M, or model.layers and model.width, "
            "or two of budget.tokens, budget.flops, budget.tokens_per_param and leave model.params null."
        )
    if model.params is not None and None not in (model.layers, model.width, model.ffn):
        raise ConfigError(
            f"model: params={model.params:g} and a full shape (layers, width, ffn) are both given. Drop model.params, or one of the shape's keys."
        )

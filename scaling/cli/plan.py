"""scaling plan [SWEEP] [key=value ...]: what would be run, exactly, without running it.

  scaling plan quickstart
  scaling plan model.params=40M budget.flops=1e17
  scaling plan model.params=1M,4M budget.tokens=20M    a grid; -m, which train wants, may stand or not
  scaling plan quickstart calibrate=false              no time estimate, no measuring
  scaling plan isoflop simulate=false                  no simulation of what the design will tell
  scaling plan isoflop price.device=h100 price.mfu=0.4 price.rate=2.5       hours and money
  scaling plan isoflop simulate.law=results/isoflop/fit.json                simulated from your own fit

Times come from a few real steps of the sweep's shapes on this machine (under a minute, then remembered).
A design is simulated from a plausible law with noise and fitted many times, which says how sure it will
be of the exponent and the optimum; what it cannot answer is warned of.

Keys of planning alone, which no run sees:
{keys}
"""

from __future__ import annotations

from collections.abc import Sequence

from scaling.cli import known_sweep, split_sweep, without_multirun
from scaling.cli.compose import Sweep, compose_sweep
from scaling.cli.estimate import Estimate, estimate_seconds
from scaling.cli.foretelling import SimulateConfig, foretell
from scaling.cli.plankeys import describe_keys, take_plan_keys
from scaling.cli.pricing import describe_identical, price_lines
from scaling.cli.sweep import unique_plans
from scaling.study.errors import FitError
from scaling.study.plan import RunPlan
from scaling.study.record import is_finished
from scaling.study.rules import timescale_rule
from scaling.study.table import Table
from scaling.study.trunks import branch_step, describe_rules, describe_saving, find_trunks
from scaling.study.units import format_duration, format_flops, format_quantity

__doc__ = (__doc__ or "").replace("{keys}", describe_keys())

OFF = 0.002  # target and actual are both shown where they differ by more

MOST_WARNINGS = 3  # of runs that training will refuse; the others are counted


def run_plan(arguments: Sequence[str]) -> int:
    """Print one line per run and the totals."""
    name, rest = split_sweep(without_multirun(arguments))
    keys, rest = take_plan_keys(rest)
    sweep = compose_sweep([*([f"sweeps={known_sweep(name)}"] if name else []), *rest])
    plans = [plan for _, plan in unique_plans(sweep.points)]
    estimate = estimate_seconds(plans, sweep.jobs) if keys.calibrate else None
    told = [
        *describe_identical(sweep.asked, len(plans)),
        *price_lines(plans, keys.config.price, estimate),
    ]
    if keys.simulate and len(plans) > 1:
        told += _foretold(sweep, plans, keys.config.simulate)
    print("\n".join([describe_plan(sweep, plans, estimate, told), *_refusals(plans)]))
    return 0


def _foretold(sweep: Sweep, plans: Sequence[RunPlan], config: SimulateConfig) -> list[str]:
    """Say what the design will tell; what makes it impossible to say is a line, not the end of the plan."""
    try:
        return foretell(sweep, plans, config)
    except FitError as error:
        return [f"Not simulated: {error}"]


def describe_plan(
    sweep: Sweep, plans: Sequence[RunPlan], estimate: Estimate | None, more: Sequence[str] = ()
) -> str:
    """Return the plan in text: question, table (one run: everything about it), totals, and more lines."""
    if len(plans) == 1:
        lines = "\n".join([totals(plans, estimate), *more])
        return "\n\n".join([_one_run(plans[0], estimate).text(), lines])
    header = (
        "run",
        "N",
        "emb + head",
        "D",
        "D/N",
        "steps",
        "batch",
        "lr",
        "wd",
        "6ND",
        "counted",
        "time",
        "",
    )
    trunks = find_trunks([p for p in plans if not is_finished(p.folder)])
    parents = {b.run_id: t.parent for t in trunks for b in t.branches}
    rows = [_row(plan, estimate, parents.get(plan.run_id)) for plan in plans]
    convention = plans[0].config.model.params_convention.replace("_", "-")
    head = [f"{sweep.name}: {sweep.design.question}"] if sweep.design.question else []
    note = (
        f"N is {convention}, asked → built; emb + head are the token tables; 6ND uses N; counted is every matrix product, "
        "attention and head too. Batch in tokens/step; lr and wd by rule in (N, D) unless set."
    )
    rules = describe_rules(plans) if sweep.design.trunks else []
    where = f"Records: {plans[0].folder.parent}"
    table = Table(header, rows, note=note).text()
    return "\n".join([*head, table, "", totals(plans, estimate), *rules, *more, where])


def _refusals(plans: Sequence[RunPlan]) -> list[str]:
    """Say what training will refuse, as far as that is known before any text is read."""
    from scaling.training.foresight import foresee

    refused = foresee(p for p in plans if not is_finished(p.folder))
    lines = [
        f"Warning: training will refuse {f'{len(runs)} runs' if len(runs) > 1 else runs[0].run_id}. {reason}"
        for reason, runs in refused.items()
    ]
    more = len(lines) - MOST_WARNINGS
    return lines if more <= 0 else [*lines[:MOST_WARNINGS], f"... and {more} runs more."]


def _one_run(plan: RunPlan, estimate: Estimate | None) -> Table:
    """Everything about one run, exact, with units."""
    s, n, f = plan.shape, plan.counts, plan.flops
    asked = f" (asked for {plan.params_target:,.0f})" if plan.params_target != plan.params else ""
    rows = [
        ("run", plan.run_id),
        ("shape", f"{s.layers} layers x {s.width} wide, {s.heads} heads of {s.head_size} ({s.kv_heads} key-value), "
                  f"feed-forward {s.ffn}, context {s.context}, vocabulary {s.vocab}"),
        *([("starts from", f"{plan.source.name} ({plan.source.kind}, weights {plan.source.hash})")] if plan.source else []),
        ("parameters", f"{n.non_embedding:,} blocks and norms + {n.embedding:,} embedding + {n.head:,} head = {n.total:,}"),
        ("N", f"{plan.params:,} {plan.config.model.params_convention}{asked}"),
        ("tokens D", f"{plan.tokens:,} (asked for {plan.tokens_target:,.0f}), {plan.tokens / plan.params:.3g} per parameter"),
        ("steps", f"{plan.steps:,} of {plan.batch_tokens:,} tokens ({plan.batch_seqs} sequences)"),
        ("compute", f"6ND {format_flops(plan.flops_6nd)} FLOPs; counted {format_flops(plan.flops_counted)}: blocks "
                    f"{f.blocks / f.counted:.0%}, attention {f.attention / f.counted:.0%}, head {f.head / f.counted:.0%}"),
        ("learning rate", f"{plan.lr:.4g}, {plan.config.optim.schedule}: {plan.warmup_steps} steps of warm-up, {plan.cooldown_steps} of cooldown"),
        ("weight decay", _decay(plan)),
        ("optimiser", _optimizer(plan)),
        ("parametrisation", _parametrization(plan)),
        ("memory", _memory(plan)),
        ("time", format_duration(estimate.seconds[plan.run_id]) if estimate else "-"),
        ("folder", str(plan.folder)),
    ]  # fmt: skip
    return Table(("", "value"), rows)


def _memory(plan: RunPlan) -> str:
    """What the run holds at its peak, and under which settings; or why it does not fit here."""
    from scaling.study.errors import ScalingError
    from scaling.training.device import choose_engine

    try:
        engine = choose_engine(
            plan.shape, batch_seqs=plan.batch_seqs, train=plan.config.train, tokens=plan.tokens
        )
    except ScalingError as error:
        return f"does not fit on this machine. {error}"
    memory = engine.memory(plan.shape)
    how = f"{engine.micro_seqs} sequences per pass" + (", recompute" if engine.recompute else "")
    return f"{memory.describe()} ({how})"


def _decay(plan: RunPlan) -> str:
    """Decay, and how much of the run the weights are a mean over, beside the published best."""
    if not plan.weight_decay:
        return "0"
    share = 1 / (plan.lr * plan.weight_decay * plan.steps)
    published = timescale_rule(plan.counts.total, plan.tokens)
    return f"{plan.weight_decay:.4g}: weights are a mean over {share:.2g} of the run (Power Lines: {published:.2g})"


def _optimizer(plan: RunPlan) -> str:
    optim = plan.config.optim
    return f"{optim.name}, beta {optim.beta1:g} and {optim.beta2:g}, epsilon {optim.eps:g}, clipped to norm {optim.clip:g}"


def _parametrization(plan: RunPlan) -> str:
    """Name, and the factors on the matrices of blocks and the head where they are not 1."""
    optim, by = plan.config.optim, plan.parametrization
    if by.name == "standard":
        return by.name
    depth = f" and {optim.base_depth} layers" if by.name == "completep" else ""
    parts = {"blocks in": "qkv.weight", "blocks out": "ffn.down.weight"}
    factors = {k: by.factors(f"blocks.0.{v}") for k, v in parts.items()}
    factors["head"] = by.factors("head.weight")
    text = "; ".join(
        f"{k}: rate x {f.lr:.3g}, decay x {f.weight_decay:.3g}, epsilon x {f.eps:.3g}"
        for k, f in factors.items()
    )
    return f"{by.name} from width {optim.base_width}{depth}. {text}"


def _row(plan: RunPlan, estimate: Estimate | None, parent: RunPlan | None) -> list[str]:
    seconds = (
        estimate.seconds[plan.run_id] if estimate and plan.run_id in estimate.seconds else None
    )
    return [
        plan.run_id, _beside(plan.params_target, plan.params), f"{format_quantity(plan.counts.embedding)} + {format_quantity(plan.counts.head)}",
        _beside(plan.tokens_target, plan.tokens), f"{plan.tokens / plan.params:.3g}", f"{plan.steps:,}", f"{plan.batch_tokens:,}",
        f"{plan.lr:.3g}", f"{plan.weight_decay:.3g}", format_flops(plan.flops_6nd), format_flops(plan.flops_counted),
        format_duration(seconds), _note(plan, parent),
    ]  # fmt: skip


def _note(plan: RunPlan, parent: RunPlan | None) -> str:
    if is_finished(plan.folder):
        return "finished"
    return f"branches off {parent.hash} at step {branch_step(plan):,}" if parent else ""


def _beside(target: float, actual: float) -> str:
    """Show the actual number, with the target before it where they differ."""
    if abs(actual / target - 1) <= OFF:
        return format_quantity(actual)
    return f"{format_quantity(target, 4)} → {format_quantity(actual, 4)}"


def totals(plans: Sequence[RunPlan], estimate: Estimate | None) -> str:
    """Say what the whole costs, and what of it is still to do."""
    missing = [p for p in plans if not is_finished(p.folder)]
    saving = describe_saving(missing)  # what is finished saves nothing any more
    lines = [
        f"{len(plans)} runs, {len(plans) - len(missing)} finished. Total {format_flops(sum(p.flops_6nd for p in plans))} FLOPs (6ND), "
        f"{format_flops(sum(p.flops_counted for p in plans))} counted, {format_quantity(sum(p.tokens for p in plans))} tokens."
    ]
    if saving:
        lines.append(saving)
    if estimate is not None:
        lines.append(estimate.describe(missing))
    return "\n".join(lines)

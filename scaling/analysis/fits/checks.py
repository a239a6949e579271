"""What should be doubted about the runs themselves, before any law: named warnings.

Each check knows one trap, looks at the columns it needs, and is silent where they are absent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from scaling.analysis.data.conventions import best_of, is_per_byte, is_set
from scaling.analysis.data.tables import number
from scaling.analysis.fits.kinship import check_trunks
from scaling.analysis.fits.refusals import compute_ratio
from scaling.analysis.traps import warn
from scaling.study.units import format_quantity

if TYPE_CHECKING:
    from scaling.analysis.data.runs import Runs
    from scaling.analysis.fits.fitted import Fit
    from scaling.analysis.law import Law

LEFT_OUT = 0.05  # head and attention beyond this share of C move an optimum (Porian et al. 2024)
LONG_WARMUP = 0.10  # of the run; longer ones lift the loss of short runs (Porian et al. 2024)
EARLY = 0.98  # of the planned steps; below, the learning rate had not decayed
ONE_RATIO = 1.1  # D/N that spans less is one ratio
MISFIT, FAR_OFF = 0.15, 0.4  # SD of log residuals, and one of them: losses scatter by 0.01 to 0.05
PAST_BEST = 0.05  # a law may end so much above the most there can be: no fit knows its end better
HIGH = 12.0  # nats/token; guessing evenly among 100,000 tokens costs 11.5


def check_runs(runs: Runs, law: Law | None = None, *, intervals: str = "") -> list[str]:
    """Return the named warnings about the runs of the fit set; none means no trap was seen.

    Args:
        runs: the runs in their conventions; law: the law to be fitted, which may answer a doubt.
        intervals: how they are found; clusters that hold whole trunks answer the doubt about those.
    """
    checks: tuple[Callable[[Runs, pd.DataFrame, Law | None], Iterator[str]], ...] = (
        _conventions, _left_out, _unit_of_loss, _swapped, _one_ratio, _curves, _schedule, _warmup,
        _started, _epochs, _tokenizers, _objectives, _unread,
    )  # fmt: skip
    rows = runs.fit_rows
    found = [text for check in checks for text in check(runs, rows, law)]
    return found + list(check_trunks(runs, intervals))


def check_description(fit: Fit) -> list[str]:
    """Return a warning if the fitted law does not describe its own runs, else nothing."""
    if fit.law.output != "loss":
        return []
    off = np.abs(fit.log_errors)
    spread, worst = float(np.sqrt((off**2).mean())), int(off.argmax())
    if spread <= MISFIT and off[worst] <= FAR_OFF:
        return []
    return [
        warn(
            "W-MISFIT",
            f"{fit.law.name} does not describe these runs: they lie {100 * np.expm1(spread):.0f} % off on average (root mean square), {fit.runs.fit_rows['run_id'].iloc[worst]} by a factor of {np.exp(off[worst]):.3g}. Do not use its numbers; look for other units, diverged runs or another law.",
        )
    ]


def check_ceiling(fit: Fit) -> Iterator[str]:
    """Yield a warning if a law from a loss to a measure passes the most there can be before the loss is 0."""
    best = best_of(fit.runs.loss)
    if best is None or fit.law.inputs != ("x",):
        return
    end, top = float(np.max(fit.law(fit.params, x=0.0))), float(fit.runs.L.max())
    if end > best * (1 + PAST_BEST):
        ends = [n for n in fit.law.names if n in ("scale", "span")]
        reach = best - fit.params.get("floor", 0.0)  # a span stands on its floor
        held = f"fixed.{ends[0]}={reach:.3g}" if ends else "another law"
        yield warn(
            "W-CEILING",
            f"{fit.law.name} says {end:.3g} at a loss of 0, and {fit.runs.loss} is {best:g} at most: these runs, up to {top:.3g}, do not show where it bends, and what it says beyond them is too high. Hold the end where it is known ({held}), and train runs up to a third of it.",
        )


def _conventions(runs: Runs, rows: pd.DataFrame, law: Law | None) -> Iterator[str]:
    if runs.params != "given":
        return  # our records hold every count, and one is chosen for all
    stated = _different(rows, "params_convention")
    if stated:
        yield warn(
            "W-CONV",
            f"the table says that N is counted in different ways ({', '.join(stated)}). Fit them apart (sl.fit_groups), or load one count for all (columns=).",
        )
        return
    ratio = compute_ratio(rows)
    for by in ("study", "group", "source"):
        if ratio is None or by not in rows or rows[by].nunique() < 2:
            continue
        share = pd.Series(ratio, index=rows.index).groupby(rows[by])
        middle, width = share.median(), share.max() / share.min() - 1
        # Within each group C/(6ND) is one number, and it is not the same number.
        if width.max() < 0.02 and middle.max() / middle.min() > 1 + LEFT_OUT:
            each = ", ".join(f"{k} {v:.3g}" for k, v in middle.items())
            yield warn(
                "W-CONV",
                f"C is another multiple of 6 N D in each {by} ({each}), so N or C is not counted alike. Fit them apart (sl.fit_groups(runs, by={by!r})), or bring them to one convention.",
            )
            return


def _left_out(runs: Runs, rows: pd.DataFrame, law: Law | None) -> Iterator[str]:
    ratio = compute_ratio(rows)
    if ratio is None or runs.flops == "counted":
        return
    # Counted C is the whole; 6ND leaves a share of it out, or counts tables that do no work.
    share = 1 - 1 / ratio
    low, high = (f"{100 * s:.0f} %" for s in (share.min(), share.max()))
    if "flops_counted" in rows and rows["flops_counted"].notna().all():
        if np.abs(share).max() > LEFT_OUT:
            what = (
                f"6ND leaves out {low} to {high} of the counted compute"
                if share.max() > LEFT_OUT
                else f"6ND is up to {100 * -share.min():.0f} % more than the counted compute"
            )
            yield warn(
                "W-6ND",
                f"{what}, by run; an optimum at a budget moves by as much. Use runs.using(flops='counted').",
            )
    elif np.ptp(ratio) < 0.02 * ratio.min() and abs(share[0]) > LEFT_OUT:
        yield warn(
            "W-6ND",
            f"the given C is {ratio[0]:.3g} times 6 N D in every run ({100 * share[0]:.0f} % of C beyond 6ND), so N leaves parameters out or C counts more than matrix products. Say which N and C are meant, and predict with the same.",
        )


def _unit_of_loss(runs: Runs, rows: pd.DataFrame, law: Law | None) -> Iterator[str]:
    if ("loss" not in runs.loss and runs.loss != "L") or is_set(runs.loss):
        return  # on a text unlike its own a model may be worse than guessing
    L = rows["L"].to_numpy(float)
    guess = np.log(number(rows, "vocab").to_numpy(float))  # nats of an even guess over the tokens
    worse = L - guess > 0.1
    if worse.any():
        i = int(np.argmax(worse))
        yield warn(
            "W-UNIT",
            f"{worse.sum()} of {len(L)} losses are above ln(vocab) = {guess[i]:.3g}, first {L[i]:.4g} in {rows['run_id'].iloc[i]}: worse than a blind guess. In bits or perplexity? Then load(..., units={{'val_loss': 'bits/token'}}) or 'perplexity'; else leave diverged runs out.",
        )
    elif L.min() > HIGH:
        yield warn(
            "W-UNIT",
            f"the lowest loss is {L.min():.4g} nats/token, more than a blind guess among 100,000 tokens costs. Perplexities are loaded with units={{'val_loss': 'perplexity'}}, bits with 'bits/token'.",
        )


def _swapped(runs: Runs, rows: pd.DataFrame, law: Law | None) -> Iterator[str]:
    N, D = rows["N"].to_numpy(float), rows["D"].to_numpy(float)
    few = int((D < N).sum())
    if 2 * few > len(N):
        yield warn(
            "W-UNIT",
            f"{few} of {len(N)} runs saw fewer tokens than they have parameters. Check that N and D are not swapped, and their units: load(..., units={{'tokens': 'M'}}) or 'B'.",
        )
    elif N.max() < 1e6 and D.max() > 1e5 * N.max():
        yield warn(
            "W-UNIT",
            f"the largest N is {N.max():.4g} parameters with {format_quantity(D.max())} tokens. If N is in millions: load(..., units={{'params': 'M'}}).",
        )


def _one_ratio(runs: Runs, rows: pd.DataFrame, law: Law | None) -> Iterator[str]:
    M = (rows["D"] / rows["N"]).to_numpy(float)
    both = law is None or {"N", "D"} <= set(law.inputs)
    if both and len(M) > 2 and M.max() / M.min() < ONE_RATIO:
        yield warn(
            "W-TPP",
            f"all runs have about {np.median(M):.3g} tokens per parameter, so the parts of N and of D cannot be told apart. Add runs at a fourth and at four times that ratio, or fit a law of one variable (power_C_floor).",
        )


def _curves(runs: Runs, rows: pd.DataFrame, law: Law | None) -> Iterator[str]:
    name = next(
        (c for c in ("run_id", "run", "run_name", "trajectory", "curve") if _repeats(rows, c)), ""
    )
    step = next((c for c in ("step", "_step", "iteration") if c in rows), "")
    if not name and step and rows[step].nunique() > 1:
        rows = rows.assign(_of=rows["N"].map(str) + _others(rows))
        name = "_of" if _repeats(rows, "_of") else ""
    if name:
        sizes = rows.groupby(name).size()
        yield warn(
            "W-CURVE",
            f"{len(rows)} rows come from {len(sizes)} runs (up to {sizes.max()} of one run, at growing D): points of training curves among final losses. They are not independent and their learning rate had not decayed. Keep the last row of each run.",
        )


def _repeats(rows: pd.DataFrame, name: str) -> bool:
    """Whether a name stands for several rows of one N at different D."""
    if name not in rows or rows[name].nunique() == len(rows):
        return False
    groups = rows[rows[name].notna()].groupby(name)
    return bool(((groups["D"].nunique() > 1) & (groups["N"].nunique() == 1)).any())


def _others(rows: pd.DataFrame) -> pd.Series:
    """What tells runs of one size apart, as text: every column of text, and the settings."""
    settings = ("seed", "order_seed", "lr", "peak_lr", "batch_tokens", "batch_seqs", "weight_decay")
    skip = ("run_id", "status", "role", "folder")
    names = [
        c for c in rows if c not in skip and (rows[c].dtype.kind not in "iufbc" or c in settings)
    ]
    return rows[names].astype(str).agg("|".join, axis=1) if names else pd.Series("", rows.index)


def _schedule(runs: Runs, rows: pd.DataFrame, law: Law | None) -> Iterator[str]:
    if law is not None and law.family == "schedule":
        return
    done = number(rows, "steps") / number(rows, "steps_planned")
    early = (done < EARLY).to_numpy()
    if early.any():
        i = int(np.argmax(early))
        yield warn(
            "W-SCHED",
            f"{early.sum()} of {len(rows)} losses were taken before the schedule ended, first {rows['run_id'].iloc[i]} at {100 * done.iloc[i]:.0f} % of its steps. Train them to the end, or leave them out.",
        )
        return
    kinds = _different(rows, "schedule")
    if "constant" in kinds:
        yield warn(
            "W-SCHED",
            f"some losses are of a constant learning rate, others of a decayed one ({', '.join(kinds)}); decay alone lowers a loss. Fit them apart: sl.fit_groups(runs, by='schedule').",
        )


def _warmup(runs: Runs, rows: pd.DataFrame, law: Law | None) -> Iterator[str]:
    share = (number(rows, "warmup_steps") / number(rows, "steps")).to_numpy()
    long = share > LONG_WARMUP
    if long.any():
        i = int(np.nanargmax(share))
        yield warn(
            "W-WARM",
            f"the warm-up takes more than 10 % of {long.sum()} of {len(rows)} runs, most ({100 * share[i]:.0f} %) in {rows['run_id'].iloc[i]}; it lifts the loss of short runs and so the exponent of N. Scale the warm-up with the run.",
        )


def _started(runs: Runs, rows: pd.DataFrame, law: Law | None) -> Iterator[str]:
    """Training that went into the weights a run started from is in none of its columns."""
    name = "" if law is None else law.name
    if "init_hash" not in rows or name.startswith("transfer"):
        return
    count = int(rows["init_hash"].notna().sum())
    if 0 < count < len(rows):
        yield warn(
            "W-INIT",
            f"{count} of {len(rows)} runs start from trained weights (column init_from), and their D leaves out what those had seen. Leave them out (runs.where(runs.fit_rows['init_hash'].isna())) or fit them alone (group=init_hash).",
        )
    elif count and not name.startswith("finetune"):
        yield warn(
            "W-INIT",
            f"all {count} runs start from trained weights (column init_from), so this law is one of going on from them: its D leaves out what they had seen, and its optimum is not that of fresh models. Say so beside its numbers.",
        )


def _epochs(runs: Runs, rows: pd.DataFrame, law: Law | None) -> Iterator[str]:
    if law is not None and {"unique_tokens", "U", "epochs"} & {*law.inputs, *law.columns.values()}:
        return
    epochs = (rows["D"] / number(rows, "unique_tokens")).to_numpy()
    many = epochs > 1 + 1e-3
    if many.any():
        yield warn(
            "W-EPOCH",
            f"{many.sum()} of {len(rows)} runs saw their tokens more than once, up to {np.nanmax(epochs):.3g} times; a repeated token is worth less than a new one. Use a law of repetition, or leave these runs out.",
        )


def _tokenizers(runs: Runs, rows: pd.DataFrame, law: Law | None) -> Iterator[str]:
    if is_per_byte(runs.loss):
        return
    kinds = _different(rows, "tokenizer") or _different(rows, "vocab")
    if kinds:
        yield warn(
            "W-VOCAB",
            f"losses per token of different tokenizers ({', '.join(kinds[:4])}) are not comparable. Fit them apart (sl.fit_groups), or per byte: runs.using(loss='val_bits_per_byte').",
        )


def _objectives(runs: Runs, rows: pd.DataFrame, law: Law | None) -> Iterator[str]:
    for name in ("objective", "training_objective", "task"):
        kinds = _different(rows, name)
        if kinds:
            yield warn(
                "W-OBJ",
                f"losses of different training objectives ({', '.join(kinds[:4])}) are not on one scale. Fit them apart: sl.fit_groups(runs, by={name!r}).",
            )
            return


def _unread(runs: Runs, rows: pd.DataFrame, law: Law | None) -> Iterator[str]:
    """A law of one of N, D, C on runs whose loss also depends on the rest."""
    read = [] if law is None else [name for name in law.inputs if name in "NDC"]
    if law is None or len(read) != 1 or law.output != "loss" or len(rows) < 8:
        return
    rest = {"N": ("D", rows["D"]), "D": ("N", rows["N"]), "C": ("D/N", rows["D"] / rows["N"])}[
        read[0]
    ]
    x, z, y = (_standard(np.log(v.to_numpy(float))) for v in (rows[read[0]], rest[1], rows["L"]))
    without = np.stack([np.ones_like(x), x, x**2], axis=1)
    before, after = (
        float(((y - A @ np.linalg.lstsq(A, y, rcond=None)[0]) ** 2).sum())
        for A in (without, np.column_stack([without, z, z**2]))
    )
    # An F of 10 with two extra terms is luck in fewer than one table of a hundred, even with 8 runs
    # left over 3; and what is explained must be worth a sentence.
    if before - after > 20 * after / (len(y) - 5) + 0.01 * len(y):
        yield warn(
            "W-DESIGN",
            f"{law.name} does not read {rest[0]}, on which these losses depend: it explains {100 * (1 - after / before):.0f} % of what {read[0]} leaves. Use a law of N and D, or runs of one {rest[0]}.",
        )


def _standard(x: np.ndarray) -> np.ndarray:
    return (x - x.mean()) / max(float(x.std()), 1e-12)


def _different(rows: pd.DataFrame, name: str) -> list[str]:
    """The values of a column as text, if there is more than one."""
    values = sorted({str(v) for v in rows[name].dropna()}) if name in rows else []
    return values if len(values) > 1 else []

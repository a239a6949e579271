"""scaling evaluate RUN or SWEEP data.validation.NAME=TEXT ...: score finished runs on further texts.

  scaling evaluate quickstart data.validation.zh=texts/zh.txt          every finished run of a sweep
  scaling evaluate results/single/llama-n1M-... data.validation.code='code/*.txt'      one run
  scaling evaluate quickstart data.validation.zh=zh.jsonl data.text_key=content data.val_tokens=1M

Texts are what data.path takes: .txt, .jsonl or .parquet files, a folder or glob of them, or a
Hugging Face dataset. They are read by each run's own tokenizer. The runs must have kept their weights
(train.keep_checkpoint=true, the default). What a record has already is not scored again, so the
command can be repeated. Scores go to `val_sets` of run.json, and are columns of the analysis:

  scaling fit quickstart loss=val_loss_zh              nats/token; also val_se_zh, val_bpb_zh

Finished runs whose text has a column that says the group (language, domain) are scored on each group of their
own held-out text, and labelled ones judged by group: val_loss_GROUP, accuracy_GROUP; then `scaling gaps`:

  scaling evaluate mysweep data.group_key=language

What runs are judged by beside their loss (accuracy, F1, BLEU, ROUGE: by their objective) is taken at their
end; again, or for the first time, by measures=true. choices.NAME=FILE.jsonl asks multiple-choice questions,
{"question": "...", "choices": ["...", "..."], "answer": 0} in each line, of decoders trained on text:

  scaling evaluate translate measures=true                             bleu, chrf, rouge_1 ... as columns
  scaling evaluate quickstart choices.quiz=quiz.jsonl                  quiz_accuracy, quiz_accuracy_norm

The text that decoders write is judged by samples=true: where the source is known (data=ngram, markov), sample_excess, by
how many nats a written token is less likely under the source than a real one; of other text sample_words, the
share of words that occur in the training text, and sample_distinct:

  scaling evaluate gallery samples=true

Other keys: data.cache, train.device, train.threads, results.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from scaling.cli import SETS, split_sweep, sweep_names
from scaling.study.config import check_set_names
from scaling.study.errors import ConfigError, RecordError, ScalingError, did_you_mean
from scaling.study.plan import RunPlan
from scaling.study.record import RunRecord, read_record
from scaling.study.table import Table
from scaling.study.units import format_quantity, parse_quantity

KEYS = ("data.val_tokens", "data.text_key", "data.cache", "train.device", "train.threads", "results")  # fmt: skip

OTHERS = ("measures", "samples", "data.group_key", "choices")  # which say what is scored

# where there are groups, only the first measures of an objective are shown; all are in the record
UNSHOWN = ("macro_f1", "chrf", "rouge_1", "rouge_2", "exact_match")

SAMPLES = "samples"
WORSE = "!"  # behind a loss that an even guess over the tokens would beat


def run_evaluate(arguments: Sequence[str]) -> int:
    """Score every run named, print the table; 1 if a run could not be scored."""
    name, rest = split_sweep(arguments)
    if name is None:
        raise ConfigError(
            "name a run's folder or a sweep, e.g. `scaling evaluate quickstart data.validation.zh=zh.txt`."
        )
    asked, rest = take_judging(rest)
    key, rest = take_group_key(rest, asked)
    sets, options = read_options(rest, needed=asked is None and key is None)
    folders = find_runs(name, Path(str(options.pop("results", "results"))))
    scored, problems = _score_all(folders, sets, options, asked, key)
    groups = group_names(scored) if key else []
    if sets or groups:
        print(describe_scores(scored, [*sets, *groups]))
    if asked is not None or (groups and any(r.measures for r in scored)):
        print(describe_measures(scored))
    for problem in problems:
        print(problem)
    return int(bool(problems))


def take_judging(arguments: Sequence[str]) -> tuple[dict[str, str] | None, list[str]]:
    """Return what runs are judged by, and the other arguments.

    Returns:
        Files of questions by name, empty for the measures of the runs' own objectives, {SAMPLES: ""} for the
        text that runs write; null: nothing is asked.
    """
    rest, files, own, samples = [], {}, False, False
    for argument in arguments:
        key, _, text = argument.lstrip("+").partition("=")
        if key.startswith("choices."):
            files[key.removeprefix("choices.")] = text.strip("'\"")
        elif key == "measures" and text in ("true", "false"):
            own = text == "true"
        elif key == SAMPLES and text in ("true", "false"):
            samples = text == "true"
        else:
            rest.append(argument)
    if own + bool(files) + samples > 1:
        raise ConfigError(
            "measures, samples, choices: are taken one after the other. Leave all but one out."
        )
    check_names(files)
    return ({SAMPLES: ""} if samples else files if own or files else None), rest


def take_group_key(
    arguments: Sequence[str], asked: Mapping[str, str] | None
) -> tuple[str | None, list[str]]:
    """Return the column that groups the runs' own text, null if none is asked for, and the other arguments."""
    from scaling.cli.overrides import read_value

    named = [a for a in arguments if a.lstrip("+").startswith("data.group_key=")]
    rest = [a for a in arguments if a not in named]
    if not named:
        return None, rest
    if asked is not None or any(a.lstrip("+").startswith(f"{SETS}.") for a in rest):
        raise ConfigError(
            f"data.group_key, {SETS}.NAME, measures, choices: are scored one after the other. Leave all but one out."
        )
    return str(read_value(named[-1].partition("=")[2])), rest


def group_names(records: Iterable[RunRecord]) -> list[str]:
    """Return the groups that records have scores of, in order."""
    sets = (item for r in records for item in (r.val_sets or {}).items())
    return list(dict.fromkeys(name for name, scores in sets if scores.get("group") is not None))


def check_names(files: Mapping[str, str]) -> None:
    """Refuse names of question files that make no column."""
    for name, path in files.items():
        if not re.fullmatch(r"[A-Za-z0-9_-]+", name) or not path:
            raise ConfigError(
                f"choices.{name}={path}: becomes the column {name}_accuracy. Write choices.NAME=FILE.jsonl with a name of "
                "letters a to z, digits, _ and -; the path may hold any script."
            )


def read_options(
    arguments: Sequence[str], *, needed: bool = True
) -> tuple[dict[str, str], dict[str, Any]]:
    """Return the sets and the other keys of a command line.

    Args:
        needed: whether there must be a set.

    Raises:
        ConfigError: no set is named, or a key that does not belong here.
    """
    from scaling.cli.overrides import read_value

    sets: dict[str, str] = {}
    options: dict[str, Any] = {}
    for argument in arguments:
        key, _, text = argument.lstrip("+").partition("=")
        if key.startswith(f"{SETS}."):
            sets[key[len(SETS) + 1 :]] = str(read_value(text))
        elif key in KEYS:
            options[key] = read_value(text)
        else:
            raise ConfigError(
                f"{key}: is no key of evaluate.{did_you_mean(key, [*KEYS, SETS, *OTHERS])} It takes {SETS}.NAME=TEXT, {', '.join([*OTHERS, *KEYS])}."
            )
    if not sets and needed:
        raise ConfigError(f"name at least one text to score: {SETS}.NAME=TEXT, e.g. {SETS}.zh=zh.txt.")  # fmt: skip
    check_set_names(sets)
    return sets, options


def find_runs(name: str, results: Path) -> list[Path]:
    """Return the folders of the runs meant by a path, a sweep's name, or a run's.

    Raises:
        RecordError: there are none.
    """
    for root in (Path(name), results / name, *sorted(results.glob(f"*/{name}"))):
        found = sorted(f.parent for f in root.rglob("run.json"))
        if found:
            return found
    known = [f.name for f in results.iterdir() if f.is_dir()] if results.is_dir() else []
    raise RecordError(
        f"{results / name}: no runs there.{did_you_mean(name, [*known, *sweep_names()])} Name a sweep that was trained, or a run's folder."
    )


def unscored(plans: Iterable[RunPlan]) -> str:
    """Return the command that scores sets which finished runs were not scored on; empty if none."""
    lacking: dict[str, str] = {}
    runs: set[str] = set()
    ungrouped: list[RunPlan] = []
    for plan in plans:
        sets = _val_sets(plan) or {}
        for name, text in (plan.config.data.validation or {}).items():
            if name not in sets:
                lacking[name] = text
                runs.add(plan.run_id)
        if plan.config.data.group_key and not any("group" in s for s in sets.values()):
            ungrouped.append(plan)
    if not runs:
        return _ungrouped(ungrouped)
    where = f"{len(runs)} finished runs have" if len(runs) > 1 else "the finished run has"
    texts = " ".join(f"{SETS}.{name}={_quoted(text)}" for name, text in lacking.items())
    target = plan.config.sweep if len(runs) > 1 else str(plan.folder)
    return f"{where} no score on {', '.join(lacking)}. For that: scaling evaluate {target} {texts}"


def _ungrouped(plans: Sequence[RunPlan]) -> str:
    """Return the command that scores groups of text which finished runs were not scored on; empty if none."""
    if not plans:
        return ""
    many, first = len(plans) > 1, plans[0]
    where = f"{len(plans)} finished runs have" if many else "the finished run has"
    target = first.config.sweep if many else str(first.folder)
    key = _quoted(f"data.group_key={first.config.data.group_key}")
    return f"{where} no score by group. For that: scaling evaluate {target} {key}"


def _val_sets(plan: RunPlan) -> Mapping[str, Any] | None:
    try:
        return read_record(plan.folder).val_sets
    except RecordError:
        return None


def _quoted(text: str) -> str:
    import shlex

    return shlex.quote(text)


def _score_all(
    folders: Sequence[Path],
    sets: Mapping[str, str],
    options: Mapping[str, Any],
    asked: Mapping[str, str] | None = None,
    key: str | None = None,
) -> tuple[list[RunRecord], list[str]]:
    """Score run after run behind a progress bar; one that cannot be scored does not stop the rest."""
    from scaling.cli.progress import progress_bar
    from scaling.training.rescore import judge_run, score_groups, score_run

    tokens, text_key = options.get("data.val_tokens"), options.get("data.text_key")
    changes = {k: v for k, v in options.items() if k not in ("data.val_tokens", "data.text_key")}
    number = None if tokens is None else float(parse_quantity(tokens, key="data.val_tokens"))
    scored: list[RunRecord] = []
    problems: list[str] = []
    with progress_bar() as bar:
        task = bar.add_task("scoring", total=len(folders))
        for folder in folders:
            try:
                if asked is not None:
                    written = asked == {SAMPLES: ""}  # a file has a path
                    record = judge_run(folder, choices=None if written else asked or None, samples=written, changes=changes)  # fmt: skip
                if key is not None:
                    record = score_groups(folder, key, changes=changes)
                if sets:
                    record = score_run(
                        folder, sets, tokens=number, text_key=text_key, changes=changes
                    )
                scored.append(record)
            except ConfigError:
                raise  # the same for every run
            except ScalingError as error:
                problems.append(f"not scored: {error}")
            bar.advance(task)
    if not scored:
        raise RecordError(problems[0])
    return scored, problems


def describe_measures(records: Sequence[RunRecord]) -> Table:
    """Return a table of what runs are judged by beside their loss."""
    names = list(dict.fromkeys(name for r in records for name in r.measures or {}))
    if any((r.measures or {}).get(n, {}).get("group") for r in records for n in names):
        names = [n for n in names if not n.startswith(UNSHOWN)]
    rows = []
    for r in records:
        found = [(r.measures or {}).get(name) for name in names]
        cells = ["-" if m is None else _with_error(m["value"], m["se"], None) for m in found]
        rows.append([r.run_id, format_quantity(r.params_non_embedding), format_quantity(r.tokens), _with_error(r.val_loss, r.val_loss_se, None), *cells])  # fmt: skip
    note = "± standard error. BLEU and chrF of 100, sample_excess in nats/token and the less the better, the others of 1; more is better."
    if not names:
        note = "Nothing but the loss: decoders trained on plain text are asked by choices.NAME=FILE.jsonl."
    return Table(["run", "N", "D", "val_loss", *names], rows, note=note)


def describe_scores(records: Sequence[RunRecord], names: Sequence[str]) -> Table:
    """Return a table of what runs score on their own held-out text and on further sets."""
    header = ["run", "N", "D", "val_loss", *(f"val_loss_{n}" for n in names), *(f"val_bpb_{n}" for n in names)]  # fmt: skip
    rows = []
    for r in records:
        sets = [(r.val_sets or {}).get(n, {}) for n in names]
        rows.append(
            [r.run_id, format_quantity(r.params_non_embedding), format_quantity(r.tokens), _with_error(r.val_loss, r.val_loss_se, r.vocab)]
            + [_with_error(s.get("loss"), s.get("se"), r.vocab) for s in sets]
            + ["-" if s.get("bits_per_byte") is None else f"{s['bits_per_byte']:.4f}" for s in sets]
        )  # fmt: skip
    note = "Losses in nats/token ± standard error over documents; bpb is bits per byte, which compares across tokenizers."
    if any(WORSE in cell for row in rows for cell in row):
        guesses = sorted({f"{even_guess(r.vocab):.4f}" for r in records if r.vocab})
        note += f" {WORSE} worse than an even guess over the tokens ({', '.join(guesses)})."
    return Table(header, rows, note=note)


def even_guess(vocab: int | None) -> float:
    """Return the loss in nats/token of an even guess over `vocab` tokens; infinite if not known."""
    return math.log(vocab) if vocab else math.inf


def _with_error(loss: float | None, error: float | None, vocab: int | None) -> str:
    """Write a loss with its error, and mark one that an even guess would beat."""
    if loss is None:
        return "-"
    text = f"{loss:.4f}" + (f" ± {error:.4f}" if error is not None else "")
    return text + (f" {WORSE}" if loss > even_guess(vocab) else "")

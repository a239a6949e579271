"""scaling attention | lens | induction RUN [key=value ...]: look inside a finished run.

  scaling attention RUN text="def main(): return 1"     where every head of every layer looks
  scaling attention RUN text="天地玄黄" layer=2 head=1     one head, large
  scaling attention RUN text="..." target="..." part=cross     of an encoder_decoder
  scaling lens RUN text="def main(): return 1"          what it would predict after each layer
  scaling lens RUN text="..." loss=true                 and its held-out loss if it stopped there
  scaling induction RUN                                 score of every head on repeated random tokens
  scaling induction SWEEP                               of all its runs, into their records; then:
  scaling fit SWEEP loss=induction_score law=sigmoid_D group=width

RUN is a run's folder, or its id under results; its weights must have been kept. Figures and CSV go to
the run's folder, or to out=FOLDER. font=FILE names a font (.ttf, .otf, .ttc) where none has the signs of
the text, e.g. Chinese. Where tokens stand for no text, it is their numbers: text="3 1 4 1 5".
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scaling.study.errors import ConfigError, ScalingError, did_you_mean
from scaling.study.table import Table
from scaling.study.units import format_quantity

COMMON = {"results": "results", "out": ""}
TEXT = {**COMMON, "text": "", "target": "", "font": ""}


def run_attention(arguments: Sequence[str]) -> int:
    """Write the maps of a text as CSV and as a figure; print what was written."""
    name, options = _split(
        arguments, {**TEXT, "layer": "", "head": "", "part": ""}, verb="attention"
    )
    folder, out = _folders(name, options)
    layer, head = (_number(options, key) for key in ("layer", "head"))
    if (layer is None) != (head is None):
        raise ConfigError("layer, head: one head is drawn large; give both, e.g. layer=2 head=1.")
    from scaling.present import style
    from scaling.present.inside import attention_grid, attention_head
    from scaling.training.attending import attention_maps, pick_part

    found = attention_maps(folder, options["text"], target=options["target"])
    parts = [pick_part(found, options["part"])] if options["part"] or layer else list(found.maps)
    files = [found.save(out / "attention.csv")]
    drawn: Any
    for part in parts:
        stem = f"attention_{part}" + (f"_layer{layer}_head{head}" if layer else "")
        if layer is not None and head is not None:
            drawn = attention_head(found, layer=layer, head=head, part=part, font=options["font"])
        else:
            drawn = attention_grid(found, part=part, font=options["font"])
        files += style.save(drawn, out / stem)
        style.close(drawn)
    print(describe_maps(found, parts))
    print("Saved: " + ", ".join(map(str, files)))
    return 0


def describe_maps(found: object, parts: Sequence[str]) -> Table:
    """Return a table of how far each head spreads its attention."""
    from scaling.training.attending import AttentionMaps

    assert isinstance(found, AttentionMaps)
    rows = [
        [part, str(i + 1), str(h + 1), f"{entropy:.3f}"]
        for part in parts
        for i, layer in enumerate(found.entropy(part))
        for h, entropy in enumerate(layer)
    ]
    return Table(["part", "layer", "head", "entropy [nats]"], rows, note="Mean entropy of a row of attention; 0: each position looks at one place.")  # fmt: skip


def run_lens(arguments: Sequence[str]) -> int:
    """Print what a run would predict after each layer, and draw it."""
    name, options = _split(arguments, {**TEXT, "loss": "false"}, verb="lens")
    folder, out = _folders(name, options)
    from scaling.present import style
    from scaling.present.inside import lens_figure
    from scaling.training.lens import logit_lens, loss_by_depth
    from scaling.training.opened import open_run

    opened = open_run(folder)
    found = logit_lens(opened, options["text"], target=options["target"])
    print(found.table())
    drawn = lens_figure(found, font=options["font"])
    files = style.save(drawn, out / "lens")
    style.close(drawn)
    if options["loss"] == "true":
        rows = [
            [str(depth), f"{loss:.4f}", "-" if se is None else f"{se:.4f}"]
            for depth, (loss, se) in enumerate(loss_by_depth(opened))
        ]
        print()
        print(Table(["layers", "loss [nats/token]", "standard error"], rows, note="On the run's held-out tokens; the last is its val_loss."))  # fmt: skip
    print("Saved: " + ", ".join(map(str, files)))
    return 0


def run_induction(arguments: Sequence[str]) -> int:
    """Score heads of one run or of a sweep, and keep the scores in the records."""
    name, options = _split(arguments, {"results": "results"}, verb="induction")
    from scaling.cli.evaluate import find_runs
    from scaling.cli.progress import progress_bar
    from scaling.training.heads import induction, score_induction

    folders = find_runs(name, Path(options["results"]))
    records, problems = [], []
    with progress_bar() as bar:
        task = bar.add_task("scoring", total=len(folders))
        for folder in folders:
            try:
                records.append(score_induction(folder))
            except ScalingError as error:
                problems.append(f"not scored: {error}")
            bar.advance(task)
    if len(folders) == 1 and records:
        print(induction(folders[0]).table())
    elif records:
        rows = [
            [r.run_id, format_quantity(r.params_non_embedding), format_quantity(r.tokens)]
            + [f"{m['value']:.3f} ± {m['se']:.3f}" for m in ((r.measures or {})[k] for k in ("induction_score", "repeat_gain"))]
            for r in records
        ]  # fmt: skip
        print(Table(["run", "N", "D", "induction_score", "repeat_gain [nats/token]"], rows, note="Kept in the records' measures: scaling fit SWEEP loss=induction_score law=sigmoid_D"))  # fmt: skip
    for problem in problems:
        print(problem)
    return int(bool(problems))


def _split(
    arguments: Sequence[str], known: dict[str, str], *, verb: str
) -> tuple[str, dict[str, str]]:
    """Separate the run's name from `key=value` options."""
    names = [a for a in arguments if "=" not in a]
    options = dict(known)
    for key, _, value in (a.partition("=") for a in arguments if "=" in a):
        if key not in known:
            raise ConfigError(f"{key}: is no key of {verb}.{did_you_mean(key, known)} It takes {', '.join(known)}.")  # fmt: skip
        options[key] = value
    if len(names) != 1:
        raise ConfigError(f"name one run, e.g. `scaling {verb} RUN{' text=...' if 'text' in known else ''}`; got {' '.join(names) or 'nothing'}.")  # fmt: skip
    if "text" in known and not options["text"]:
        raise ConfigError(f'text: is empty. Give what the run is to read: scaling {verb} {names[0]} text="..."')  # fmt: skip
    return names[0], options


def _folders(name: str, options: dict[str, str]) -> tuple[Path, Path]:
    from scaling.cli.export import find_run

    folder = find_run(name, Path(options["results"]))
    return folder, Path(options["out"]) if options["out"] else folder / "inside"


def _number(options: dict[str, str], key: str) -> int | None:
    if not options[key]:
        return None
    if not options[key].isdecimal():
        raise ConfigError(f"{key}: {options[key]!r} is no number. They are counted from 1.")
    return int(options[key])

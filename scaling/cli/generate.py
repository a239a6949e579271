"""scaling generate RUN or SWEEP prompt=TEXT [key=value ...]: text that trained models write.

  scaling generate gallery prompt="def main("                  every size of a sweep, smallest first
  scaling generate llama-n1M-d20M-s0-1a2b3c4d prompt="import " tokens=200
  scaling generate results/single/llama-... prompt=天地玄黄 temperature=0        the likeliest text
  scaling generate my_model prompt="Once" samples=3 seed=7 top_p=0.95       a Hugging Face folder
  scaling generate RUN prompt="for i in" beams=4                  the likeliest of what four beams find

  prompt          text to continue; may be empty: a text from its beginning. For a run of an
                  encoder-decoder, text with <extra_id_0>, <extra_id_1> ... where some is missing.
                  For a source of symbols, numbers: prompt="3 17 4".
  tokens          written at most. [tokens] Default 64.
  temperature     below 1 likelier tokens are preferred; 0: always the likeliest. Default 0.8, with
                  beams 0.
  top_k           draw among so many of the likeliest tokens only.
  top_p           draw among the fewest tokens whose probabilities sum to this only.
  beams           continuations followed at once.
  length_penalty  of beams: log-probability / tokens ** this. Default 1.
  samples         texts for each model. Default 1.
  seed            of what is drawn; one seed gives one text. Default 0.
  device          cpu, cuda or auto. Default auto.
  results         where runs and sweeps are looked for. Default results.

Weights must have been kept (train.keep_checkpoint=true, the default). What is written can be longer
than the model's context: when that is full, its older half is forgotten.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scaling.study.errors import CheckpointError, ConfigError, RecordError, did_you_mean
from scaling.study.pretrained import RUN_WEIGHTS
from scaling.study.record import read_record
from scaling.study.units import format_quantity, parse_quantity

if TYPE_CHECKING:
    from scaling.training.writer import Writer

TEMPERATURE = 0.8
COUNTS = ("tokens", "top_k", "beams", "samples", "seed")
NUMBERS = ("temperature", "top_p", "length_penalty")
KEYS = ("prompt", *COUNTS, *NUMBERS, "device", "results")


@dataclass(frozen=True)
class Request:
    """What a command line asks for. how: keywords of `Decoding`."""

    name: str
    prompt: str
    how: dict[str, Any]
    samples: int = 1
    device: str = "auto"
    results: str = "results"


def run_generate(arguments: Sequence[str]) -> int:
    """Print what the model of each run writes; 1 if none could."""
    request = read_request(arguments)
    folders, problems = find_writers(request.name, Path(request.results))
    from scaling.training.generation import Decoding
    from scaling.training.writer import open_writer

    how = Decoding(**request.how)  # a mistake in it costs no loading
    several = len(folders) > 1
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="replace")  # a terminal that knows no Chinese
    for number, folder in enumerate(folders):
        writer = open_writer(folder, device=request.device)
        if several or request.samples > 1:
            print(("\n" if number else "") + heading(writer))
        _print_texts(writer, request, how)
    for problem in problems:
        print(f"left out: {problem}", file=sys.stderr)
    return 0


def read_request(arguments: Sequence[str]) -> Request:
    """Read a command line; nothing in a prompt means anything but itself.

    Raises:
        ConfigError: no run or no prompt, a key that is none, or a value that is no number.
    """
    names = [a for a in arguments if "=" not in a]
    values: dict[str, str] = {}
    for argument in (a for a in arguments if "=" in a):
        key, _, value = argument.partition("=")
        if key not in KEYS:
            raise ConfigError(f"{key}: is no key of generate.{did_you_mean(key, KEYS)} There are {', '.join(KEYS)}.")  # fmt: skip
        values[key] = value
    if len(names) != 1 or "prompt" not in values:
        raise ConfigError(
            'name a run or a sweep and a prompt in quotes, e.g. `scaling generate gallery prompt="def main("`; '
            f"got {' '.join(names) or 'no run'}{'' if 'prompt' in values else ' and no prompt'}."
        )
    how: dict[str, Any] = {k: _count(k, values[k]) for k in COUNTS if values.get(k)}
    how |= {k: _number(k, values[k]) for k in NUMBERS if values.get(k)}
    how.setdefault("temperature", 0.0 if how.get("beams", 1) > 1 else TEMPERATURE)
    samples = how.pop("samples", 1)
    if samples < 1:
        raise ConfigError(f"samples: {samples} texts are none. Set samples=3, or leave it out.")
    if samples > 1 and how["temperature"] == 0:
        raise ConfigError(f"samples: {samples} texts would all be the same at temperature 0. Set temperature=0.8, or leave samples out.")  # fmt: skip
    others = {k: values[k] for k in ("device", "results") if values.get(k)}
    return Request(names[0], values["prompt"], how, samples, **others)


def _number(key: str, text: str) -> float:
    return float(parse_quantity(text, key=key))


def _count(key: str, text: str) -> int:
    number = _number(key, text)
    if number != int(number):
        raise ConfigError(f"{key}: expected a whole number; got {text}.")
    return int(number)


def find_writers(name: str, results: Path) -> tuple[list[Path], list[str]]:
    """Return the folders of the models meant, smallest first, and what was left out and why.

    Raises:
        RecordError: no such run or sweep.
        CheckpointError: none of its runs has kept weights.
    """
    from scaling.cli.evaluate import find_runs

    path = Path(name).expanduser()
    if (path / "config.json").is_file() and not (path / "run.json").is_file():
        return [path], []
    found, problems = [], []
    for folder in find_runs(name, results):
        try:
            record = read_record(folder)
        except RecordError as error:
            problems.append(str(error))
            continue
        if record.status != "done":
            problems.append(f"{folder.name}: the run is {record.status}, not done.")
        elif not (folder / RUN_WEIGHTS).is_file():
            problems.append(f"{folder.name}: its weights were not kept.")
        else:
            found.append((record.params_non_embedding or 0, record.tokens or 0, folder))
    if not found:
        why = f"{problems[0]} " if len(problems) == 1 else ""
        raise CheckpointError(f"{name}: no finished run with kept weights. {why}Train with train.keep_checkpoint=true.")  # fmt: skip
    return [folder for *_, folder in sorted(found)], problems


def heading(writer: Writer) -> str:
    """Return a line about a model: its size, its loss, its name."""
    loss = "" if writer.loss is None else f", loss {writer.loss:.4f}"
    return f"--- N {format_quantity(writer.params)}{loss}: {writer.name}"


def _print_texts(writer: Writer, request: Request, how: Any) -> None:
    """Print prompt and continuation as they come; several samples one after another."""
    before = request.prompt if writer.continues else ""
    if request.samples == 1:
        _show([before], end="")
        _show(writer.stream(request.prompt, how))
        return
    for number, made in enumerate(writer.write([request.prompt] * request.samples, how), start=1):
        _show([f"[{number}] ", before, made])


def _show(pieces: Iterable[str], *, end: str = "\n") -> None:
    for piece in pieces:
        print(printable(piece), end="", flush=True)
    print(end, end="")


def printable(text: str) -> str:
    """Return text without characters that would steer the terminal; line ends and tabs stay."""
    return "".join(c if c in "\n\t" or c.isprintable() else _picture(c) for c in text)


def _picture(character: str) -> str:
    code = ord(character)
    return chr(0x2400 + code) if code < 0x20 else "\ufffd" if code < 0xA0 else character

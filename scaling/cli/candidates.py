"""What may stand where the cursor is: verbs, sweeps, keys, values. Answers at once: nothing heavy is imported."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from scaling.cli import HELP, VERBS, sweep_names
from scaling.study.paths import data_dir
from scaling.study.schema import Key

# What a verb's bare word names.
OF_SWEEPS = frozenset({"plan", "train", "demo", "auto", "verify"})
OF_RESULTS = frozenset({
    "status", "fit", "plot", "report", "next", "noise", "gaps", "audit", "clean", "bundle", "evaluate", "verify", "forecast", "generate", "induction",
})  # fmt: skip
OF_RUNS = frozenset({"export", "attention", "lens", "generate", "evaluate"})
WORDS = {"forecast": ("seal", "score", "board"), "completion": ("bash", "zsh", "fish")}
# Whose keys a verb takes: those of a run, those of a fit.
RUN_KEYS = frozenset({"plan", "train", "demo", "auto", "verify"})
FIT_KEYS = frozenset({"fit", "plot", "report", "next", "noise", "gaps", "audit", "auto", "verify", "forecast"})  # fmt: skip
GROUPS = ("model", "data", "tracker", "hydra/launcher")
LAUNCHER = "hydra.launcher."
_PLACE = Path(__file__).parent
_LAWS = _PLACE.parent / "analysis" / "laws"


@dataclass(frozen=True)
class Candidate:
    """A word that may stand here; one that ends in = or . or / goes on."""

    text: str
    meaning: str = ""


def find_candidates(words: list[str]) -> list[Candidate]:
    """Return what may stand in place of the last word, sorted; none: a file may.

    Args:
        words: what is typed behind `scaling`, the last one as far as the cursor.
    """
    *before, word = words or [""]
    found = (c for c in _all(before, word) if c.text.startswith(word) and c.text.isprintable())
    return sorted({c.text: c for c in found}.values(), key=_order)


def _order(candidate: Candidate) -> tuple[bool, str]:
    return candidate.text.startswith("-"), candidate.text


def _all(before: list[str], word: str) -> Iterable[Candidate]:
    if not before:
        return [*_verbs(), Candidate("--help"), Candidate("--version")]
    verb = before[0]
    if verb not in VERBS:
        return []
    if word.startswith("-"):
        return [Candidate("--help"), *(Candidate(f) for f in _flags(verb))]
    key, equals, value = word.partition("=")
    if equals:
        head, comma, _ = value.rpartition(",")  # a grid: values with commas
        return [Candidate(f"{key}={head}{comma}{v}") for v in _values(verb, key)]
    bare = [] if any("=" not in b and not b.startswith("-") for b in before[1:]) else _bare(verb)
    keys = _keys(verb, word, before) if verb != "keys" else ()
    return [*map(Candidate, bare), *keys]


def _verbs() -> Iterator[Candidate]:
    for verb in VERBS:
        line = re.search(rf"^  {verb} +(.*?)(?:  |, *$|$)", HELP, re.MULTILINE)
        yield Candidate(verb, line[1].strip() if line else "")


def _bare(verb: str) -> Iterator[str]:
    yield from WORDS.get(verb, ())
    if verb in OF_SWEEPS | OF_RESULTS:
        yield from sweep_names()
    if verb in OF_RESULTS:
        yield from (f.name for f in _folders(Path("results")))
    if verb in OF_RUNS:
        yield from (r.name for s in _folders(Path("results")) for r in _folders(s))
    if verb == "keys":
        yield from sorted({k.name.partition(".")[0] for k in _declared(verb)})


def _folders(place: Path) -> list[Path]:
    try:
        return sorted(p for p in place.iterdir() if p.is_dir() and not p.name.startswith("."))
    except OSError:
        return []


def _keys(verb: str, word: str, before: list[str]) -> Iterator[Candidate]:
    """Keys by their next part: `model.` before `model.norm=`."""
    base = word[: word.rfind(".") + 1]
    for key in _declared(verb):
        if key.name.startswith(base):
            head, dot, _ = key.name[len(base) :].partition(".")
            meaning = "" if dot else _first_sentence(key.text)
            yield Candidate(f"{base}{head}{dot or '='}", meaning)
    for name in _named_in_help(verb):
        if name.startswith(base) and "." not in name[len(base) :]:
            yield Candidate(f"{name}=")
    if verb in RUN_KEYS:
        yield from (Candidate(f"{g}=", "a choice of conf/") for g in GROUPS)
        yield from (Candidate(f"{LAUNCHER}{n}=") for n in _launcher_keys(before) if word.startswith("hydra."))  # fmt: skip


def _first_sentence(text: str) -> str:
    return re.split(r"[.;:] ", text)[0].rstrip(".")


@functools.cache
def _declared(verb: str) -> tuple[Key, ...]:
    from scaling.study.config import FitConfig, RunConfig, config_keys

    run = config_keys(RunConfig) if verb in RUN_KEYS | {"keys"} else ()
    return (*run, *(config_keys(FitConfig) if verb in FIT_KEYS else ()))


@functools.cache
def _source(verb: str) -> str:
    """The file of a verb, read and not imported: what it imports takes seconds."""
    return (_PLACE / f"{VERBS[verb].rsplit('.', 1)[-1]}.py").read_text(encoding="utf-8")


def _named_in_help(verb: str) -> set[str]:
    """Options that the verb's help shows, or that it declares as OPTIONS."""
    lines = re.findall(rf"^ *scaling {verb}\b(.*)", _source(verb), re.MULTILINE)
    named = re.findall(r"(?<=\s)([a-z][\w./]*)=", "\n".join(lines))
    declared = re.search(r"^OPTIONS\b[^{]*\{(.*?)\}", _source(verb), re.MULTILINE | re.DOTALL)
    return {*named, *re.findall(r'"(\w+)":', declared[1] if declared else "")} - {"key"}


def _flags(verb: str) -> set[str]:
    lines = re.findall(rf"^ *scaling {verb}\b(.*)", _source(verb), re.MULTILINE)
    flags = set(re.findall(r"(?<=[\s\[])(--?[a-z]+)\b", "\n".join(lines)))
    return flags | ({"-m", "--cfg"} if verb == "train" else set())


def _values(verb: str, name: str) -> Iterable[str]:
    """What a key may be: choices, true or false, names of files in conf/, laws."""
    if name in GROUPS:
        places = [data_dir("conf") / name, Path("conf") / name]
        return {f.stem for place in places if place.is_dir() for f in place.glob("*.yaml")}
    if name == "law":
        return sorted(law_names())
    if name in ("sweep", "sweeps"):
        return sweep_names()
    for key in _declared(verb):
        if key.name == name:
            return key.choices or (("true", "false") if "true" in key.type else _listed(key.text))
    return ("true", "false") if name in ("calibrate", "simulate", "json") else ()


def law_names() -> set[str]:
    """Return names of the package's laws as declarations spell them; families by one axis are left out."""
    text = "\n".join(f.read_text(encoding="utf-8") for f in sorted(_LAWS.rglob("*.py")))
    return set(re.findall(r'(?<!return )\bLaw\(\s*name="(\w+)"', text))


def _listed(text: str) -> list[str]:
    """Values that a key's sentence lists behind its colon: `What is minimised: a, b, c.`"""
    values = text.partition(": ")[2].partition(";")[0].rstrip(".").split(", ")
    return values if len(values) > 2 and all(re.fullmatch(r"\w+", v) for v in values) else []


def _launcher_keys(before: list[str]) -> set[str]:
    chosen = [b.partition("=")[2] for b in before if b.startswith("hydra/launcher=")]
    files = (data_dir("conf") / "hydra" / "launcher").glob(f"{chosen[-1] if chosen else '*'}.yaml")
    text = "\n".join(f.read_text(encoding="utf-8") for f in files)
    return set(re.findall(r"^([a-z]\w*):", text, re.MULTILINE)) - {"defaults"}

"""scaling init [FOLDER] [key=value ...]: a small study of your own, ready to be planned, trained and fitted.

  scaling init my_study                            on Python's own library, which every machine has
  scaling init my_study data=path/to/text.txt      on your text: .txt, .jsonl, .parquet, a folder of them
  scaling init my_study data=texts.jsonl text_key=body name=first question="Does it scale?"

Writes a sweep with its question and cost, the text's configuration, a notebook, a README and a
.gitignore. Trains in about a minute on two cores. Nothing that is there is overwritten.

  data        files of text; left out: Python's own library
  text_key    column of .jsonl and .parquet that holds the text (text)
  name        of the sweep, and of its files and results; left out: the folder's name
  question    what the sweep is to answer, in a sentence
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from scaling.cli.options import split_options
from scaling.cli.owntext import look_at_text
from scaling.cli.starter import QUESTION, Starter
from scaling.study.errors import ConfigError
from scaling.study.paths import data_dir
from scaling.study.record import write_atomic

OPTIONS = {"data": "", "text_key": "text", "name": "", "question": QUESTION}
SHARED = ("README.md", ".gitignore")  # a folder may have its own, and nothing depends on ours
# Words that YAML or Hydra would read as something else than a name.
_TAKEN = frozenset({"true", "false", "null", "yes", "no", "on", "off", "nan", "inf"})


def run_init(arguments: Sequence[str]) -> int:
    """Write a study and say what to type next."""
    folder, starter = read_request(arguments)
    written, kept = write_files(folder, dict(starter.files(folder)))
    for line in starter.text.describe() if starter.text else []:
        print(line)
    print("\n".join(starter.describe()))
    for title, names in (("written", written), ("there already, left as it is", kept)):
        if names:
            print(f"In {folder}, {title}: {', '.join(names)}")
    print(next_steps(folder, starter.name))
    return 0


def read_request(arguments: Sequence[str]) -> tuple[Path, Starter]:
    """Return where a study is to be, and which.

    Raises:
        ConfigError: a name or folder that cannot be taken, or a text that cannot be read.
    """
    places, options = split_init(arguments)
    if len(places) > 1:
        raise ConfigError(
            f"{places[1]!r}: a second folder after {places[0]!r}. Give one; quote names with spaces."
        )
    given = places[0] if places else "."
    if not given.strip() or given.startswith("-"):
        raise ConfigError(
            f"{given!r}: is no folder to begin in. Write scaling init my_study; scaling init --help lists the options."
        )
    folder = Path(given).expanduser()
    if folder.absolute() == data_dir("sweeps").parent:
        raise ConfigError(
            f"{folder}: is the package's own folder. Make yours beside it: scaling init ../my_study"
        )
    name = check_name(options["name"] or name_of(folder))
    text = look_at_text(options["data"], key=options["text_key"]) if options["data"] else None
    question = " ".join(options["question"].split()) or QUESTION
    return folder, Starter(name, question, text)


def split_init(arguments: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Separate the folder from options."""
    return split_options(arguments, OPTIONS)


def name_of(folder: Path) -> str:
    """Return a folder's name as a sweep can have it."""
    name = re.sub(r"[^\w-]+", "_", folder.absolute().name).strip("_-")
    return name if re.match(r"[^\W\d_]", name) else f"study_{name}".rstrip("_")


def check_name(name: str) -> str:
    """Return the name of a sweep, which is a word of the command line and a file's name.

    Raises:
        ConfigError: it is none, or the package has a sweep of that name.
    """
    if not re.fullmatch(r"[^\W\d_][\w-]*", name) or name.lower() in _TAKEN:
        raise ConfigError(
            f"name: {name!r} cannot name a sweep. Begin with a letter and use letters, digits, _ and -, e.g. name=my_study."
        )
    taken = {f.stem for f in data_dir("sweeps").glob("*.yaml")}
    taken |= {f.stem for f in data_dir("conf").glob("data/*.yaml")}
    if name in taken:
        raise ConfigError(
            f"name: {name!r} is a sweep or a source of the package, which yours would hide. Take another, e.g. name=my_{name}."
        )
    return name


def write_files(folder: Path, files: dict[str, str]) -> tuple[list[str], list[str]]:
    """Write files that are not there yet; return the names of those written and of those kept.

    Raises:
        ConfigError: one of them is there with other content, and nothing is written then; or the
            folder takes no file.
    """
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder}: is a file. Give the name of a folder; nothing was written.")
    kept = [name for name in files if (folder / name).exists()]
    other = [n for n in kept if n not in SHARED and not _holds(folder / n, files[n])]
    if other:
        raise ConfigError(
            f"{folder}: there is already {', '.join(other)}, with other content. Nothing was written. Take another "
            "name, e.g. name=second, or another folder."
        )
    written = [name for name in files if name not in kept]
    for name in written:
        path = folder / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, files[name])
        except OSError as error:
            raise ConfigError(
                f"{path}: {error.strerror or error}. Free room, or take another folder; the same command writes what is missing."
            ) from error
    return written, kept


def _holds(path: Path, text: str) -> bool:
    return path.is_file() and path.read_bytes() == text.encode()


def next_steps(folder: Path, name: str) -> str:
    """Say what to type next."""
    here = folder.absolute() == Path.cwd()
    steps = [
        *([] if here else [(f"cd {shlex.quote(str(folder))}", "")]),
        (f"scaling plan {name}", "what will be run, exactly; nothing is trained"),
        (f"scaling train {name}", "train it; again: what is missing"),
        (f"scaling fit {name}", "the law, the best size for a budget, what to doubt"),
        (f"scaling verify {name}", "foretell a larger run, train it, compare"),
        (f"scaling report {name}", "one page with every figure, to look at and to send"),
    ]
    wide = max(len(command) for command, _ in steps) + 3
    lines = [f"  {command:{wide}}{what}".rstrip() for command, what in steps]
    return "\n".join(
        [
            "",
            "Next:",
            *lines,
            f"Then open {name}.ipynb. Your question goes into sweeps/{name}.yaml.",
        ]
    )

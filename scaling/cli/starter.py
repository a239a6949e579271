"""The files of a small study of one's own: a sweep, its text, a notebook, a README."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from string import Template

from scaling.cli.owntext import EPOCHS, OwnText
from scaling.study.config import RunConfig
from scaling.study.errors import ConfigError
from scaling.study.plan import make_plan
from scaling.study.units import format_flops, format_quantity

TEMPLATES = Path(__file__).with_name("templates")
QUESTION = "Which model size is best for a compute budget on this text, and what loss will a run at four times the largest budget reach?"
RATIOS = (5, 13, 32, 80, 200)  # tokens per parameter; the best of them is inside at every budget
FLOPS = 1.6e11  # largest budget: 25 runs take about a minute on two cores
STEP = 4  # between budgets
# For a short text budgets lie closer: the smallest stays 1e10, where 200 tokens per parameter are
# still a model (one needs 1,250 parameters).
SHORT_FLOPS, SHORT_STEP = 4e10, 2
CHECK = 4  # the check's budget over the largest
CHECK_RATIO = 60  # tokens per parameter that the check is given room for; its optimum was near 40
VAL_TOKENS = 65_536
MARGIN = 0.9  # documents are held out whole, and duplicates dropped


@dataclass(frozen=True)
class Scale:
    """How large a sweep is: its largest budget, and what it takes of the text.

    flops: counted; step: between budgets; val_tokens: held out; epochs: how often a run may see the text.
    """

    flops: float
    step: int
    val_tokens: int
    epochs: int

    @property
    def budgets(self) -> tuple[float, float, float]:
        """The three budgets [FLOPs], rising."""
        return self.flops / self.step**2, self.flops / self.step, self.flops

    @property
    def cost(self) -> str:
        """What the sweep costs, in words."""
        low, middle, high = self.budgets
        total = len(RATIOS) * (2 * low + 2 * middle + high)
        time = "about a minute" if self.flops == FLOPS else "under a minute"
        return f"{len(RATIOS) * 5} runs, {format_flops(total)} FLOPs, {time} on two cores"


def choose_scale(text: OwnText | None) -> Scale:
    """Return the largest sweep of about a minute that a text carries; null: Python's own library.

    Raises:
        ConfigError: the text is too short for any.
    """
    if text is None:
        return Scale(FLOPS, STEP, VAL_TOKENS, 1)
    held = min(VAL_TOKENS, text.tokens // 10 // 64 * 64)
    room = MARGIN * (text.tokens - held)
    tries = [(FLOPS, STEP, 1), (FLOPS, STEP, EPOCHS), (SHORT_FLOPS, SHORT_STEP, EPOCHS)]
    for flops, step, epochs in tries:
        if most_tokens(flops) <= epochs * room:
            return Scale(flops, step, held, epochs)
    least = most_tokens(SHORT_FLOPS) / EPOCHS / MARGIN / 0.9
    raise ConfigError(
        f"data: {text.path} has about {text.tokens:,} bytes of text; the smallest sweep takes {least:,.0f}. "
        "Give more text, or leave data= out to begin on Python's own library. Nothing was written."
    )


def most_tokens(flops: float) -> float:
    """Return the most tokens that a run of a sweep with this largest budget sees."""
    return max(_tokens(flops, RATIOS[-1]), _tokens(CHECK * flops, CHECK_RATIO))


def _tokens(flops: float, ratio: float) -> float:
    budget = {"flops": flops, "tokens_per_param": ratio, "convention": "counted"}
    config = RunConfig.from_dict({"model": {"context": 64}, "budget": budget})
    return make_plan(config).tokens


def quoted(text: str) -> str:
    """Return a text as a configuration holds it, where a bare ${ would stand for another key's value."""
    plain = re.sub(r"(\\*)\$\{", r"\1\1\\${", text)
    return json.dumps(plain, ensure_ascii=False)


@dataclass(frozen=True)
class Starter:
    """A study that can be planned, trained and fitted as it is written.

    Args:
        name: of the sweep; question: in a sentence.
        text: null: Python's own library.
    """

    name: str
    question: str = QUESTION
    text: OwnText | None = None

    def files(self, folder: Path) -> Iterator[tuple[str, str]]:
        """Yield each file's name below a folder and what it holds.

        Raises:
            ConfigError: the text is too short.
        """
        scale = choose_scale(self.text)
        values = self._values(scale) | {"source": self._source(folder)}
        for template, name in (
            ("sweep.yaml", f"sweeps/{self.name}.yaml"),
            ("data.yaml", f"conf/data/{self.name}.yaml"),
            ("notebook.ipynb", f"{self.name}.ipynb"),
            ("README.md", "README.md"),
            ("gitignore", ".gitignore"),
        ):
            text = (TEMPLATES / template).read_text(encoding="utf-8")
            yield name, Template(text).substitute(values)

    def _values(self, scale: Scale) -> dict[str, str]:
        low, middle, high = (f"{b:.3g}".replace("+", "") for b in scale.budgets)
        return {
            "name": self.name, "question": self.question,
            "quoted_question": quoted(self.question),
            "cost": scale.cost, "ratios": str(list(RATIOS)),
            "low": low, "middle": middle, "high": high,
            "check": f"{CHECK * scale.flops:.3g}".replace("+", ""),
            "val_tokens": str(scale.val_tokens), "max_epochs": str(scale.epochs),
        }  # fmt: skip

    def _source(self, folder: Path) -> str:
        if self.text is None:
            return "source: stdlib          # Python's own library, about 10 MB of text that every machine has"
        place = self.text.path.absolute()
        inside = place.is_relative_to(folder.absolute())
        path = place.relative_to(folder.absolute()) if inside else place
        lines = ["source: text", f"path: {quoted(str(path))}"]
        if self.text.key != "text":
            lines.append(f"text_key: {quoted(self.text.key)}")
        return "\n".join(lines)

    def describe(self) -> list[str]:
        """Say which sizes and tokens the sweep has."""
        scale = choose_scale(self.text)
        often = f", its text up to {scale.epochs} times" if scale.epochs > 1 else ""
        return [
            f"The sweep: {scale.cost}; a run sees up to {format_quantity(most_tokens(scale.flops))} tokens{often}."
        ]

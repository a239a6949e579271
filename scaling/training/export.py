"""A finished run as a folder that Hugging Face `transformers` loads: weights, tokenizer, model card."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file

from scaling.study.errors import ConfigError, DataError
from scaling.study.hub import config_of
from scaling.study.objective import find_layout
from scaling.study.pretrained import HUB_WEIGHTS, open_pretrained, run_config
from scaling.study.record import RunRecord, read_record, write_atomic
from scaling.study.shape import ModelShape
from scaling.study.units import format_quantity
from scaling.training.data.portable import save_tokenizer
from scaling.training.huggingface import Tensors, load_pretrained, to_hub


@dataclass(frozen=True)
class Exported:
    """What was written. tokenizer: its name, null if there is none; note: why there is none."""

    folder: Path
    family: str
    params: int
    tokenizer: str | None
    note: str | None = None


def export_run(run: str | Path, folder: str | Path, *, overwrite: bool = False) -> Exported:
    """Write a finished run as a Hugging Face model folder: all of it or nothing.

    The folder holds config.json, model.safetensors (float32), generation_config.json, the run's
    tokenizer and README.md, a model card with the run's numbers.

    Args:
        run: folder of a finished run whose weights were kept.
        folder: what to write; it must not exist, or be empty.
        overwrite: replace a model folder that is already there.

    Returns:
        What was written.

    Raises:
        CheckpointError: the weights were not kept, or are damaged.
        ConfigError: no family computes what the model computes, or the folder is in use.
    """
    # 1. everything that can be wrong, before anything is written
    run, folder = Path(run), Path(folder).expanduser()
    check_target(folder, overwrite=overwrite)
    source = open_pretrained(run)
    if source.kind != "run":
        raise ConfigError(f"{run}: is no run of ours, but a Hugging Face folder already. Copy it.")
    record, config = read_record(run), run_config(run)
    values = config_of(source.shape)
    _, tensors = load_pretrained(source)
    layout = find_layout(config.objective, config.model, config.data)
    specials = layout.numbers(config.data.vocab)

    # 2. all files in a folder beside the final one, then its name
    with _whole_folder(folder) as part:
        note, end = None, None
        try:
            end = save_tokenizer(
                config.data, part, context=source.shape.context, data_hash=record.data_hash,
                specials=specials,
            )  # fmt: skip
        except (ConfigError, DataError) as error:
            note = str(error)
        tokenizer = None if note else config.data.tokenizer
        write_weights(part, tensors, source.shape, end_of_text=end, specials=specials)
        write_atomic(part / "README.md", model_card(record, source.shape, tokenizer))
    return Exported(folder, values["model_type"], record.params_total or 0, tokenizer, note)


def write_weights(
    folder: Path,
    tensors: Tensors,
    shape: ModelShape,
    *,
    end_of_text: int | None = None,
    specials: Mapping[str, int] | None = None,
) -> None:
    """Write config.json, generation_config.json and model.safetensors into a folder.

    Raises:
        ConfigError: no family computes what this shape computes.
    """
    config = config_of(shape, end_of_text=end_of_text, specials=specials)
    write_atomic(folder / "config.json", json.dumps(config, indent=1) + "\n")
    if shape.kind != "encoder":
        generation = json.dumps(_generation(config, shape)) + "\n"
        write_atomic(folder / "generation_config.json", generation)
    try:
        save_file(to_hub(tensors, shape), folder / HUB_WEIGHTS, metadata={"format": "pt"})
    except SafetensorError as error:  # what it makes of a full disk
        raise OSError(None, str(error), str(folder / HUB_WEIGHTS)) from None
    with open(folder / HUB_WEIGHTS, "rb") as file:
        os.fsync(file.fileno())
    os.chmod(folder / HUB_WEIGHTS, 0o644)  # safetensors makes it the user's alone


def _generation(config: dict[str, Any], shape: ModelShape) -> dict[str, Any]:
    """How `generate` goes when it is not told: by sampling, for half the context.

    No `max_length`: beside a `max_new_tokens` of the caller transformers would warn each time.
    """
    end, names = config["eos_token_id"], ("decoder_start_token_id", "pad_token_id", "eos_token_id")
    if shape.kind == "encoder_decoder":
        answer = {name: config[name] for name in names}
        return {"do_sample": True, "max_new_tokens": shape.predicted, **answer}
    tokens = {} if end is None else {"eos_token_id": end, "bos_token_id": end, "pad_token_id": end}
    return {"do_sample": True, "max_new_tokens": max(1, shape.context // 2), **tokens}


def check_target(folder: Path, *, overwrite: bool) -> None:
    """Refuse to write over something.

    Raises:
        ConfigError: a file is there, or a folder that is not empty and may not be replaced.
    """
    if folder.resolve() in (Path.cwd(), *Path.cwd().parents):
        raise ConfigError(
            f"{folder}: is where you are, and a whole folder is written. Name another."
        )
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder}: is a file. Name another folder.")
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    if not overwrite:
        raise ConfigError(f"{folder}: is not empty. Name another folder, or say overwrite=true.")
    if not (folder / "config.json").is_file():
        raise ConfigError(
            f"{folder}: is no model folder (no config.json), so it is not replaced even with overwrite=true. Name another."
        )


@contextlib.contextmanager
def _whole_folder(folder: Path) -> Iterator[Path]:
    """Give a folder to write into; it takes its name when everything in it is on disk."""
    part = folder.with_name(f".{folder.name}.part-{os.getpid()}")
    old = folder.with_name(f".{folder.name}.old-{os.getpid()}")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        yield part
        if folder.is_dir():
            os.rename(folder, old)
        try:
            os.rename(part, folder)
        except OSError:
            if old.is_dir():
                os.rename(old, folder)
            raise
    finally:
        shutil.rmtree(part, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def model_card(record: RunRecord, shape: ModelShape, tokenizer: str | None) -> str:
    """Return README.md: what the model is, what it scored, how it was trained, how it is used."""
    rows = [
        ("parameters", f"{record.params_total:,} ({record.params_non_embedding:,} without embedding and head)"),
        ("shape", f"{shape.layers} layers, width {shape.width}, {shape.heads} heads ({shape.kv_heads} key-value), feed-forward {shape.ffn}"),
        ("context", f"{shape.context} tokens"),
        ("vocabulary", f"{shape.vocab} tokens, tokenizer {tokenizer or 'none'}"),
        ("trained on", f"{format_quantity(record.tokens)} tokens of {record.data_source} (hash {record.data_hash})"),
        ("compute", f"{_number(record.flops_counted, '.3g')} FLOPs, every matrix product counted"),
        ("validation loss", _loss(record)),
        _perplexity(record),
        ("bits per byte", _number(record.val_bits_per_byte, ".4f")),
        ("optimiser", f"{record.optimizer}, peak rate {_number(record.lr, '.4g')}, {record.schedule}, batch {record.batch_tokens} tokens"),
        ("seed", str(record.seed)),
        ("started from", f"{record.init_from} (hash {record.init_hash})" if record.init_from else "fresh weights"),
        ("run", f"`{record.run_id}`"),
        ("software", ", ".join(f"{k} {v}" for k, v in record.software.items())),
    ]  # fmt: skip
    table = "".join(f"| {name} | {value} |\n" for name, value in rows)
    kind = "classifier" if shape.classes else shape.kind
    use, task = USES[kind], TASKS[kind]
    return CARD.format(table=table, family=record.family, task=task, use=use if tokenizer else NO_TOKENIZER)  # fmt: skip


CARD = """\
---
library_name: transformers
pipeline_tag: {task}
---
# A {family} model from a scaling-law experiment

| | |
|---|---|
{table}
{use}
A model of a scaling-law experiment is trained to measure a loss, not to be of use: expect text of
that quality.
"""
TASKS = {
    "decoder": "text-generation",
    "encoder": "fill-mask",
    "classifier": "text-classification",
    "encoder_decoder": "text2text-generation",
}
USES = {
    "decoder": """\
```python
from transformers import pipeline
print(pipeline("text-generation", model=".")("def main(", max_new_tokens=20)[0]["generated_text"])
```
""",
    "encoder": """\
```python
from transformers import pipeline
print(pipeline("fill-mask", model=".")("def main([MASK]):")[0]["sequence"])
```
""",
    "classifier": """\
```python
from transformers import pipeline
print(pipeline("text-classification", model=".")("a text"))
```
""",
    "encoder_decoder": """\
```python
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer
model, tokenizer = AutoModelForSeq2SeqLM.from_pretrained("."), AutoTokenizer.from_pretrained(".")
tokens = tokenizer("def main(<extra_id_0>):", return_tensors="pt")["input_ids"]
print(tokenizer.decode(model.generate(tokens)[0]))
```
""",
}
NO_TOKENIZER = """\
There is no tokenizer: the model reads token numbers.
"""


def _loss(record: RunRecord) -> str:
    loss, error = _number(record.val_loss, ".4f"), _number(record.val_loss_se, ".4f")
    return f"{loss} nats/token (standard error {error}) on {record.val_tokens:,} held-out tokens"


def _perplexity(record: RunRecord) -> tuple[str, str]:
    if record.val_pseudo_perplexity is not None:
        return "pseudo-perplexity", f"{record.val_pseudo_perplexity:.4g} ({record.objective})"
    return "validation perplexity", _number(record.val_perplexity, ".4g")


def _number(value: float | None, style: str) -> str:
    return "not known" if value is None else format(value, style)

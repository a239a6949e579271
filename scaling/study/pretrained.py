"""Weights to start from: what a folder holds, its shape, and a hash of its content.

A folder is one of our runs (its final weights) or a Hugging Face model. Nothing here loads a weight:
a plan needs the shape and the hash alone.
"""

from __future__ import annotations

import functools
import glob
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scaling.study.config import ModelConfig, RunConfig
from scaling.study.errors import CheckpointError, ConfigError
from scaling.study.hub import shape_of
from scaling.study.objective import find_layout
from scaling.study.parametrization import with_attention_scale
from scaling.study.record import read_record
from scaling.study.shape import ModelShape

RUN_WEIGHTS = Path("checkpoint") / "model.safetensors"
HUB_WEIGHTS, HUB_INDEX = "model.safetensors", "model.safetensors.index.json"
SIZES = ("layers", "width", "heads", "kv_heads", "ffn")
# what else a shape is made of; the context is the run's own
PARTS = (
    "kind",
    "norm",
    "norm_eps",
    "position",
    "rotary_base",
    "activation",
    "qk_norm",
    "tied",
    "bias",
    "norm_at",
    "embedding_norm",
    "scale_scores",
    "head_transform",
    "scale_head",
    "segments",
)


@dataclass(frozen=True)
class Pretrained:
    """A folder of weights.

    kind: `run` or `hub`. family: the run's, or Hugging Face's. name: the run's id, or the folder as it
    was given. files: safetensors in order. hash: 16 hex digits of their content.
    """

    folder: Path
    kind: str
    family: str
    name: str
    shape: ModelShape
    files: tuple[Path, ...]
    hash: str
    tokens: int | None = None  # of the tokenizer; null: not known
    specials: tuple[tuple[str, int], ...] = ()  # numbers of special tokens, of a run
    trained: int | None = None  # tokens that the weights have seen; null: not known


def open_pretrained(folder: str | Path, *, results: str | Path | None = None) -> Pretrained:
    """Look at a folder of weights: one of our runs or a Hugging Face model.

    Args:
        folder: its path, or a run's id.
        results: where a run of that id is looked for if the path is not there, as in a results folder
            that was moved. The weights' hash is in the name of what starts from them, so that
            another run cannot take its place unnoticed.

    Raises:
        CheckpointError: it holds no weights that can be read.
        ConfigError: it is no such folder, or its model is none that ours can be.
    """
    path = Path(folder).expanduser()
    if not path.exists() and results is not None and path.name:
        path = next((p.parent for p in sorted(Path(results).glob(f"*/{glob.escape(path.name)}/run.json"))), path)  # fmt: skip
    if (path / "run.json").is_file():
        return _open_run(path)
    if (path / "config.json").is_file():
        # records travel: of a path only the last part is of use elsewhere
        return _open_hub(path, path.name if Path(folder).is_absolute() else str(folder))
    raise ConfigError(
        f"{folder}: holds neither run.json nor config.json. Give the folder of a finished run, or of "
        "a Hugging Face model of the family llama, gpt2, bert or t5."
    )


def _open_run(path: Path) -> Pretrained:
    weights = path / RUN_WEIGHTS
    if not weights.is_file():
        raise CheckpointError(
            f"{weights}: not there. Train the run to its end with train.keep_checkpoint=true; to get "
            "the weights of a finished run, delete its folder first."
        )
    record = read_record(path)
    family, files = record.family or ModelConfig().family, (weights,)
    config = run_config(path)
    layout = find_layout(config.objective, config.model, config.data)
    seen = None if record.tokens is None else record.tokens + (record.pretrain_tokens or 0)
    return Pretrained(
        path, "run", family, record.run_id, run_shape(path), files, _hash(files),
        tokens=config.data.vocab, specials=tuple(layout.numbers(config.data.vocab).items()),
        trained=None if record.init_from and record.pretrain_tokens is None else seen,
    )  # fmt: skip


def run_config(folder: Path) -> RunConfig:
    """Read the configuration that a run left in its folder.

    Raises:
        CheckpointError: it is not there, or is no configuration.
    """
    import yaml

    path = folder / "config.yaml"
    try:
        return RunConfig.from_dict(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, ConfigError) as error:
        raise CheckpointError(
            f"{path}: cannot be read ({error}). Put the run's config.yaml back; the weights' shape is in it."
        ) from None


def run_shape(folder: Path) -> ModelShape:
    """Return the shape a run was trained with: sizes from its record, parts from its configuration."""
    record, config = read_record(folder), run_config(folder)
    sizes = {k: getattr(record, k) for k in (*SIZES, "head_size", "vocab", "context")}
    unknown = [k for k, v in sizes.items() if v is None]
    if unknown:
        raise CheckpointError(
            f"{folder / 'run.json'}: {unknown[0]} is null. Train the run again to know its shape."
        )
    layout = find_layout(config.objective, config.model, config.data)
    shape = ModelShape(
        **sizes, **{k: getattr(config.model, k) for k in PARTS},
        encoder_layers=record.encoder_layers or 0,
        **layout.sizes,
    )  # fmt: skip
    return with_attention_scale(shape, optim=config.optim, model=config.model)


def _open_hub(path: Path, name: str) -> Pretrained:
    values = _read_json(path / "config.json")
    shape = shape_of(values, where=str(path / "config.json"))
    files = _hub_files(path)
    return Pretrained(path, "hub", values["model_type"], name, shape, files, _hash(files))


def _hub_files(path: Path) -> tuple[Path, ...]:
    if (path / HUB_WEIGHTS).is_file():
        return (path / HUB_WEIGHTS,)
    if not (path / HUB_INDEX).is_file():
        raise CheckpointError(
            f"{path / HUB_WEIGHTS}: not there. Weights are read from safetensors only, since a .bin may run code; "
            "save the model again with save_pretrained(..., safe_serialization=True)."
        )
    names = sorted(
        set(map(str, dict(_read_json(path / HUB_INDEX).get("weight_map") or {}).values()))
    )
    if not names or any(Path(n).name != n for n in names):
        raise CheckpointError(
            f"{path / HUB_INDEX}: names no files of its own folder. Save the model again with save_pretrained."
        )
    missing = [n for n in names if not (path / n).is_file()]
    if missing:
        raise CheckpointError(
            f"{path / missing[0]}: not there, but {HUB_INDEX} names it. Copy it too."
        )
    return tuple(path / n for n in names)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error}). Copy it again.") from None
    return dict(values)


def _hash(files: tuple[Path, ...]) -> str:
    stats = [f.stat() for f in files]
    return _hash_content(files, tuple((s.st_size, s.st_mtime_ns) for s in stats))


@functools.lru_cache(maxsize=64)
def _hash_content(files: tuple[Path, ...], _: tuple[tuple[int, int], ...]) -> str:
    """Hash files byte by byte, once per process unless size or time changes."""
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest()[:16]

"""The texts that a report shows: a few tokens from a few models of a sweep, in a second or two."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from scaling.cli.generate import find_writers, printable
from scaling.present.gallery import Gallery, Texts
from scaling.study.errors import CheckpointError, ConfigError, DataError, RecordError, ScalingError
from scaling.study.pretrained import RUN_WEIGHTS
from scaling.study.record import RunRecord, read_record

if TYPE_CHECKING:
    from scaling.training.writer import Writer

MODELS, PROMPTS = 6, 2  # at most, so that the report stays quick
PROMPT, TOKENS = 24, 64  # tokens read and written
TEMPERATURE = 0.8
LARGEST = 1e9  # bytes of weights; beyond, reading them alone would take longer than the report


def make_gallery(folder: Path) -> Gallery | None:
    """Let the models of a sweep's folder continue the same prompts; null for a table of runs.

    One model per size writes: the one with the lowest loss. The prompts begin held-out documents
    where these are at hand.
    """
    if not folder.is_dir():
        return None
    try:
        runs, left = _choose(find_writers(str(folder), folder)[0])
    except (CheckpointError, RecordError):
        return Gallery(note="No weights were kept, so no model can write: train with train.keep_checkpoint=true.")  # fmt: skip
    if not runs:
        return Gallery(note=f"All weights are larger than {LARGEST:.0e} bytes; `scaling generate` lets them write.")  # fmt: skip
    try:
        return _write(runs, left)
    except (ScalingError, ImportError) as error:
        return Gallery(note=f"No model could write: {error}")


def _choose(folders: Sequence[Path]) -> tuple[list[tuple[RunRecord, Path]], int]:
    """Return the best run of each of a few sizes, smallest first, and how many sizes are too large."""
    best: dict[float, tuple[RunRecord, Path]] = {}
    for folder in folders:
        record = read_record(folder)
        key, loss = record.params_non_embedding or 0, record.val_loss
        other = best.get(key)
        if other is None or (loss is not None and loss < (other[0].val_loss or float("inf"))):
            best[key] = record, folder
    sizes = [best[key] for key in sorted(best)]
    small = [pair for pair in sizes if (pair[1] / RUN_WEIGHTS).stat().st_size <= LARGEST]
    if len(small) > MODELS:
        small = [small[round(i * (len(small) - 1) / (MODELS - 1))] for i in range(MODELS)]
    return small, sum((f / RUN_WEIGHTS).stat().st_size > LARGEST for _, f in sizes)


def _write(runs: Sequence[tuple[RunRecord, Path]], left: int) -> Gallery:
    from scaling.training.generation import Decoding
    from scaling.training.writer import open_writer

    how = Decoding(tokens=TOKENS, temperature=TEMPERATURE)
    writers = [open_writer(folder, device="cpu") for _, folder in runs]
    prompts, truth = find_prompts(runs[-1][1], writers[-1])
    models = [
        Texts(
            writer.params, record.tokens or 0, record.val_loss, _clean(writer.write(prompts, how))
        )
        for writer, (record, _) in zip(writers, runs, strict=True)
    ]
    note = f"Each writes {TOKENS} tokens, drawn at temperature {TEMPERATURE} with the same lots; of several runs of a size, the one of lowest loss."
    if left:
        note += f" {left} sizes have weights above {LARGEST:.0e} bytes and are left out."
    return Gallery(_clean(prompts), models, _clean(truth), note)


def find_prompts(folder: Path, writer: Writer) -> tuple[list[str], list[str]]:
    """Return the beginnings of held-out documents and how they go on; an empty prompt without them."""
    from scaling.study.pretrained import run_config
    from scaling.training.data import describe, prepare
    from scaling.training.words import TextWords

    config = run_config(folder)
    try:
        there = describe(config.data) is not None
    except (DataError, ConfigError):  # the text has gone, the weights have not
        there = False
    if not there or not isinstance(writer.words, TextWords):
        return ["" if isinstance(writer.words, TextWords) else "1 2 3"], []
    data = prepare(config.data, context=config.model.context)
    length = min(PROMPT, config.model.context // 2)
    ends = [0] if data.document_ends is None else [0, *data.document_ends.tolist()]
    firsts = [e for e in ends if e + length + TOKENS < len(data.val)][:PROMPTS]
    if not firsts:
        return [""], []
    texts = [
        [writer.words.decode(data.val[a:b].tolist()) for a, b in ((f, f + length), (f + length, f + length + TOKENS))]
        for f in firsts
    ]  # fmt: skip
    return [t[0].rstrip("\ufffd") for t in texts], [t[1].lstrip("\ufffd") for t in texts]


def _clean(texts: Sequence[str]) -> list[str]:
    return [printable(text) for text in texts]

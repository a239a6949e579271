"""Attention probabilities of every head and layer, as the model itself computed them.

The model runs with torch's attention kernel, and each call of it is overheard: its queries, keys, mask and scale.
softmax(scale q k' + mask) of these is what the kernel weighed its values with, so that the numbers are of the very
computation, whatever positions, norms or shared heads the model has.

Shapes in names: L layers, H heads, T positions that look, S positions that are looked at, Q head size, V channels of values.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from scaling.study.errors import ConfigError, did_you_mean
from scaling.training.model import Transformer
from scaling.training.opened import OpenRun, open_run

PARTS = {  # which attentions a kind of model has, in the order of their layers' calls
    "decoder": ("decoder",),
    "encoder": ("encoder",),
    "encoder_decoder": ("encoder", "decoder", "cross"),
}


@dataclass(frozen=True, repr=False)
class AttentionMaps:
    """Who looks at whom in one text.

    Args:
        run: its id.
        maps: by part (encoder, decoder, cross), probabilities float64 [L, H, T, S]; each row sums to 1.
        rows, columns: by part, labels of the positions that look, and of those that are looked at.
    """

    run: str
    maps: dict[str, np.ndarray]
    rows: dict[str, list[str]]
    columns: dict[str, list[str]]

    def __repr__(self) -> str:
        """Return one line: run, parts and sizes."""
        sizes = ", ".join("{} {}x{} heads, {}x{} positions".format(p, *m.shape) for p, m in self.maps.items())  # fmt: skip
        return f"AttentionMaps({self.run}: {sizes})"

    def entropy(self, part: str) -> np.ndarray:
        """Return the mean entropy of the rows of each head [L, H] in nats: 0 looks at one place."""
        p = self.maps[part]
        return -np.where(p > 0, p * np.log(np.maximum(p, 1e-300)), 0.0).sum(-1).mean(-1)

    def save(self, path: str | Path) -> Path:
        """Write every number as CSV: part, layer, head, who looks, at whom, probability; all counted from 1."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="", encoding="utf-8-sig") as file:  # the mark, for spreadsheets
            writer = csv.writer(file)
            writer.writerow(["part", "layer", "head", "position", "token", "seen_position", "seen_token", "probability"])  # fmt: skip
            for part, map_LHTS in self.maps.items():
                for (i, h, t, s), p in np.ndenumerate(map_LHTS):
                    writer.writerow([part, i + 1, h + 1, t + 1, self.rows[part][t], s + 1, self.columns[part][s], f"{p:.9g}"])  # fmt: skip
        return path


def attention_maps(run: str | Path | OpenRun, text: str, *, target: str = "") -> AttentionMaps:
    """Return where every head of every layer of a run looks while the model reads a text.

    Args:
        run: a finished run's folder, or what `open_run` gave.
        text: what is read; of an encoder_decoder what its encoder reads.
        target: what the decoder of an encoder_decoder has written so far, behind its start mark.

    Returns:
        Probabilities by part; a decoder's positions see none that come later.

    Raises:
        RecordError, CheckpointError: the run is not finished, or its weights were not kept.
        DataError: the text has no token, or more than the run reads.
        ConfigError: a target for a model that writes none.

    Source: Vaswani et al. 2017, arXiv:1706.03762, equation 1.
    """
    opened = run if isinstance(run, OpenRun) else open_run(run)
    kind = opened.plan.shape.kind
    tokens_T = opened.encode(text)
    if kind == "encoder_decoder":
        written_U = written_tokens(opened, target)
        overheard = overhear_pair(opened.model, tokens_T, written_U)
        read, written = opened.label(tokens_T), opened.label(written_U)
        rows = {"encoder": read, "decoder": written, "cross": written}
        columns = {"encoder": read, "decoder": written, "cross": read}
    else:
        if target:
            raise ConfigError(f"target: only an encoder_decoder writes one; {opened.record.run_id} is {_article(kind)}. Leave it out.")  # fmt: skip
        overheard = overhear(opened.model, torch.as_tensor(tokens_T)[None])
        rows = columns = {kind: opened.label(tokens_T)}
    maps = {part: np.stack([p_BHTS[0].numpy() for p_BHTS in layers]) for part, layers in overheard.items()}  # fmt: skip
    return AttentionMaps(opened.record.run_id, maps, rows, columns)


def _article(kind: str) -> str:
    return f"an {kind}" if kind.startswith("e") else f"a {kind}"


def written_tokens(opened: OpenRun, target: str) -> np.ndarray:
    """Return the start mark and the target's tokens."""
    plan = opened.plan
    start = [plan.layout.special("start", plan.config.data.vocab)]
    more: list[int] = opened.encode(target, key="target").tolist() if target else []
    return np.array([*start, *more], np.int64)


def overhear(model: Transformer, tokens_BT: Tensor) -> dict[str, list[Tensor]]:
    """Run a decoder or an encoder; return its layers' probabilities, float64 [B, H, T, S] each."""
    with torch.no_grad(), _Listener() as heard:
        model(tokens_BT)
    return {model.shape.kind: heard.maps}


def overhear_pair(model: Any, read_S: np.ndarray, written_U: np.ndarray) -> dict[str, list[Tensor]]:
    """Run an encoder-decoder on one pair of texts; return the probabilities of its three parts."""
    read_BS, written_BU = (torch.as_tensor(t)[None] for t in (read_S, written_U))
    with torch.no_grad():
        with _Listener() as reading:
            memory_BSD = model.read(read_BS)
        with _Listener() as writing:
            model.write(written_BU, memory_BSD)
    # each of the decoder's layers looks at what was written, then at what was read
    return {"encoder": reading.maps, "decoder": writing.maps[0::2], "cross": writing.maps[1::2]}


class _Listener(TorchFunctionMode):
    """Writes down the probabilities of each call of torch's attention kernel."""

    def __init__(self) -> None:
        super().__init__()
        self.maps: list[Tensor] = []

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            q, k = args[:2]
            self.maps.append(
                weigh(
                    q, k, mask=kwargs.get("attn_mask"), causal=kwargs.get("is_causal", False),
                    scale=kwargs.get("scale"),
                )
            )  # fmt: skip
        return func(*args, **kwargs)


def weigh(
    q: Tensor, k: Tensor, *, mask: Tensor | None = None, causal: bool = False, scale: float | None = None
) -> Tensor:  # fmt: skip
    """Return softmax(scale q k' + mask), float64 [..., T, S]: what `attend_reference` weighs values with.

    Args:
        q: [..., T, Q]; k: [..., S, Q].
        mask: added to the scores; or, of truth values, true where a position may look.
        causal: position t sees keys 0 ... t only.
        scale: of the scores; None is 1 / sqrt(Q).
    """
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    scores = scale * (q.double() @ k.double().transpose(-2, -1))
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else scores + mask
    if causal:
        later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
        scores = scores.masked_fill(later, -math.inf)
    return scores.softmax(-1)


def pick_part(maps: AttentionMaps, part: str | None) -> str:
    """Return a part by name; none named: the first.

    Raises:
        ConfigError: there is no such part.
    """
    name = part or next(iter(maps.maps))
    if name not in maps.maps:
        raise ConfigError(f"part: {name!r} is none of {', '.join(maps.maps)}.{did_you_mean(name, maps.maps)} Choose one of these.")  # fmt: skip
    return name

"""Which weights of a trained model go on training."""

from __future__ import annotations

from dataclasses import dataclass

from scaling.study.schema import declare as _key

PARTS = ("all", "last", "head", "lora")


# fmt: off
@dataclass(frozen=True)
class FinetuneConfig:
    """Which weights train where a run starts from weights (model.init_from)."""

    parts: str = _key("all", "", "all; last: the last blocks, the norm behind them and the head; head: the head alone; lora: matrices of low rank beside those in the blocks (needs peft). A fresh head always trains.", choices=PARTS)
    blocks: int = _key(1, "layers", "last: how many blocks.", least=1)
    rank: int = _key(8, "", "lora: rank of the added matrices.", least=1)
    alpha: float | None = _key(None, "", "lora: what is added is scaled by alpha / rank; null: as rank, a scale of 1.", above=0)
    targets: str = _key("attention", "", "lora: which matrices of a block have one beside them.", choices=("attention", "ffn", "all"))
# fmt: on

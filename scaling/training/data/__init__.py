"""Tokens to train on: sources, tokenizers, the memory-mapped store and the order of training."""

from scaling.training.data.build import describe, prepare, prepared_folder
from scaling.training.data.dataset import DataFacts, HeldOut, TokenData
from scaling.training.data.store import TokenStore

__all__ = [
    "DataFacts",
    "HeldOut",
    "TokenData",
    "TokenStore",
    "describe",
    "prepare",
    "prepared_folder",
]

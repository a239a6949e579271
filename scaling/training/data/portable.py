"""A run's tokenizer as files that Hugging Face `transformers` and our own `load_tokenizer` read."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scaling.study.config import DataConfig
from scaling.study.errors import DataError
from scaling.study.specials import text_of
from scaling.training.data.build import prepare, prepared_folder
from scaling.training.data.tokenizers import (
    END_OF_TEXT_NAMES,
    ByteTokenizer,
    FastTokenizer,
    Tokenizer,
    load_tokenizer,
)
from scaling.training.data.validation import READABLE

END_OF_TEXT = END_OF_TEXT_NAMES[0]
TEXTUAL = (*READABLE, "pairs")  # sources whose tokens stand for text
FILES = (  # what a tokenizer folder may hold
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "vocab.json", "merges.txt", "tokenizer.model", "chat_template.jinja",
)  # fmt: skip


def save_tokenizer(
    data: DataConfig,
    folder: Path,
    *,
    context: int,
    data_hash: str | None,
    specials: Mapping[str, int] | None = None,
) -> int | None:
    """Write the tokenizer that a run's text was cut with.

    Args:
        data: the run's.
        folder: where to write; it must exist.
        context: tokens per sequence.
        data_hash: the run's; a tokenizer trained on other text is not the run's tokenizer.
        specials: numbers of the objective's special tokens; the tokenizer gets those it lacks.

    Returns:
        The number of the end-of-text token, where there is one.

    Raises:
        DataError: there is no tokenizer, or it cannot be had any more.
    """
    if data.source not in TEXTUAL:
        raise DataError(f"data.source={data.source} makes symbols that stand for no text.")
    if data.tokenizer == "bytes":
        tokenizer = byte_tokenizer()
    elif data.tokenizer == "bpe":
        tokenizer = _trained(data, context, data_hash)
    else:
        loaded = load_tokenizer(data.tokenizer)
        assert isinstance(loaded, FastTokenizer)  # only `bytes` is of another kind
        tokenizer = loaded
        _copy_files(Path(data.tokenizer).expanduser(), folder)
    own, numbers = data.tokenizer in ("bytes", "bpe"), dict(specials or {})
    if _add_specials(tokenizer, numbers):
        (folder / "tokenizer.json").unlink(missing_ok=True)  # a copy, which lacks them
    if own:
        _frame(tokenizer, numbers)
    _write_files(tokenizer, folder, context, numbers)
    return tokenizer.end_of_text


def run_tokenizer(data: DataConfig, *, context: int, data_hash: str | None) -> Tokenizer | None:
    """Return the tokenizer that a run's text was cut with; null if its tokens stand for no text.

    Args:
        data, context, data_hash: as of `save_tokenizer`.

    Raises:
        DataError: it cannot be had any more.
    """
    if data.source not in TEXTUAL:
        return None
    if data.tokenizer == "bytes":
        return ByteTokenizer()
    if data.tokenizer == "bpe":
        return _trained(data, context, data_hash)
    return load_tokenizer(data.tokenizer)


def _add_specials(tokenizer: FastTokenizer, specials: Mapping[str, int]) -> bool:
    """Give a tokenizer the special tokens that come behind its vocabulary; returns whether there are any.

    Raises:
        DataError: it has a token of that name already, with another number.
    """
    added = sorted((n, name) for name, n in specials.items() if n >= tokenizer.vocab)
    for number, name in added:
        text = text_of(name)
        tokenizer.backend.add_special_tokens([text])
        if tokenizer.backend.token_to_id(text) != number:
            raise DataError(
                f"data.tokenizer: has a token {text} that the run did not use as its {name}, which is number {number}. "
                "Train with the tokenizer's own, e.g. by leaving objective.specials null."
            )
    return bool(added)


def _frame(tokenizer: FastTokenizer, specials: Mapping[str, int]) -> None:
    """Let transformers put the special tokens around a text that the objective puts there."""
    import tokenizers as hf

    names = {name: text_of(name) for name in specials}
    if {"cls", "sep"} <= names.keys():
        cls, sep = names["cls"], names["sep"]
        single, pair = f"{cls} $A {sep}", f"{cls} $A {sep} $B:1 {sep}:1"
    elif {"start", "end"} <= names.keys():
        end = names["end"]
        single, pair = f"$A {end}", f"$A {end} $B {end}"
    else:
        return
    used = [(text, specials[name]) for name, text in names.items() if text in f"{single} {pair}"]
    tokenizer.backend.post_processor = hf.processors.TemplateProcessing(
        single=single, pair=pair, special_tokens=used
    )


# what `transformers` calls the special tokens
_ROLES = {"mask": "mask_token", "cls": "cls_token", "sep": "sep_token", "start": "pad_token", "end": "eos_token", "pad": "pad_token"}  # fmt: skip


def byte_tokenizer() -> FastTokenizer:
    """Return the 256 bytes as a tokenizer of the `tokenizers` library: token i is byte i.

    Byte 0, which ends a document, has the name `<|endoftext|>`.
    """
    import tokenizers as hf

    vocab = {_visible(byte): byte for byte in range(1, 256)} | {END_OF_TEXT: 0}
    # a byte 0 inside a text has no visible name left, and is then the unknown token: 0 again
    backend = hf.Tokenizer(hf.models.BPE(vocab=vocab, merges=[], unk_token=END_OF_TEXT))
    backend.pre_tokenizer = hf.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = hf.decoders.ByteLevel()
    backend.add_special_tokens([END_OF_TEXT])
    return FastTokenizer(backend, name="bytes", end_of_text=END_OF_TEXT)


def _visible(byte: int) -> str:
    """Return the character by which byte-level tokenizers show a byte.

    Printable Latin-1 stands for itself; the 68 others are the characters from U+0100 on, in order.

    Source: the byte table of GPT-2 (Radford et al. 2019), which Hugging Face's ByteLevel follows.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    if byte in printable:
        return chr(byte)
    return chr(0x100 + byte - sum(p < byte for p in printable))


def _trained(data: DataConfig, context: int, data_hash: str | None) -> FastTokenizer:
    """Return the tokenizer beside the run's tokens, building both again if the cache lost them."""
    found = prepare(data, context=context).data_hash
    if data_hash is not None and found != data_hash:
        raise DataError(
            f"data.tokenizer=bpe: the text has changed since the run (hash {found}, was {data_hash}), and with it the "
            "tokenizer. Put the text back, or set data.cache to the cache of that time."
        )
    loaded = load_tokenizer(str(prepared_folder(data)))
    assert isinstance(loaded, FastTokenizer)
    return loaded


def _copy_files(source: Path, folder: Path) -> None:
    for name in FILES:
        if source.is_dir() and (source / name).is_file():
            shutil.copyfile(source / name, folder / name)


def _write_files(
    tokenizer: FastTokenizer, folder: Path, context: int, specials: Mapping[str, int]
) -> None:
    """Write `tokenizer.json`, and `tokenizer_config.json` unless the tokenizer brought its own."""
    if not (folder / "tokenizer.json").exists():
        tokenizer.backend.save(str(folder / "tokenizer.json"))
    if (folder / "tokenizer_config.json").exists():
        return
    values: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": context,
        "clean_up_tokenization_spaces": False,  # or " ." would come back as "."
        "padding_side": "left",  # a batch of prompts is continued at the right
    }
    if tokenizer.end_of_text is not None:
        name = tokenizer.backend.id_to_token(tokenizer.end_of_text)
        values |= {"eos_token": name, "pad_token": name}
    roles = {role: specials[name] for name, role in _ROLES.items() if name in specials}
    values |= {role: tokenizer.backend.id_to_token(number) for role, number in roles.items()}
    if specials:
        values["padding_side"] = "right"  # positions count from a text's first token
    if "cls" in specials:  # the halves of a pair are told apart
        values["model_input_names"] = ["input_ids", "token_type_ids", "attention_mask"]
    (folder / "tokenizer_config.json").write_text(json.dumps(values, indent=1) + "\n", "utf-8")

"""A trained run as a Hugging Face folder: it generates, its tokenizer agrees, nothing is half written."""

from __future__ import annotations

import json
import os
import resource
import shutil

import pytest
import torch
from small_run import small_plan

from scaling.cli import main
from scaling.study.config import DataConfig
from scaling.study.errors import CheckpointError, ConfigError
from scaling.study.hub import family_of
from scaling.study.record import read_record
from scaling.study.shape import ModelShape
from scaling.training.data import prepare
from scaling.training.data.build import prepared_folder
from scaling.training.data.portable import byte_tokenizer, save_tokenizer
from scaling.training.data.tokenizers import ByteTokenizer, load_tokenizer
from scaling.training.export import export_run
from scaling.training.trainer import train

os.environ.setdefault("HF_HUB_OFFLINE", "1")
transformers = pytest.importorskip("transformers")
transformers.utils.logging.set_verbosity_error()

GPT2 = {"model.family": "gpt2", "model.norm": "layernorm", "model.position": "learned", "model.activation": "gelu", "model.tied": True, "model.bias": True}  # fmt: skip
FAMILIES = {"llama": {}, "gpt2": GPT2}
SENTENCES = [
    "Plain English, with  two spaces , and a tab\t.",
    "天地玄黄，宇宙洪荒。",
    "naïve café, 🙂 👩‍🔬 𠀀",
    "Ā is a letter, not byte 0",
]
TEXT = "the cat sat on the mat and the dog sat on the log " * 600


def text_plan(folder, **changes):
    """Plan a run on bytes of a text, which transformers can read back."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "text.txt"
    if not path.exists():
        path.write_text("\n\n".join([TEXT, *SENTENCES] * 3), encoding="utf-8")
    text = {"data.source": "text", "data.path": str(path), "data.vocab": 256, "data.val_tokens": 1024, "data.max_epochs": 50}  # fmt: skip
    return small_plan(folder, **text | changes)


@pytest.fixture(scope="module", params=FAMILIES)
def exported(request, tmp_path_factory):
    """A run trained by `train` and its folder, per family."""
    folder = tmp_path_factory.mktemp(request.param)
    plan = text_plan(folder, **FAMILIES[request.param])
    assert train(plan).status == "done"
    made = export_run(plan.folder, folder / "model")
    assert (made.family, made.tokenizer, made.note) == (request.param, "bytes", None)
    return plan, folder / "model"


def test_trained_run_generates_through_a_pipeline(exported):
    plan, folder = exported
    generate = transformers.pipeline("text-generation", model=str(folder))
    (made,) = generate("the cat sat", max_new_tokens=8, do_sample=False)
    assert made["generated_text"].startswith("the cat sat")
    # unasked it stops before positions end; a character may be three bytes
    long = generate("the")[0]["generated_text"]
    assert len(long.encode("utf-8", "ignore")) <= 3 * plan.shape.context


def test_lengths_of_the_caller_are_taken_without_a_warning(exported, caplog):
    generate = transformers.pipeline("text-generation", model=str(exported[1]))
    logger = transformers.utils.logging.get_logger("transformers")
    transformers.utils.logging.set_verbosity_warning()
    logger.addHandler(caplog.handler)
    try:
        generate("the cat", max_new_tokens=4)
    finally:
        logger.removeHandler(caplog.handler)
        transformers.utils.logging.set_verbosity_error()
    assert "max_length" not in caplog.text


def test_exported_model_has_the_recorded_validation_loss(exported):
    plan, folder = exported
    model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    data = prepare(plan.config.data, context=plan.shape.context)
    losses = []
    with torch.no_grad():
        for inputs, targets, _ in data.val_batches(context=plan.shape.context, batch_seqs=16):
            logits = model(torch.from_numpy(inputs)).logits.flatten(0, 1)
            losses.append(
                torch.nn.functional.cross_entropy(
                    logits, torch.from_numpy(targets).flatten(), reduction="none"
                )
            )
    # float32 by two orders of summation: about 1e-6 per token
    assert torch.cat(losses).mean().item() == pytest.approx(
        read_record(plan.folder).val_loss, abs=1e-5
    )


def test_exported_tokenizer_gives_the_tokens_that_were_trained_on(exported):
    _, folder = exported
    theirs, ours = transformers.AutoTokenizer.from_pretrained(folder), ByteTokenizer()
    assert len(theirs) == 256 and theirs.eos_token_id == 0
    for text in SENTENCES:
        tokens = theirs(text)["input_ids"]
        assert tokens == ours.encode([text])[0].tolist()
        assert theirs.decode(tokens) == text
    again = load_tokenizer(str(folder))  # for a run that goes on from the folder
    assert (again.vocab, again.end_of_text) == (256, 0)


def test_byte_tokenizer_gives_every_byte_its_number():
    backend = byte_tokenizer().backend
    every = "".join(chr(c) for c in range(0x800)) + "\uffff𠀀\U0010ffff"  # all lead and tail bytes
    assert backend.encode(every).ids == list(every.encode())
    assert set(range(256)) - set(every.encode()) <= {*range(0xC0, 0xC2), *range(0xE0, 0x100)}


def test_card_and_configuration_tell_of_the_run(exported):
    plan, folder = exported
    record = read_record(plan.folder)
    card = (folder / "README.md").read_text()
    for text in (f"{record.params_total:,}", f"{record.val_loss:.4f} nats/token", plan.run_id):
        assert text in card
    assert "null" not in card and "None" not in card
    assert json.loads((folder / "config.json").read_text())["eos_token_id"] == 0
    assert {p.name for p in folder.iterdir()} == {
        "README.md", "config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
    }  # fmt: skip


def test_trained_tokenizer_goes_along(tmp_path):
    plan = text_plan(tmp_path, **{"data.tokenizer": "bpe", "data.vocab": 300})
    train(plan)
    shutil.rmtree(prepared_folder(plan.config.data))  # a cache that was emptied is built again
    assert export_run(plan.folder, tmp_path / "model").tokenizer == "bpe"
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "model")
    ours = load_tokenizer(str(prepared_folder(plan.config.data)))
    for text in SENTENCES:
        tokens = theirs(text)["input_ids"]
        assert tokens == ours.encode([text])[0].tolist() and theirs.decode(tokens) == text
    assert theirs.eos_token_id == ours.end_of_text

    # text that has changed would train another tokenizer: better none than that one
    (tmp_path / "text.txt").write_text("\n\n".join([TEXT.upper(), *SENTENCES] * 3))
    made = export_run(plan.folder, tmp_path / "without")
    assert made.tokenizer is None and "the text has changed since the run" in made.note
    assert not (tmp_path / "without" / "tokenizer.json").exists()


def test_tokenizer_of_another_model_keeps_its_files(exported, tmp_path):
    _, folder = exported
    given = tmp_path / "tok"
    given.mkdir()
    shutil.copy(folder / "tokenizer.json", given)
    (given / "tokenizer_config.json").write_text('{"eos_token": "<|endoftext|>", "mine": 1}')
    plan = text_plan(tmp_path, **{"data.tokenizer": str(given)})
    train(plan)
    export_run(plan.folder, tmp_path / "model")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "model" / name).read_bytes() == (given / name).read_bytes()


def test_symbols_without_text_are_exported_without_a_tokenizer(tmp_path):
    plan = small_plan(tmp_path)
    train(plan)
    made = export_run(plan.folder, tmp_path / "model")
    assert made.tokenizer is None and "symbols that stand for no text" in made.note
    assert "There is no tokenizer" in (tmp_path / "model" / "README.md").read_text()
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert model(torch.zeros(1, 4, dtype=torch.long)).logits.shape == (1, 4, 32)


# --- what cannot be exported ----------------------------------------------------------------------

SIZES = {"layers": 2, "width": 48, "heads": 4, "kv_heads": 4, "head_size": 12, "ffn": 100, "vocab": 97, "context": 64}  # fmt: skip
LEARNED = {"norm": "layernorm", "position": "learned", "activation": "gelu", "bias": True}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"qk_norm": "head"}, r"llama.*cannot express model.qk_norm=head \(it has none\)"),
        ({"activation": "relu2"}, r"model.activation=relu2 \(it has swiglu\)"),
        ({"position": "sinusoidal"}, r"model.position=sinusoidal \(it has rotary\)"),
        ({"position": "none", "norm": "layernorm"}, "model.position=none.*model.norm=layernorm"),
        ({**LEARNED, "bias": False}, r"gpt2.*model.bias=false \(it has true\)"),
        ({**LEARNED, "kv_heads": 2}, r"model.kv_heads=2 \(it has as many as heads, 4\)"),
        ({**LEARNED, "activation": "swiglu"}, r"model.activation=swiglu \(it has gelu\)"),
    ],
)
def test_shape_that_no_family_has_is_refused_with_its_key(changes, message):
    with pytest.raises(ConfigError, match=message):
        family_of(ModelShape(**{**SIZES, **changes}))


def test_refused_export_leaves_nothing_behind(tmp_path):
    plan = small_plan(tmp_path, **{"model.qk_norm": "head"})
    train(plan)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(ConfigError, match="model.qk_norm=head"):
        export_run(plan.folder, tmp_path / "model")
    assert sorted(tmp_path.iterdir()) == before


def test_run_without_weights_is_refused_with_the_cure(tmp_path):
    plan = small_plan(tmp_path, **{"train.keep_checkpoint": False})
    train(plan)
    with pytest.raises(CheckpointError, match="train.keep_checkpoint=true"):
        export_run(plan.folder, tmp_path / "model")


def test_damaged_weights_are_refused(exported, tmp_path):
    plan, _ = exported
    copy = tmp_path / "run"
    shutil.copytree(plan.folder, copy)
    path = copy / "checkpoint" / "model.safetensors"
    values = bytearray(path.read_bytes())
    values[-5] ^= 1
    path.write_bytes(values)
    with pytest.raises(CheckpointError, match="checksum"):
        export_run(copy, tmp_path / "model")
    path.write_bytes(values[:-100])
    with pytest.raises(CheckpointError, match="damaged"):
        export_run(copy, tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_disk_that_fills_up_leaves_the_old_folder_whole(exported, tmp_path):
    plan, folder = exported
    target = tmp_path / "model"
    shutil.copytree(folder, target)
    before = {p.name: p.read_bytes() for p in target.iterdir()}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(
        resource.RLIMIT_FSIZE, (8000, hard)
    )  # the tokenizer fits, the weights do not
    try:
        with pytest.raises(OSError) as caught:
            export_run(plan.folder, target, overwrite=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert str(caught.value.filename).endswith("model.safetensors")
    assert {p.name: p.read_bytes() for p in target.iterdir()} == before
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


# --- the command ----------------------------------------------------------------------------------


def test_command_exports_a_run_by_its_id(exported, tmp_path, monkeypatch, capsys):
    plan, folder = exported
    monkeypatch.chdir(tmp_path)
    results = f"results={plan.config.results}"
    assert main(["export", plan.run_id, "mine", results]) == 0
    assert "tokenizer bytes" in capsys.readouterr().out
    assert (tmp_path / "mine" / "model.safetensors").read_bytes() == (
        folder / "model.safetensors"
    ).read_bytes()
    # not over something, unless told to; and then only over a model
    assert main(["export", plan.run_id, "mine", results]) == 1
    assert "overwrite=true" in capsys.readouterr().err
    assert main(["export", plan.run_id, "mine", results, "overwrite=true"]) == 0
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1").write_text("years of work")
    assert main(["export", plan.run_id, "thesis", results, "overwrite=true"]) == 1
    assert "is no model folder" in capsys.readouterr().err
    assert (tmp_path / "thesis" / "chapter1").read_text() == "years of work"


def test_command_says_what_is_wrong(exported, tmp_path, monkeypatch, capsys):
    plan, _ = exported
    monkeypatch.chdir(tmp_path)
    results = f"results={plan.config.results}"
    for arguments, message in (
        ([], "name a run and a folder"),
        ([plan.run_id[:-1], "mine", results], f"Did you mean '{plan.run_id}'"),
        ([plan.run_id, "mine"], "no run of that id under results/"),
        ([plan.run_id, "mine", "overwrit=true"], "Did you mean 'overwrite'"),
        ([plan.run_id, "mine", "overwrite=yes"], "expected true or false"),
    ):
        assert main(["export", *arguments]) == 1
        assert message in capsys.readouterr().err
    assert main(["export", "--help"]) == 0
    assert "scaling export" in capsys.readouterr().out


def test_tokens_of_a_generated_text_source_are_bytes(tmp_path):
    # the n-gram source draws bytes, so that its models read text too
    ngram = DataConfig(source="ngram")
    assert save_tokenizer(ngram, tmp_path, context=32, data_hash=None) == 0
    assert transformers.AutoTokenizer.from_pretrained(tmp_path)("ab")["input_ids"] == [97, 98]


def test_current_folder_is_never_the_one_written(exported, tmp_path, monkeypatch):
    plan, _ = exported
    run = plan.folder.absolute()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="where you are"):
        export_run(run, ".")


def test_replaced_folder_comes_back_if_the_new_one_cannot_take_its_place(
    exported, tmp_path, monkeypatch
):
    plan, folder = exported
    target = tmp_path / "model"
    shutil.copytree(folder, target)
    rename = os.rename

    def refuse(source, to):
        if str(to) == str(target) and ".part-" in str(source):
            raise OSError("the share is gone")
        rename(source, to)

    monkeypatch.setattr(os, "rename", refuse)
    with pytest.raises(OSError, match="the share is gone"):
        export_run(plan.folder, target, overwrite=True)
    assert (target / "config.json").is_file()
    assert [p.name for p in tmp_path.iterdir()] == ["model"]

"""Runs of BERT's and T5's kind as Hugging Face folders: the recorded loss there, and on from there here."""

from __future__ import annotations

import os

import pytest
import torch
from small_run import preset
from test_export import text_plan

from scaling.cli import main
from scaling.study.record import read_record
from scaling.training.checkpoint import read_weights
from scaling.training.data import prepare
from scaling.training.export import export_run
from scaling.training.huggingface import load_pretrained
from scaling.training.model import build_model
from scaling.training.objectives import build_objective
from scaling.training.trainer import train

os.environ.setdefault("HF_HUB_OFFLINE", "1")
transformers = pytest.importorskip("transformers")
transformers.utils.logging.set_verbosity_error()

SHORT = {"budget.tokens": 20 * 256}
KINDS = {
    "bert": preset("bert"),
    "bert_pairs": preset("bert") | {"objective.next_sentence": True},
    "t5": preset("t5"),
    "t5_1_1": preset("t5") | {"model.activation": "geglu", "model.tied": False, "model.scale_head": False},
}  # fmt: skip
STILL = {"optim.lr": 1e-12, "optim.weight_decay": 0.0}  # a step moves weights by 1e-12: not at all


@pytest.fixture(scope="module", params=KINDS)
def exported(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    plan = text_plan(folder, **KINDS[request.param], **SHORT)
    assert train(plan).status == "done"
    made = export_run(plan.folder, folder / "model")
    assert (made.tokenizer, made.note) == ("bytes", None)
    return plan, folder / "model"


def load_theirs(plan, folder):
    """Return what gives the summed loss of what is hidden in a batch, by transformers' model."""
    encoder, source = plan.shape.kind == "encoder", plan.shape.source
    auto = transformers.AutoModelForMaskedLM if encoder else transformers.AutoModelForSeq2SeqLM
    model = auto.from_pretrained(folder).eval()

    def loss(x, y):
        if encoder:
            T = x.shape[1]
            second = (torch.arange(T) >= (T - 3) // 2 + 2).long().expand_as(x)
            logits = model(x, **({"token_type_ids": second} if plan.shape.pairs else {})).logits
        else:
            logits = model(input_ids=x[:, :source], decoder_input_ids=x[:, source:]).logits
            y = y[:, source:]
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), y.flatten(), reduction="sum")

    return loss


def hidden_loss(plan, loss):
    """The mean loss of what is hidden in the held-out text."""
    data, total, count = prepare(plan.config.data, context=plan.shape.context), 0.0, 0
    batches = data.val_batches(context=plan.shape.context, batch_seqs=16, objective=build_objective(plan))  # fmt: skip
    with torch.no_grad():
        for inputs, targets, _ in batches:
            x, y = torch.from_numpy(inputs), torch.from_numpy(targets)
            if plan.shape.pairs:
                y[:, 0] = -100
            total, count = total + loss(x, y).item(), count + (y != -100).sum().item()
    return total / count


def test_exported_model_has_the_recorded_loss(exported):
    plan, folder = exported
    theirs, ours = hidden_loss(plan, load_theirs(plan, folder)), read_record(plan.folder).val_loss
    if plan.shape.pairs:  # the record's is without the judgement, so is this
        model = build_model(plan.shape).eval()
        model.load_state_dict(load_pretrained(plan.folder)[1], strict=False)
        ours = hidden_loss(plan, lambda x, y: model(x, y, reduction="none").sum())
    # float32 by two orders of summation: about 1e-6 per token
    assert theirs == pytest.approx(ours, abs=1e-5)


def test_run_goes_on_from_the_folder_where_it_ended(exported, tmp_path):
    plan, folder = exported
    ours = read_weights(plan.folder)
    back = load_pretrained(folder)[1]
    assert set(back) == set(ours) and all(torch.equal(back[n], ours[n]) for n in ours)
    open_sizes = {"model.layers": None, "model.width": None, "model.heads": None}
    parts = {k: v for k, v in plan.config.to_dict()["objective"].items() if k == "next_sentence"}
    changes = open_sizes | STILL | SHORT | {f"objective.{k}": v for k, v in parts.items()}
    again = text_plan(tmp_path, **changes, **{"model.init_from": str(folder)})
    assert again.config.model.kind == plan.config.model.kind
    # 20 steps of 1e-12 move no float32 of order 0.01
    assert train(again).val_loss == pytest.approx(read_record(plan.folder).val_loss, abs=1e-6)


def test_exported_tokenizer_knows_the_special_tokens(exported):
    plan, folder = exported
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    numbers = plan.layout.numbers(256)
    assert len(theirs) == plan.shape.vocab
    if plan.shape.kind == "encoder":
        assert theirs.mask_token_id == numbers["mask"]
        fill = transformers.pipeline("fill-mask", model=str(folder))
        assert len(fill("the c[MASK]t sat")) == 5
    else:
        assert theirs.pad_token_id == numbers["start"] and theirs.eos_token_id == numbers["end"]
        assert theirs("a<extra_id_0>")["input_ids"] == [97, numbers["span_0"], numbers["end"]]
        model = transformers.AutoModelForSeq2SeqLM.from_pretrained(folder)
        written = model.generate(torch.tensor([[97, numbers["span_0"], numbers["end"]]]))
        assert written[0, 0] == numbers["start"]
    if plan.shape.pairs:
        cls, sep = numbers["cls"], numbers["sep"]
        pair = theirs("ab", "c")
        assert pair["input_ids"] == [cls, 97, 98, sep, 99, sep]
        assert pair["token_type_ids"] == [0, 0, 0, 0, 1, 1]


def test_exported_folder_is_a_tokenizer_whose_numbers_are_used(exported, tmp_path):
    plan, folder = exported
    same = {k: v for k, v in plan.config.to_dict()["objective"].items() if k != "specials"}
    changes = {f"objective.{k}": v for k, v in same.items()} | {"model.init_from": str(folder)}
    changes |= {"data.tokenizer": str(folder), "data.vocab": plan.shape.vocab, **STILL, **SHORT}
    again = text_plan(tmp_path, **changes, **{"model.layers": None, "model.width": None, "model.heads": None})  # fmt: skip
    assert again.layout.specials == () and again.shape.vocab == plan.shape.vocab
    assert again.layout.numbers(0) == plan.layout.numbers(256)


def test_command_exports_and_the_card_says_what_it_is(exported, tmp_path, capsys):
    plan, folder = exported
    assert main(["export", str(plan.folder), str(tmp_path / "mine")]) == 0
    assert f"a {plan.config.model.family} model" in capsys.readouterr().out
    card = (folder / "README.md").read_text()
    assert f"{read_record(plan.folder).val_pseudo_perplexity:.4g} ({plan.objective})" in card
    assert ("fill-mask" in card) is (plan.shape.kind == "encoder")

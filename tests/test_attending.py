"""Attention maps: rows are probabilities, nobody sees the future, and values weighed give the kernel's answer."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from small_run import small_plan

import scaling as sl
from scaling.cli import main
from scaling.present import style
from scaling.present.inside import _labelled, _lacking, attention_grid
from scaling.study.errors import ConfigError, DataError
from scaling.training.attending import _Listener, overhear, overhear_pair, weigh
from scaling.training.kernels import attend_reference
from scaling.training.model import build_model
from scaling.training.opened import open_run
from scaling.training.trainer import train

KINDS = {
    "decoder": {"model.position": "rotary"},
    "grouped": {"model.kv_heads": 1, "model.qk_norm": "head"},
    "learned": {"model.position": "learned", "model.qk_norm": "full"},
    "encoder": {"model.kind": "encoder"},
    "encoder_decoder": {"model.kind": "encoder_decoder"},
}
DEJAVU = str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSerif.ttf")
TEXT = "a = b  # 天地\n"


def _model(plan):
    return build_model(plan.shape, attention="sdpa").init_weights(0).eval()


def _maps(plan, rows=2, length=20):
    model = _model(plan)
    tokens = torch.randint(plan.shape.vocab, (rows, length), generator=torch.Generator().manual_seed(1))  # fmt: skip
    if plan.shape.kind == "encoder_decoder":
        return overhear_pair(model, tokens[0].numpy(), tokens[1, :7].numpy())
    return overhear(model, tokens)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_are_probabilities_and_the_future_is_unseen(tmp_path, kind):
    plan = small_plan(tmp_path, **KINDS[kind])
    for part, layers in _maps(plan).items():
        assert len(layers) == plan.shape.layers
        for p_BHTS in layers:
            assert p_BHTS.shape[1] == plan.shape.heads
            # 20 terms in float64
            assert torch.allclose(p_BHTS.sum(-1), torch.ones(()).double(), atol=1e-12)
            if part == "decoder":
                assert not p_BHTS.triu(1).any()
            else:
                assert (p_BHTS > 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_values_weighed_by_the_maps_are_what_the_kernel_returns(tmp_path, kind, monkeypatch):
    """The kernel's own answer, layer by layer, from the probabilities we report."""
    plan = small_plan(tmp_path, **KINDS[kind])
    calls, real = [], torch.nn.functional.scaled_dot_product_attention

    class Keeping(_Listener):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            out = super().__torch_function__(func, types, args, kwargs)
            if func is real:
                calls.append((args[2], out))
            return out

    monkeypatch.setattr("scaling.training.attending._Listener", Keeping)
    maps = _maps(plan)
    if plan.shape.kind == "encoder_decoder":  # in the order of the calls
        pairs = zip(maps["decoder"], maps["cross"], strict=True)
        ordered = [*maps["encoder"], *(p for pair in pairs for p in pair)]
    else:
        (ordered,) = maps.values()
    assert len(calls) == len(ordered)
    for p_BHTS, (v_BHSQ, y_BHTQ) in zip(ordered, calls, strict=True):
        # float32 against float64: sums of 20 values of order 1
        assert torch.allclose(p_BHTS @ v_BHSQ.double(), y_BHTQ.double(), atol=1e-5)


@pytest.mark.parametrize("causal", [False, True])
def test_weights_are_those_of_the_equation(causal):
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 3, 9, 4, generator=generator, dtype=torch.float64) for _ in range(3))
    assert torch.allclose(weigh(q, k, causal=causal) @ v, attend_reference(q, k, v, causal=causal))


def test_masks_and_scales_enter_as_in_the_kernel():
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 2, 6, 4, generator=generator) for _ in range(3))
    added = torch.randn(2, 6, 6, generator=generator)
    seen = torch.rand(6, 6, generator=generator) > 0.3
    seen.fill_diagonal_(True)
    for mask in (added, seen):
        y = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=0.3)
        assert torch.allclose(weigh(q, k, mask=mask, scale=0.3).float() @ v, y, atol=1e-5)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A decoder of bytes and an encoder-decoder of bytes, trained for a moment."""
    base = tmp_path_factory.mktemp("runs")
    texts = base / "texts.txt"
    texts.write_text("a = b  # 天地玄黄\n" * 4000, "utf-8")
    made = {}
    for kind in ("decoder", "encoder_decoder"):
        plan = small_plan(
            base, **{"model.kind": kind, "data.source": "text", "data.path": str(texts), "data.vocab": 256,
            "budget.tokens": 2048, "data.val_tokens": 256, "model.width": 16},
        )  # fmt: skip
        train(plan)
        made[kind] = plan.folder
    return made


def test_maps_of_a_run_have_its_tokens_as_labels(folders):
    found = sl.attention_maps(folders["decoder"], TEXT)
    assert found.maps["decoder"].shape == (2, 2, 16, 16)
    # three bytes of a character are shown at the last
    assert found.rows["decoder"] == [*"a▁=▁b▁▁#▁", "·", "·", "天", "·", "·", "地", "\\n"]
    opened = open_run(folders["decoder"])
    assert np.array_equal(sl.attention_maps(opened, TEXT).maps["decoder"], found.maps["decoder"])
    # the last layer's entropy lies between looking at one place and at all of them
    assert ((found.entropy("decoder") >= 0) & (found.entropy("decoder") <= math.log(16))).all()


def test_saved_numbers_are_the_maps(folders, tmp_path):
    found = sl.attention_maps(folders["encoder_decoder"], "a = b", target="a =")
    assert {p: m.shape for p, m in found.maps.items()} == {
        "encoder": (2, 2, 5, 5), "decoder": (2, 2, 4, 4), "cross": (2, 2, 4, 5),
    }  # fmt: skip
    assert found.rows["cross"][0] == "[start]" and found.columns["cross"] == [*"a▁=▁b"]
    path = found.save(tmp_path / "图 1" / "maps.csv")
    rows = list(csv.DictReader(path.open(encoding="utf-8-sig")))
    assert len(rows) == 4 * (25 + 16 + 20)
    row = next(r for r in rows if (r["part"], r["layer"], r["head"], r["position"], r["seen_position"]) == ("cross", "2", "1", "3", "5"))  # fmt: skip
    # nine digits are written
    assert float(row["probability"]) == pytest.approx(found.maps["cross"][1, 0, 2, 4], rel=1e-8)


def test_texts_that_do_not_fit_are_answered(folders, tmp_path):
    with pytest.raises(DataError, match="33 tokens.*1 to 32.*shorter"):
        sl.attention_maps(folders["decoder"], "x" * 33)
    with pytest.raises(DataError, match="0 tokens.*longer"):
        sl.attention_maps(folders["decoder"], "")
    with pytest.raises(ConfigError, match="only an encoder_decoder"):
        sl.attention_maps(folders["decoder"], "x", target="y")


@pytest.mark.parametrize("causal", [False, True])
def test_worked_example_has_every_number_of_the_page(causal):
    """docs/inside.md, step by step."""
    q, k = torch.tensor([[2.0, 0, 0, 0], [2, 4, 0, 0]]), torch.tensor([[1.0, 0, 0, 0], [0, 1, 0, 0]])  # fmt: skip
    v = torch.tensor([[1.0, 0], [0, 2]])
    assert (q @ k.T).tolist() == [[2, 0], [2, 4]]
    assert (q @ k.T / math.sqrt(4)).tolist() == [[1, 0], [1, 2]]
    large = 1 / (1 + math.exp(-1))
    assert round(large, 4) == 0.7311
    first = [1.0, 0.0] if causal else [large, 1 - large]
    weights = torch.tensor([first, [1 - large, large]])
    assert torch.allclose(weigh(q, k, causal=causal).float(), weights)
    expected = torch.tensor([[first[0], 2 * first[1]], [1 - large, 2 * large]])
    assert torch.allclose(attend_reference(q, k, v, causal=causal), expected)
    if not causal:
        assert [round(x, 4) for x in expected.flatten().tolist()] == [0.7311, 0.5379, 0.2689, 1.4621]  # fmt: skip


def test_commands_write_figures_and_numbers_and_missing_signs_are_named(folders, tmp_path, capsys):
    out = tmp_path / "看 1"
    run = str(folders["encoder_decoder"])
    arguments = ["attention", run, "text=a $ b", "target=a", f"out={out}"]
    assert main(arguments) == 0
    names = {"attention.csv", *(f"attention_{p}.{e}" for p in ("encoder", "decoder", "cross") for e in ("png", "csv"))}  # fmt: skip
    assert {f.name for f in out.iterdir()} == names
    assert main([*arguments, "layer=1", "head=2", "part=cross"]) == 0
    assert (out / "attention_cross_layer1_head2.png").stat().st_size > 5000
    assert main([*arguments, "layer=3", "head=1"]) == 1
    assert main(["lens", str(folders["decoder"]), "text=a = b", f"out={out}"]) == 0
    assert (out / "lens.png").stat().st_size > 5000
    told = capsys.readouterr()
    assert "layer: 3; the encoder has 1 to 2" in told.err and "likeliest" in told.out
    drawn = attention_grid(sl.attention_maps(folders["decoder"], "ab"), font=DEJAVU)
    # a label keeps the font that it was made in, also when it is saved later
    assert drawn.axes[0].get_yticklabels()[0].get_fontfamily()[0] == "DejaVu Serif"
    style.close(drawn)
    assert _lacking({"a", "\U0010fffe"}, ["DejaVu Sans"]) == {"\U0010fffe"}
    with pytest.warns(UserWarning, match="no font here has.*font=FILE"):
        _labelled(["\U0010fffe"], "")

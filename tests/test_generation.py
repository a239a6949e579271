"""Continuations: token for token those of `transformers`, the same with and without a cache, drawn fairly."""

from __future__ import annotations

import itertools
import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from small_run import preset

from scaling.study.config import ModelConfig, ObjectiveConfig
from scaling.study.errors import ConfigError
from scaling.study.objective import find_layout
from scaling.study.shape import resolve_shape
from scaling.training.export import write_weights
from scaling.training.generation import NONE, Decoding, likelihoods, stream_tokens, write_tokens
from scaling.training.model import build_model

os.environ.setdefault("HF_HUB_OFFLINE", "1")

GPT2 = {"norm": "layernorm", "position": "learned", "activation": "gelu", "tied": True, "bias": True}  # fmt: skip
FAMILIES = {"llama": {"kv_heads": 2}, "gpt2": GPT2}
KINDS = {
    **FAMILIES,
    "query norms": {"qk_norm": "head", "kv_heads": 1},
    "sinusoids": {"position": "sinusoidal"},
    "encoder_decoder": {"kind": "encoder_decoder"},
    "grouped encoder_decoder": {"kind": "encoder_decoder", "kv_heads": 2, "position": "learned"},
    "distances": {"position": "relative", "kv_heads": 2, "head_transform": True},
    "t5": {key.removeprefix("model."): value for key, value in preset("t5").items()},
    "post-norm": {"norm_at": "post", "embedding_norm": True, "activation": "gelu_exact"},
}
VOCAB, CONTEXT = 61, 48
MARKS = {"start": 61, "end": 62}  # special tokens come behind the vocabulary


def make(kind="llama", **changes):
    """A model of random weights, sharpened: likely tokens then lead by more than rounding."""
    values = {"layers": 2, "width": 32, "heads": 4, "context": CONTEXT} | KINDS[kind] | changes
    config = ModelConfig(**values)
    shape = resolve_shape(config, vocab=VOCAB, layout=find_layout(ObjectiveConfig(), config))
    model = build_model(shape).init_weights(3).eval()
    with torch.no_grad():
        (model.head if shape.norm_at == "post" else model.norm).weight.mul_(8)
        if shape.tied:  # else every token is followed by itself
            for block in model.blocks:
                block.attention.out.weight.mul_(8)
                block.ffn.down.weight.mul_(8)
    return model


def prompts(*lengths, seed=0):
    draw = np.random.default_rng(seed)
    return [draw.integers(1, VOCAB, size=n) for n in lengths]


def special(model):
    return MARKS if model.shape.kind == "encoder_decoder" else {"end": 0}


@pytest.fixture(scope="module", params=FAMILIES)
def both(request, tmp_path_factory):
    """A model, and the one that transformers reads from its exported weights."""
    transformers = pytest.importorskip("transformers")
    transformers.utils.logging.set_verbosity_error()
    folder = tmp_path_factory.mktemp(request.param)
    model = make(request.param)
    write_weights(folder, dict(model.named_parameters()), model.shape, end_of_text=0)
    return model, transformers.AutoModelForCausalLM.from_pretrained(folder).eval()


def theirs(model, rows, **how):
    """Tokens that transformers writes for prompts of any lengths, up to the end of each text."""
    longest = max(map(len, rows))
    padded = torch.tensor(np.stack([np.pad(r, (longest - len(r), 0)) for r in rows]))
    seen = torch.tensor([[0] * (longest - len(r)) + [1] * len(r) for r in rows])
    with torch.no_grad():
        out = model.generate(padded, attention_mask=seen, do_sample=False, pad_token_id=0, **how)
    cut = [list(itertools.takewhile(lambda t: t != 0, row[longest:])) for row in out.tolist()]
    return [np.array(row) for row in cut]


def same(ours, others):
    assert [row.tolist() for row in ours] == [row.tolist() for row in others]


def test_greedy_agrees_with_transformers_token_for_token(both):
    model, other = both
    for rows in (prompts(5), prompts(9, 9, 9, 9), prompts(3, 12, 1, 8)):
        ours = write_tokens(model, rows, Decoding(tokens=36), end=0)
        same(ours, theirs(other, rows, max_new_tokens=36))
        assert len({tuple(row) for row in ours}) == len(rows)


@pytest.mark.parametrize("beams", [2, 5])
def test_beams_agree_with_transformers_token_for_token(both, beams):
    model, other = both
    for seed, penalty in itertools.product(range(4), (1.0, 0.6)):
        rows = prompts(6, 2, 10, seed=seed)
        how = Decoding(tokens=24, beams=beams, length_penalty=penalty)
        ours = write_tokens(model, rows, how, end=0)
        same(ours, theirs(other, rows, max_new_tokens=24, num_beams=beams, length_penalty=penalty))


def test_beams_end_texts_as_transformers_does(both):
    """An end that is likely everywhere, so that texts end at different steps."""
    model, other = both
    lengths, end = set(), 17
    for seed in range(6):
        rows = prompts(4, 7, seed=seed)
        how = Decoding(tokens=24, beams=4)
        ours = write_tokens(model, rows, how, end=end)
        how = {"max_new_tokens": 24, "num_beams": 4, "eos_token_id": end, "pad_token_id": 0}
        out = other.generate(torch.tensor(rows[0][None]), do_sample=False, **how)
        cut = list(itertools.takewhile(lambda t: t != end, out[0, len(rows[0]) :].tolist()))
        assert ours[0].tolist() == cut
        lengths |= {len(row) for row in ours}
    assert len(lengths) > 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("beams", [1, 3])
def test_cache_changes_no_token(kind, beams):
    model = make(kind)
    rows = prompts(3, 17, 9, 3)
    how = Decoding(tokens=CONTEXT, beams=beams)  # beyond the context, so that some is forgotten
    cached = write_tokens(model, rows, how, **special(model))
    same(cached, write_tokens(model, rows, how, **special(model), cache=False))
    alone = [write_tokens(model, [row], how, **special(model))[0] for row in rows]
    same(cached, alone)


def test_a_full_context_forgets_its_older_half():
    model, how = make("gpt2"), Decoding(tokens=CONTEXT)
    (row,) = prompts(CONTEXT - 4)
    seen, expected = row.tolist(), []
    for _ in range(how.tokens):
        if len(seen) > CONTEXT:
            seen = seen[-(CONTEXT - CONTEXT // 2 + 1) :]
        with torch.no_grad():
            expected.append(int(model(torch.tensor([seen]))[0, -1].argmax()))
        seen.append(expected[-1])
    assert write_tokens(model, [row], how)[0].tolist() == expected
    # a prompt that is longer than the context is read from its end
    longer = np.concatenate([prompts(30, seed=5)[0], row])
    short = Decoding(tokens=3)
    same(write_tokens(model, [longer], short), write_tokens(model, [longer[-CONTEXT:]], short))


def test_an_encoder_decoder_writes_no_more_than_it_was_trained_to():
    model = make("encoder_decoder")
    (made,) = write_tokens(model, prompts(20), Decoding(tokens=500), start=61)
    assert len(made) == model.shape.outputs
    with torch.no_grad():
        memory = model.read(torch.as_tensor(prompts(20)[0][None]))
        whole = model.write(torch.tensor([[61, *made[:-1]]]), memory)
    assert whole.argmax(-1)[0].tolist() == made.tolist()


def test_beams_find_the_likeliest_text_where_they_can_hold_them_all():
    model = make("llama", heads=2)
    with torch.no_grad():  # four tokens are possible at all
        model.head.weight[4:] = 0
        model.norm.weight.mul_(0.1)
    ids = torch.tensor(list(itertools.product(range(4), repeat=3)))
    (row,) = prompts(5)
    with torch.no_grad():
        text = torch.cat([torch.tensor(row).expand(len(ids), -1), ids], 1)
        logits = model(text)[:, len(row) - 1 : -1]
        logits[..., 4:] = -torch.inf
        each = logits.log_softmax(-1).gather(2, ids.unsqueeze(2))[..., 0].sum(1)
    found = write_tokens(_only(model, 4), [row], Decoding(tokens=3, beams=16))
    assert found[0].tolist() == ids[each.argmax()].tolist()


def _only(model, count):
    """The same model with every other token impossible."""

    class Head(torch.nn.Module):
        def forward(self, x):
            logits = x @ model_weight.T
            logits[..., count:] = -1e9
            return logits

    model_weight = model.head.weight
    model.head = Head()
    return model


def test_draws_follow_the_softmax():
    """5,000 rows of one prompt: every way of cutting the distribution off passes chi-square."""
    model = make("gpt2")
    rows = prompts(6) * 5_000
    with torch.no_grad():
        logits = model(torch.as_tensor(rows[0][None]))[:, -1]
    for cut in ({}, {"top_k": 7}, {"top_p": 0.8}, {"top_k": 12, "top_p": 0.9}):
        how = Decoding(tokens=1, temperature=1.7, seed=4, **cut)
        made = np.array([r[0] for r in write_tokens(model, rows, how)])
        counts = np.bincount(made, minlength=VOCAB)
        expected = likelihoods(logits, how)[0].numpy() * len(rows)
        assert counts[expected == 0].sum() == 0
        often = expected >= 5  # as the test wants; rarer tokens make one class
        seen = [*counts[often], counts[~often].sum()]
        wanted = [*expected[often], expected[~often].sum()]
        keep = np.array(wanted) > 0
        # four tests at a fixed seed; one in a thousand would fail by chance at another
        assert chisquare(np.array(seen)[keep], np.array(wanted)[keep]).pvalue > 1e-3


def test_cuts_keep_what_transformers_keeps():
    transformers = pytest.importorskip("transformers")
    from transformers.generation.logits_process import (
        TemperatureLogitsWarper,
        TopKLogitsWarper,
        TopPLogitsWarper,
    )

    assert transformers is not None
    logits = torch.randn(50, 40, generator=torch.Generator().manual_seed(1)) * 3
    for top_k, top_p, temperature in itertools.product((None, 1, 9), (None, 0.3, 0.95), (0.5, 2.0)):
        expected = TemperatureLogitsWarper(temperature)(None, logits)
        expected = expected if top_k is None else TopKLogitsWarper(top_k)(None, expected)
        expected = expected if top_p is None else TopPLogitsWarper(top_p)(None, expected)
        how = Decoding(temperature=temperature, top_k=top_k, top_p=top_p)
        # theirs are float32, ours float64
        assert torch.allclose(likelihoods(logits, how).float(), expected.softmax(-1), atol=1e-6)


def test_a_seed_gives_the_same_text_in_any_batch():
    model, how = make(), Decoding(tokens=20, temperature=1.0, top_p=0.95, seed=11)
    rows = prompts(5, 5, 5)
    made = write_tokens(model, rows, how)
    same(made, write_tokens(model, rows, how))
    same(made[:2], write_tokens(model, rows[:2], how))
    assert made[0].tolist() != write_tokens(model, rows, replace(how, seed=12))[0].tolist()
    twice = write_tokens(model, [rows[0]] * 2, how)
    assert twice[0].tolist() != twice[1].tolist()


def test_texts_of_a_batch_end_one_by_one():
    model, rows = make(), prompts(5, 6, 7, 8)
    how = Decoding(tokens=40, temperature=1.5, seed=2)
    free = write_tokens(model, rows, how)
    end = int(free[1][3])
    made = write_tokens(model, rows, how, end=end)
    for row, whole in zip(made, free, strict=True):
        assert row.tolist() == list(itertools.takewhile(lambda t: t != end, whole.tolist()))
    steps = list(stream_tokens(model, rows, how, end=end))
    assert all((step[1] == NONE) == (i >= len(made[1])) for i, step in enumerate(steps))


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"tokens": 0}, "tokens: 0"),
        ({"temperature": -1.0}, "temperature: -1"),
        ({"temperature": 1.0, "top_k": 0}, "top_k: 0"),
        ({"temperature": 1.0, "top_p": 1.5}, "top_p: 1.5"),
        ({"beams": 0}, "beams: 0"),
        ({"beams": 2, "temperature": 1.0}, "Leave one out"),
        ({"top_k": 5}, "nothing is drawn at temperature 0"),
    ],
)
def test_ways_to_decode_that_make_no_sense_are_refused(wrong, says):
    with pytest.raises(ConfigError, match=says):
        Decoding(**wrong)


def test_an_encoder_writes_no_text():
    config = ModelConfig(kind="encoder", layers=2, width=16, heads=2, context=16)
    shape = resolve_shape(config, vocab=VOCAB, layout=find_layout(ObjectiveConfig(), config))
    with pytest.raises(ConfigError, match="fills in hidden tokens"):
        write_tokens(build_model(shape), prompts(4), Decoding())
    with pytest.raises(ConfigError, match="prompt: empty"):
        write_tokens(make(), prompts(3, 0), Decoding())

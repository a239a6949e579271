"""The compiled update takes torch's step."""

import pytest
import torch
from torch import nn

from scaling.study.config import OptimConfig
from scaling.training.native import is_available
from scaling.training.optim import build_optimizer, clip_gradients, set_lr
from scaling.training.update import Update


@pytest.mark.skipif(not is_available(), reason="no compiled kernels here")
@pytest.mark.parametrize("clip", [0.0, 0.5])
def test_update_takes_torchs_clipped_adamw_steps(clip):
    torch.manual_seed(0)
    models = [nn.Sequential(nn.Embedding(7, 5), nn.Linear(5, 37), nn.LayerNorm(37)) for _ in "ab"]
    models[1].load_state_dict(models[0].state_dict())
    config = OptimConfig()
    ours, theirs = (build_optimizer(m, config, lr=1.0, weight_decay=0.1) for m in models)
    assert isinstance(ours, torch.optim.AdamW) and len(ours.param_groups) > 1
    parameters = [list(m.parameters()) for m in models]
    for p in parameters[0]:
        p.grad = torch.empty_like(p)
    update = Update(ours, parameters[0])
    for lr in (1e-2, 5e-3, 1e-3):
        for p, q in zip(*parameters, strict=True):
            p.grad.normal_()
            q.grad = p.grad.clone()
        before = clip_gradients(parameters[1], clip)
        # sums of 250 squares in float32, in another order
        torch.testing.assert_close(update.step(lr, clip=clip), before, rtol=1e-6, atol=0)
        set_lr(theirs, lr)
        theirs.step()
    for p, q in zip(*parameters, strict=True):
        # steps are of the order of lr; each is rounded a few times in float32 (6e-8)
        torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-8)
        for key, value in ours.state[p].items():
            torch.testing.assert_close(value, theirs.state[q][key], rtol=1e-5, atol=3e-8)

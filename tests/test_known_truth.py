"""Training against sources whose truth is known: rates, floors, and the twin of the demo in small."""

import numpy as np
import pytest

from scaling.study.config import RunConfig
from scaling.study.plan import make_plan
from scaling.training.trainer import train


def run(folder, **groups):
    groups.setdefault("train", {"evals": 1, "keep_checkpoint": False, "threads": 1})
    return train(make_plan(RunConfig.from_dict({**groups, "results": str(folder)})))


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SCALING_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.mark.slow
def test_excess_over_a_unigram_source_falls_as_one_over_tokens(tmp_path):
    # Estimating V - 1 free probabilities from D draws costs about V / D nats whatever the model is.
    tokens = [32_768, 65_536, 131_072, 262_144]
    data = {"source": "unigram", "vocab": 64, "size": "600k", "val_tokens": 131_072}
    records = [
        run(
            tmp_path, model={"params": "3k", "context": 16}, budget={"tokens": count},
            data=data, optim={"batch_tokens": 512},
        )
        for count in tokens
    ]  # fmt: skip
    excess = np.array([r.val_excess for r in records])
    assert (excess > 0).all()
    slope = np.polyfit(np.log(tokens), np.log(excess), 1)[0]
    # The last excess is known to 13 % and single runs scatter by about 30 %: that moves the slope
    # over 8-fold by at most 0.2; a rate of 1 / sqrt(D) would be 0.5 away.
    assert slope == pytest.approx(-1.0, abs=0.25)


def test_no_model_scores_below_the_ngram_source_and_more_compute_comes_closer(tmp_path):
    data = {"source": "ngram", "order": 3, "size": "400k", "val_tokens": 16_384}
    records = [
        run(tmp_path, model={"params": size, "context": 32}, budget={"tokens": count}, data=data)
        for size, count in (("3k", "20k"), ("8k", "70k"), ("16k", "200k"))
    ]
    excess = [r.val_excess for r in records]
    assert excess[0] > excess[1] > excess[2] > 0
    for record in records:
        assert record.val_excess == pytest.approx(record.val_loss - record.true_loss, abs=1e-6)
        # the validation tokens' own luck: their true loss is near the entropy rate, not equal to it
        assert record.true_loss == pytest.approx(record.entropy_rate, abs=0.05)
        assert record.source_hash

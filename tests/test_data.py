"""The token store, the order of training and what the trainer gets."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os

import numpy as np
import pytest

from scaling.study.config import DataConfig
from scaling.study.errors import ConfigError, DataError
from scaling.training.data import TokenStore, describe, prepare
from scaling.training.data import store as store_module
from scaling.training.data.documents import DocumentPool
from scaling.training.data.order import permute, window_starts
from scaling.training.data.store import HEADER_BYTES, shard_paths, write_store


@pytest.fixture
def small(tmp_path):
    """A quick source: independent tokens, 20 windows of 50 and a bit."""
    return DataConfig(
        source="unigram", vocab=64, size=1017, val_tokens=500, cache=str(tmp_path / "cache")
    )


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 1000, 4099])
def test_permute_visits_every_index_once(size):
    for epoch in range(3):
        assert sorted(permute(np.arange(size), size, seed=5, epoch=epoch)) == list(range(size))


def test_permute_differs_by_seed_and_epoch():
    orders = [
        permute(np.arange(1000), 1000, seed=s, epoch=e) for s, e in ((0, 0), (0, 1), (1, 0), (1, 1))
    ]
    for i, a in enumerate(orders):
        for b in orders[:i]:
            # Two random permutations agree in Poisson(1) places; above 12 has probability 1e-10.
            assert np.sum(a == b) <= 12


def test_permute_has_no_order_left():
    order = permute(np.arange(100_000), 100_000, seed=3)
    # A correlation of n independent pairs has SD 1/sqrt(n) = .0032; five of them.
    assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 0.016
    assert abs(np.corrcoef(np.arange(100_000), order)[0, 1]) < 0.016


def test_window_starts_are_the_same_however_they_are_asked_for():
    whole = window_starts(0, 9000, windows=777, context=16, seed=1)
    parts = [window_starts(k, k + 90, windows=777, context=16, seed=1) for k in range(0, 9000, 90)]
    assert np.array_equal(whole, np.concatenate(parts))
    for epoch in range(9000 // 777):
        assert sorted(whole[epoch * 777 : (epoch + 1) * 777]) == [16 * i for i in range(777)]


def test_batches_of_an_epoch_hold_every_training_window_once(small):
    data = prepare(small, context=50)
    seen = np.concatenate(
        [data.batch(step, batch_seqs=5, context=50, seed=0)[0] for step in range(4)]
    )
    windows = data.train[0:1000].reshape(20, 50)
    assert sorted(map(tuple, seen)) == sorted(map(tuple, windows))


def test_batch_does_not_depend_on_how_it_is_split(small):
    data = prepare(small, context=50)
    x, y = data.batch(3, batch_seqs=8, context=50, seed=0)
    parts = [
        data.batch(3, batch_seqs=8, context=50, seed=0, rows=slice(i, i + 2))
        for i in range(0, 8, 2)
    ]
    assert np.array_equal(x, np.concatenate([p[0] for p in parts]))
    assert np.array_equal(y, np.concatenate([p[1] for p in parts]))
    assert x.dtype == y.dtype == np.int64
    assert np.array_equal(x[:, 1:], y[:, :-1])


def test_batch_size_does_not_change_the_sequence_of_windows(small):
    data = prepare(small, context=50)
    small_steps = [data.batch(s, batch_seqs=2, context=50, seed=0)[0] for s in range(6)]
    large_steps = [data.batch(s, batch_seqs=6, context=50, seed=0)[0] for s in range(2)]
    assert np.array_equal(np.concatenate(small_steps), np.concatenate(large_steps))


def test_unique_tokens_limits_what_is_trained_on(small):
    data = prepare(dataclasses.replace(small, unique_tokens=201), context=50)
    assert data.unique_tokens == 201
    windows = {tuple(w) for w in data.train[0:200].reshape(4, 50)}
    batches = [data.batch(s, batch_seqs=4, context=50, seed=2)[0] for s in range(3)]
    assert all({tuple(row) for row in batch} == windows for batch in batches)


def test_val_batches_cover_the_held_out_tokens_once(small):
    data = prepare(small, context=49)
    pieces = list(data.val_batches(context=49, batch_seqs=4))
    targets = np.concatenate([t.reshape(-1) for _, t, _ in pieces])
    assert len(targets) == 500 // 49 * 49
    assert np.array_equal(targets, data.val[1 : len(targets) + 1])
    firsts = np.concatenate([first for _, _, first in pieces])
    assert np.array_equal(firsts, 1 + 49 * np.arange(10))


def test_too_little_text_for_one_sequence_is_answered(small):
    with pytest.raises(DataError, match=r"data.unique_tokens: 30 tokens .* model.context=50"):
        prepare(dataclasses.replace(small, unique_tokens=30), context=50)
    with pytest.raises(DataError, match=r"data.val_tokens"):
        prepare(small, context=501)


def test_store_reads_across_shards(tmp_path):
    tokens = np.random.default_rng(0).integers(0, 60_000, 1000)
    write_store(tmp_path, "one", [tokens], vocab=60_000)
    write_store(tmp_path, "many", [tokens[:333], tokens[333:]], vocab=60_000, shard_tokens=128)
    one, many = TokenStore.open(tmp_path, "one"), TokenStore.open(tmp_path, "many")
    assert len(many.shards) == 8 and len(one) == len(many) == 1000
    starts = np.array([0, 100, 127, 900, 990])
    assert np.array_equal(one.windows(starts, 10), many.windows(starts, 10))
    assert np.array_equal(many[5:995:7], tokens[5:995:7])


@pytest.mark.parametrize(("vocab", "width"), [(256, 1), (257, 2), (65_536, 2), (65_537, 4)])
def test_store_keeps_tokens_in_the_narrowest_type(tmp_path, vocab, width):
    tokens = np.array([0, 1, vocab - 1])
    write_store(tmp_path, "t", [tokens], vocab=vocab)
    assert np.array_equal(TokenStore.open(tmp_path, "t")[0:3], tokens)
    assert shard_paths(tmp_path, "t")[0].stat().st_size == HEADER_BYTES + 3 * width


def _damage_payload(raw):
    return raw[:-5] + bytes([raw[-5] ^ 1]) + raw[-4:]


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (_damage_payload, "do not match their checksum"),
        (lambda raw: raw[:-10], "where its header promises"),
        (lambda raw: raw[:20], "truncated"),
        (lambda raw: raw[:9] + b"\7" + raw[10:], "header is damaged"),
        (lambda raw: b"NOTASHARD" + raw[9:], "header is damaged"),
    ],
)
def test_damaged_shard_is_named_with_its_cure(small, damage, says):
    folder = _prepared_folder(small)
    shard = shard_paths(folder, "train")[0]
    shard.write_bytes(damage(shard.read_bytes()))
    with pytest.raises(DataError, match=says) as caught:
        prepare(small, context=50)
    assert str(shard) in str(caught.value) and f"Delete the folder {folder}" in str(caught.value)


def test_deleted_shard_is_rebuilt_to_the_same_tokens(small):
    before = prepare(small, context=50)
    shard_paths(_prepared_folder(small), "train")[0].unlink()
    assert describe(small) is None
    assert prepare(small, context=50).data_hash == before.data_hash


def test_damaged_manifest_is_answered(small):
    folder = _prepared_folder(small)
    (folder / "manifest.json").write_text('{"train_tokens": 10')
    with pytest.raises(DataError, match="Delete the folder"):
        prepare(small, context=50)


def test_large_shard_is_verified_once_per_machine(tmp_path, monkeypatch):
    monkeypatch.setattr(store_module, "STAMP_BYTES", 100)
    write_store(tmp_path, "t", [np.arange(200)], vocab=256)
    TokenStore.open(tmp_path, "t")
    store_module._verified.clear()
    shard, stamp = shard_paths(tmp_path, "t")[0], tmp_path / "t-00000.verified"
    assert stamp.read_text().split()[0] == str(shard.stat().st_size)
    stat = shard.stat()
    shard.write_bytes(_damage_payload(shard.read_bytes()))
    os.utime(shard, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1_000_000))  # changed since the stamp
    with pytest.raises(DataError, match="checksum"):
        TokenStore.open(tmp_path, "t")


def test_cache_that_cannot_be_written_is_answered(small, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")  # a file where the folder should be fails for every user, root included
    with pytest.raises(DataError, match=r"data.cache or \$SCALING_CACHE"):
        prepare(dataclasses.replace(small, cache=str(blocked / "cache")), context=50)


def test_cache_location_follows_the_environment(small, tmp_path, monkeypatch):
    monkeypatch.setenv("SCALING_CACHE", str(tmp_path / "elsewhere"))
    prepare(dataclasses.replace(small, cache=None), context=50)
    assert list((tmp_path / "elsewhere").glob("unigram-*/manifest.json"))


def _prepare_in_process(config, start, results):
    start.wait()
    results.put(prepare(config, context=50).data_hash)


def test_two_processes_preparing_at_once_give_one_good_store(tmp_path):
    config = DataConfig(
        source="markov", vocab=64, size=300_000, val_tokens=2000, cache=str(tmp_path)
    )
    spawn = multiprocessing.get_context("spawn")
    start, results = spawn.Event(), spawn.Queue()
    processes = [
        spawn.Process(target=_prepare_in_process, args=(config, start, results)) for _ in range(2)
    ]
    for process in processes:
        process.start()
    start.set()
    hashes = {results.get(timeout=60) for _ in processes}
    for process in processes:
        process.join()
    assert hashes == {prepare(config, context=50).data_hash}
    assert len(list(tmp_path.iterdir())) == 1  # no temporary folder is left


def test_describe_knows_prepared_data_only(small):
    assert describe(small) is None
    data = prepare(small, context=50)
    facts = describe(dataclasses.replace(small, unique_tokens=300))
    assert facts is not None
    assert (facts.unique_tokens, facts.val_tokens, facts.data_hash) == (300, 500, data.data_hash)


def test_prepare_reports_progress(small):
    heard = []
    prepare(
        small, context=50, on_progress=lambda message, fraction: heard.append((message, fraction))
    )
    assert heard[-1][1] == 1.0 and all(isinstance(message, str) for message, _ in heard)


def test_split_keeps_documents_whole_and_apart(tmp_path):
    rng = np.random.default_rng(0)
    documents = [f"{i} " + "x" * int(n) for i, n in enumerate(rng.integers(10, 2000, 200))]
    pool = DocumentPool([*documents, *documents[:50], "", "  \n"], tmp_path / "spool")
    held_out, training = (list(pool.read(part)) for part in pool.split(20_000))
    assert sorted(held_out + training) == sorted(documents)  # deduplicated, empty ones dropped
    assert not set(held_out) & set(training)
    assert sum(map(len, held_out)) >= 20_000 - len(held_out)
    again = DocumentPool(reversed(documents), tmp_path / "again")
    assert list(again.read(again.split(20_000)[0])) == held_out  # whatever order they come in


def test_huge_document_stays_in_training(tmp_path):
    documents = ["y" * 100_000, *(f"{i} " + "x" * 1000 for i in range(300))]
    pool = DocumentPool(documents, tmp_path / "spool")
    assert max(map(len, pool.read(pool.split(60_000)[0]))) < 2000


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"source": "zipf_memory"}, DataError, "scaling.simulate"),
        ({"source": "text"}, DataError, "data.path"),
        ({"source": "ngram", "tokenizer": "bpe", "vocab": 512}, ConfigError, "data.tokenizer=bpe"),
        ({"source": "stdlib", "vocab": 300}, ConfigError, "300.*256"),
        ({"source": "grammar", "vocab": 16, "rules": 17}, ConfigError, "data.rules=17"),
        ({"source": "markov", "vocab": 100_000}, ConfigError, "data.vocab=100000"),
    ],
)
def test_keys_that_contradict_each_other_are_answered(small, changes, error, says):
    with pytest.raises(error, match=says):
        prepare(dataclasses.replace(small, **changes), context=50)


def _prepared_folder(config):
    prepare(config, context=50)
    store_module._verified.clear()
    from scaling.training.data.build import _folder

    folder = _folder(config)
    assert json.loads((folder / "manifest.json").read_text())["train_tokens"] == 1017
    return folder

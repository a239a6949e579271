"""Where text comes from: generated sources against their exact entropy, files against trouble."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from scaling.study.config import DataConfig
from scaling.study.errors import DataError
from scaling.training.data import prepare
from scaling.training.data.generated import MarkovSource, UnigramSource
from scaling.training.data.grammar import GrammarSource
from scaling.training.data.sources import stdlib_documents, stdlib_files
from scaling.training.data.texts import cut_text, is_streamed, text_documents
from scaling.training.data.tokenizers import ByteTokenizer

CHINESE = "天地玄黄，宇宙洪荒。日月盈昃，辰宿列张。"


def _text(source, length=200_000, stream=1):
    return np.concatenate([tokens for tokens, _ in source.text(stream, length)])


@pytest.mark.parametrize(
    "source",
    [
        UnigramSource(256, seed=0),
        MarkovSource(64, seed=0),
        GrammarSource(32, rules=32, depth=4, seed=0),
        GrammarSource(16, rules=4, depth=3, seed=1, exponent=0),
    ],
    ids=["unigram", "markov", "grammar", "grammar-uniform"],
)
def test_sampled_cross_entropy_is_the_exact_entropy(source):
    logprob = source.logprob(_text(source))
    blocks = -logprob[: len(logprob) // 1024 * 1024].reshape(-1, 1024).mean(axis=1)
    error = blocks.std(ddof=1) / math.sqrt(len(blocks))
    # Four standard errors: once in 16,000 seeds. With rules all alike every sentence is equally
    # probable and only rounding is left.
    assert abs(blocks.mean() - source.entropy_rate) < 4 * error + 1e-12


def test_entropies_are_the_published_ones():
    # Exact values, computed independently of this package (closed forms).
    assert UnigramSource(256, seed=0).entropy_rate == pytest.approx(4.312540053, abs=1e-9)
    uniform = GrammarSource(32, rules=8, depth=4, seed=0, exponent=0)
    assert uniform.entropy_rate == pytest.approx(2.166084939, abs=1e-9)
    zipf = GrammarSource(32, rules=32, depth=4, seed=0)
    assert zipf.entropy_rate == pytest.approx(2.231067079, abs=1e-9)


def test_markov_transitions_follow_their_table():
    source = MarkovSource(16, seed=3)
    text = _text(source)
    counts = np.zeros((16, 16))
    np.add.at(counts, (text[:-1], text[1:]), 1)
    expected = np.empty((16, 16))
    np.put_along_axis(expected, source.next.astype(int), np.tile(source.p, (16, 1)), axis=1)
    z = (counts - counts.sum(1, keepdims=True) * expected) / np.sqrt(
        counts.sum(1, keepdims=True) * expected
    )
    assert np.abs(z).max() < 5  # 256 cells


def test_grammar_conditionals_agree_with_enumeration():
    """p of each token from all 3 * 2^3 = 24 trees of a tiny grammar, summed by hand."""
    source = GrammarSource(3, rules=2, depth=2, seed=0)
    sentences = {}
    for root in range(3):
        for top in range(2):
            pair = source.levels[0].left[root, top], source.levels[0].right[root, top]
            for a in range(2):
                for b in range(2):
                    low = source.levels[1]
                    leaves = (
                        low.left[pair[0], a],
                        low.right[pair[0], a],
                        low.left[pair[1], b],
                        low.right[pair[1], b],
                    )
                    p = source.p[top] * source.p[a] * source.p[b] / 3
                    assert leaves not in sentences  # unambiguous
                    sentences[leaves] = p
    assert sum(sentences.values()) == pytest.approx(1)

    def prefix(start):
        return sum(p for s, p in sentences.items() if s[: len(start)] == start)

    for sentence in sentences:
        exact = [math.log(prefix(sentence[: i + 1]) / prefix(sentence[:i])) for i in range(4)]
        assert np.allclose(source.logprob(np.array(sentence)), exact, atol=1e-12)


def test_grammar_scores_a_sentence_cut_short():
    source = GrammarSource(8, rules=4, depth=3, seed=0)
    text = _text(source, 1000)
    assert np.allclose(source.logprob(text[:37]), source.logprob(text)[:37])


@pytest.mark.parametrize("make", [UnigramSource, MarkovSource])
def test_text_is_a_function_of_seed_and_stream(make):
    source = make(64, seed=0)
    assert np.array_equal(_text(source, 3000), _text(make(64, seed=0), 5000)[:3000])
    for other in (_text(make(64, seed=1), 3000), _text(source, 3000, stream=0)):
        assert np.mean(_text(source, 3000) == other) < 0.2


def test_prepared_text_knows_its_truth(tmp_path):
    config = DataConfig(
        source="grammar", vocab=16, rules=8, size=20_000, val_tokens=20_000, cache=str(tmp_path)
    )
    data = prepare(config, context=64)
    assert len(data.train) == 20_000 and len(data.val) == len(data.true_logprob) == 20_001
    assert -data.true_logprob.mean() == pytest.approx(data.entropy_rate, abs=0.05)
    assert data.entropy_rate_se == 0 and data.source_hash


def test_ngram_text_carries_exact_probabilities(tmp_path):
    config = DataConfig(
        source="ngram", order=2, size=200_000, val_tokens=20_000, cache=str(tmp_path)
    )
    data = prepare(config, context=64)
    mean = -data.true_logprob.mean(dtype=float)
    # 1.5 nats is the SD of -log p of bytes of text; neighbours are correlated, hence 6 errors.
    assert abs(mean - data.entropy_rate) < 6 * 1.5 / math.sqrt(20_000)
    assert 0 < data.entropy_rate_se < 0.02
    assert "def " in ByteTokenizer().decode(data.train[0:100_000])


def test_stdlib_files_leave_out_tests_and_machine_details():
    names = {path.as_posix() for path in stdlib_files()}
    assert any(name.endswith("/argparse.py") for name in names)
    assert not any(
        "/test/" in name or "site-packages" in name or "_sysconfigdata" in name for name in names
    )
    assert sum(map(len, stdlib_documents())) > 2_000_000


def test_missing_standard_library_is_answered(tmp_path):
    with pytest.raises(DataError, match=r"no \.py files"):
        stdlib_files(tmp_path)


def test_stdlib_splits_without_a_shared_document(tmp_path):
    data = prepare(DataConfig(val_tokens=60_000, cache=str(tmp_path)), context=128)
    decode = ByteTokenizer().decode
    held_out = decode(data.val[0 : len(data.val)]).split("\0")
    training = set(decode(data.train[0 : len(data.train)]).split("\0"))
    assert len(held_out) > 5 and data.bytes_per_token == 1
    assert not training & set(held_out[:-1])
    assert not any(document.startswith(held_out[-1]) for document in training if held_out[-1])


@pytest.fixture
def corpus(tmp_path):
    folder = tmp_path / "corpus"
    folder.mkdir()
    rows = [{"text": f"{CHINESE * 5}\n{i}", "id": i} for i in range(100)]
    (folder / "a.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8"
    )
    (folder / "b.txt").write_text("A line of English.\n\n" * 2000, encoding="utf-8")
    return folder


def test_text_folder_reads_all_kinds(corpus, tmp_path):
    config = DataConfig(source="text", path=str(corpus), val_tokens=2000, cache=str(tmp_path / "c"))
    data = prepare(config, context=64)
    text = ByteTokenizer().decode(np.concatenate([data.train[0:100_000], data.val[0:3000]]))
    assert CHINESE in text and "A line of English." in text


def test_glob_and_single_file_give_documents(corpus):
    assert len(list(text_documents(str(corpus / "*.jsonl")))) == 100
    assert len(list(text_documents(str(corpus / "a.jsonl")))) == 100


def test_changed_file_is_read_again(corpus, tmp_path):
    config = DataConfig(source="text", path=str(corpus), val_tokens=2000, cache=str(tmp_path / "c"))
    before = prepare(config, context=64).data_hash
    with (corpus / "b.txt").open("a") as file:
        file.write("Something new.\n")
    assert prepare(config, context=64).data_hash != before


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("missing.txt", None, "no such file"),
        ("empty.txt", b"", "no text"),
        ("short.txt", b"too short", "too little"),
        ("latin.txt", "caf\xe9".encode("latin-1") * 9, "not UTF-8 at byte 3"),
        ("bad.jsonl", b'{"text": "good"}\n{"text": \n', "line 2: not JSON"),
        ("key.jsonl", b'{"body": "good"}\n', "no text under 'text'; there is: body"),
        ("list.jsonl", b"[1, 2]\n", "no text under"),
        ("what.pdf", b"%PDF", "none of .txt"),
        ("bad.parquet", b"PAR1 and no more", "parquet"),
    ],
)
def test_bad_text_file_is_answered(tmp_path, name, content, says):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    config = DataConfig(source="text", path=str(path), cache=str(tmp_path / "c"))
    with pytest.raises(DataError, match=says):
        prepare(config, context=64)
    assert not list((tmp_path / "c").glob("*")), "a failed build leaves nothing behind"


def test_name_that_is_no_file_is_a_dataset():
    assert is_streamed("roneneldan/TinyStories") and is_streamed("wikitext:wikitext-2-raw-v1")
    assert not any(
        map(is_streamed, ("texts/a.txt", "./texts", "/tmp", "~/texts", "texts/*", "no.jsonl"))
    )


def test_long_text_is_cut_at_blank_lines_and_loses_nothing():
    text = "\n\n".join(f"paragraph {i} " + "word " * (i % 40) for i in range(400))
    pieces = list(cut_text(text, piece=1000))
    assert "".join(pieces) == text
    assert max(map(len, pieces)) <= 1000 and all(p.startswith(("paragraph", "\n")) for p in pieces)
    assert "".join(cut_text("x" * 5000, piece=1000)) == "x" * 5000  # nowhere to cut


def test_parquet_is_read_by_column(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet as parquet

    parquet.write_table(pyarrow.table({"body": [CHINESE, "two", None]}), tmp_path / "t.parquet")
    assert list(text_documents(str(tmp_path / "t.parquet"), text_key="body")) == [CHINESE, "two"]
    with pytest.raises(DataError, match="no column 'text' among body"):
        list(text_documents(str(tmp_path / "t.parquet")))


def test_dataset_is_streamed_until_there_is_enough(corpus):
    """The reader of Hugging Face datasets on a local folder, which the library reads the same way."""
    pytest.importorskip("datasets")
    from scaling.training.data.texts import _stream_dataset

    (corpus / "b.txt").unlink()
    size = len((CHINESE * 5).encode())
    documents = list(_stream_dataset(str(corpus), "text", None, stream_bytes=10 * size))
    assert len(documents) == 10 and all(CHINESE in text for text in documents)
    with pytest.raises(DataError, match=r"no text under 'body'; there is: text, id"):
        list(_stream_dataset(str(corpus), "body", None, stream_bytes=10))

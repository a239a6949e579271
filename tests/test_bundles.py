"""A sweep in one file: the same numbers as its folder, nothing run, nothing written elsewhere."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pandas as pd
import pytest
import yaml

import scaling as sl
from scaling.analysis.data.bundles import Bundle, unpack_bundle
from scaling.analysis.data.bundling import write_bundle
from scaling.cli import main
from scaling.study.errors import FitError, RecordError
from scaling.study.record import read_metrics, read_record

SAMPLE = Path(__file__).parent.parent / "results" / "sample"
FORMATS = ["jsonl", pytest.param("parquet", marks=pytest.mark.skipif(
    pytest.importorskip("importlib.util").find_spec("pyarrow") is None, reason="needs pyarrow"))]  # fmt: skip


@pytest.fixture(scope="module")
def few(tmp_path_factory) -> Path:
    """Twelve runs of the sample under a Chinese name, in a folder with a space."""
    sweep = tmp_path_factory.mktemp("结果 with spaces") / "小扫描"
    for run in sorted(SAMPLE.glob("llama-*"))[:12]:
        shutil.copytree(run, sweep / run.name)
    shutil.copy(SAMPLE / "sweep.yaml", sweep)
    return sweep


@pytest.fixture(scope="module")
def bundle(few, tmp_path_factory) -> Path:
    return write_bundle(few, tmp_path_factory.mktemp("out") / "小扫描.scaling.zip").path


def test_half_of_a_merge_is_no_run_of_a_bundle(few, bundle, tmp_path):
    sweep = tmp_path / few.name
    shutil.copytree(few, sweep)
    run = next(sweep.glob("llama-*"))
    shutil.copytree(run, sweep / f".{run.name}.merging-host-1")
    made = write_bundle(sweep, tmp_path / "again.scaling.zip")
    assert made.runs == 12 and len(Bundle(made.path).records) == 12


def rewrite(bundle: Path, to: Path, change) -> Path:
    """Copy a bundle, its members as `change` makes them: {name: bytes} in, the same out."""
    with zipfile.ZipFile(bundle) as old:
        members = change({name: old.read(name) for name in old.namelist()})
    with zipfile.ZipFile(to, "w") as new:
        for name, data in members.items():
            new.writestr(name, data)
    return to


def restate(members: dict, **changes) -> dict:
    """Give a bundle's manifest other values, and true sums of what is in it."""
    import hashlib

    manifest = json.loads(members["manifest.json"]) | changes
    manifest["files"] = {
        n: {"bytes": len(d), "sha256": hashlib.sha256(d).hexdigest()}
        for n, d in members.items() if n != "manifest.json"
    }  # fmt: skip
    return members | {"manifest.json": json.dumps(manifest).encode()}


@pytest.mark.parametrize("format", FORMATS)
def test_bundle_loads_as_the_folder_does(few, tmp_path, format):
    made = write_bundle(few, tmp_path, format=format)
    assert (made.path.name, made.runs, made.problems) == ("小扫描.scaling.zip", 12, ())
    ours, theirs = sl.load(few), sl.load(made.path)
    pd.testing.assert_frame_equal(
        ours.table.drop(columns="folder").set_index("run_id").sort_index(),
        theirs.table.drop(columns="folder").set_index("run_id").sort_index(),
    )
    a, b = (r.using(flops="counted").curves().sort_values(["run_id", "step"], ignore_index=True) for r in (ours, theirs))  # fmt: skip
    pd.testing.assert_frame_equal(a, b, check_dtype=False)  # 3 and 3.0 are one step
    records = {r.run_id: r for r in Bundle(made.path).records}
    assert records == {r.name: read_record(r) for r in few.glob("llama-*")}


def test_commands_work_on_a_bundle_as_on_its_folder(few, bundle, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    keys = ["intervals=none", "starts=1"]
    assert main(["fit", str(few), *keys, f"out={tmp_path / 'a'}"]) == 0
    told = capsys.readouterr().out
    assert main(["fit", str(bundle), *keys, f"out={tmp_path / 'b'}"]) == 0
    # the convention of the sweep's budgets too, which only sweep.yaml tells
    assert "counted matrix products" in told
    assert capsys.readouterr().out.split("\nSaved")[0] == told.split("\nSaved")[0]


def test_bundle_command_writes_beside_and_merge_unpacks(few, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["bundle", "小扫描", f"results={few.parent}"]) == 0
    assert "12 runs" in capsys.readouterr().out
    assert main(["merge", "小扫描.scaling.zip", "into=back"]) == 0
    for run in few.glob("llama-*"):
        copy = tmp_path / "back" / "小扫描" / run.name
        assert read_record(copy) == read_record(run) and read_metrics(copy) == read_metrics(run)
        assert (copy / "config.yaml").read_bytes() == (run / "config.yaml").read_bytes()
    assert (tmp_path / "back" / "小扫描" / "sweep.yaml").is_file()
    assert [p.name for p in (tmp_path / "back").iterdir()] == ["小扫描"]


def test_same_sweep_makes_the_same_tables(few, tmp_path):
    first, second = (write_bundle(few, tmp_path / f"{n}.zip").path for n in "ab")
    with zipfile.ZipFile(first) as a, zipfile.ZipFile(second) as b:
        names = [n for n in a.namelist() if n.startswith(("runs", "curves", "configs"))]
        assert len(names) == 14 and all(a.read(n) == b.read(n) for n in names)


def test_bundle_and_its_folder_together_are_refused_as_copies(few, bundle):
    with pytest.raises(FitError, match="duplicates"):
        sl.load(few, bundle)


def test_damaged_record_is_left_out_and_said(few, tmp_path, capsys):
    sweep = tmp_path / "sweep"
    shutil.copytree(few, sweep)
    broken = next(sweep.glob("llama-*"))
    (broken / "run.json").write_text("{")
    assert main(["bundle", str(sweep), str(tmp_path / "x.scaling.zip")]) == 1
    assert broken.name in capsys.readouterr().out
    assert len(Bundle(tmp_path / "x.scaling.zip").records) == 11


@pytest.mark.parametrize("cut", [0, 100, 0.5, -30])
def test_cut_bundle_is_a_clear_error(bundle, tmp_path, cut):
    data = bundle.read_bytes()
    at = int(len(data) * cut) if isinstance(cut, float) else cut
    path = tmp_path / "cut.scaling.zip"
    path.write_bytes(data[:at])
    with pytest.raises(RecordError, match=r"cut\.scaling\.zip: damaged"):
        sl.load(path)


def test_every_changed_byte_is_noticed_or_harmless(bundle, tmp_path):
    """Bytes all over the file; what still loads has the same records (names and times of the zip)."""
    data, path = bundle.read_bytes(), tmp_path / "x.scaling.zip"
    records = Bundle(bundle).records
    noticed = 0
    for at in range(7, len(data), len(data) // 60):
        path.write_bytes(data[:at] + bytes([data[at] ^ 0x55]) + data[at + 1 :])
        try:
            assert Bundle(path).records == records
        except RecordError:
            noticed += 1
    assert noticed > 40


def test_member_changed_by_hand_is_noticed(bundle, tmp_path):
    path = rewrite(
        bundle, tmp_path / "x.scaling.zip", lambda m: m | {"sweep.yaml": b"results: r\n"}
    )
    with pytest.raises(RecordError, match=r"sweep\.yaml"):
        sl.load(path)


@pytest.mark.parametrize("name", ["../evil", "/tmp/evil", "..", ".hidden", "a\\b", "a/b"])
def test_bundle_never_writes_outside_its_folder(bundle, tmp_path, name):
    path = rewrite(bundle, tmp_path / "x.scaling.zip", lambda m: restate(m, sweep=name))
    inside = tmp_path / "in" / "side"
    with pytest.raises(RecordError, match="no folder's name"):
        unpack_bundle(path, inside)
    assert not inside.exists() and not (tmp_path / "in" / "evil").exists()


def test_run_id_that_leads_elsewhere_is_refused(few, tmp_path):
    made = write_bundle(few, tmp_path / "a.zip", format="jsonl").path

    def escape(members):
        rows = members["runs.jsonl"].decode().splitlines()
        rows[0] = json.dumps(json.loads(rows[0]) | {"run_id": "../../evil"})
        return restate(members | {"runs.jsonl": "\n".join(rows).encode()})

    with pytest.raises(RecordError, match="no folder's name"):
        unpack_bundle(rewrite(made, tmp_path / "b.scaling.zip", escape), tmp_path / "in" / "side")
    assert not (tmp_path / "evil").exists()


def test_zip_that_unpacks_to_more_than_it_states_is_not_read(bundle, tmp_path):
    def lie(members):
        manifest = json.loads(members["manifest.json"])
        manifest["files"]["README.txt"]["bytes"] = 1 << 40
        return members | {"manifest.json": json.dumps(manifest).encode()}

    with pytest.raises(RecordError, match=r"README\.txt has"):
        sl.load(rewrite(bundle, tmp_path / "x.scaling.zip", lie))


@pytest.mark.parametrize(
    ("changes", "word"),
    [({"format": "scaling bundle 9"}, "version that wrote it"), ({"schema_version": 99}, "version that wrote it")],
)  # fmt: skip
def test_other_version_says_so(bundle, tmp_path, changes, word):
    path = rewrite(bundle, tmp_path / "x.scaling.zip", lambda m: restate(m, **changes))
    with pytest.raises(RecordError, match=word):
        sl.load(path)


def test_zip_of_something_else_says_so(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.scaling.zip", "w") as archive:
        archive.writestr("a.txt", "b")
    with pytest.raises(RecordError, match="no bundle"):
        sl.load(tmp_path / "x.scaling.zip")


def test_without_pyarrow_jsonl_is_written_and_parquet_explained(few, bundle, tmp_path):
    """In a process of its own, as pandas that has seen pyarrow cannot forget it."""
    code = """if True:
        import sys
        sys.modules["pyarrow"] = None  # what `import` sees when it is not installed
        from scaling.analysis.data.bundles import Bundle
        from scaling.analysis.data.bundling import write_bundle
        from scaling.study.errors import RecordError
        few, bundle, out = sys.argv[1:]
        made = Bundle(write_bundle(few, out + "/x.scaling.zip").path)
        print(len(made.records), made.text("runs.jsonl") is not None)
        for act in (lambda: Bundle(bundle).records, lambda: write_bundle(few, out, format="parquet")):
            try:
                act()
                print("no error")
            except RecordError as error:
                print(error)
    """
    arguments = [sys.executable, "-X", "utf8", "-c", code, str(few), str(bundle), str(tmp_path)]
    done = subprocess.run(arguments, capture_output=True, encoding="utf-8", check=True)
    counted, reading, writing = done.stdout.splitlines()
    assert counted == "12 True" and "format=jsonl" in writing
    if "runs.parquet" in zipfile.ZipFile(bundle).namelist():
        assert "pip install pyarrow, or ask for a bundle with format=jsonl" in reading


@pytest.mark.parametrize("arguments", [[], ["nowhere"], ["a", "b", "c"]])
def test_bundle_command_says_what_it_needs(arguments, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["bundle", *arguments]) == 1
    assert "scaling bundle" in capsys.readouterr().err


def test_next_sweep_from_a_bundle_keeps_the_settings_of_its_runs(few, bundle):
    from scaling.analysis.allocation.design import shared_settings

    settings = shared_settings(sl.load(few))
    assert settings and shared_settings(sl.load(bundle)) == settings


def test_bundle_names_no_place_of_this_machine(few, tmp_path):
    sweep = tmp_path / "sweep"
    shutil.copytree(next(few.glob("llama-*")), sweep / "run")
    text = (sweep / "run" / "config.yaml").read_text()
    for old, new in (
        ("results: results", "results: /home/alice/results"),
        ("  cache: null", "  cache: /scratch/alice"),
        ("  init_from: null", "  init_from: '/home/alice/results/a/llama-n1k-d2k-s0-0123abcd'"),
    ):
        assert old in text
        text = text.replace(old, new)
    (sweep / "run" / "config.yaml").write_text(text)
    (sweep / "sweep.yaml").write_text(text)
    made = Bundle(write_bundle(sweep, tmp_path / "x.scaling.zip").path)
    config = made.text(f"configs/{made.records[0].run_id}.yaml")
    for kept in (config, made.text("sweep.yaml")):
        assert "alice" not in kept
        assert yaml.safe_load(kept)["model"]["init_from"] == "llama-n1k-d2k-s0-0123abcd"


def _line(change):
    """Change the first row of the table of runs."""

    def changed(members: dict) -> dict:
        first, *rest = members["runs.jsonl"].splitlines()
        row = json.dumps(json.loads(first) | change).encode()
        return restate(members | {"runs.jsonl": b"\n".join([row, *rest])})

    return changed


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m | {"manifest.json": b"[1, 2]"},
        lambda m: m | {"manifest.json": b"[" * 200_000},
        lambda m: m | {"manifest.json": b" " * (65 << 20) + b"{}"},
        lambda m: restate(m, sweep=7),
        lambda m: m | {"manifest.json": m["manifest.json"].replace(b'"files": {', b'"files": [], "no": {')},
        lambda m: restate(m | {"runs.jsonl": b"1\n2\n"}),
        lambda m: restate(m | {"runs.jsonl": b""}),
        lambda m: restate(m | {"curves.jsonl": b'{"step": 1}\n'}),
        _line({"software": "{bad"}),
        _line({"run_id": "/tmp/evil"}),
        _line({"val_loss": "low"}),
    ],
)  # fmt: skip
def test_bundle_of_the_wrong_kinds_is_refused_in_words(few, tmp_path, change):
    """Sums are true of these, so nothing but a look at what is inside tells."""
    made = write_bundle(few, tmp_path / "a.zip", format="jsonl").path
    path = rewrite(made, tmp_path / "b.scaling.zip", change)
    with pytest.raises(RecordError, match=r"b\.scaling\.zip"):
        sl.load(path).curves()
    with pytest.raises(RecordError, match=r"b\.scaling\.zip"):
        unpack_bundle(path, tmp_path / "in")


@pytest.mark.parametrize("name", ["sweep.yaml", "configs"])
def test_text_of_a_bundle_that_is_none_is_refused_in_words(few, tmp_path, name):
    made = write_bundle(few, tmp_path / "a.zip", format="jsonl").path

    def spoil(members: dict) -> dict:
        return restate({n: b"\xff\xfe\x00" if n.startswith(name) else d for n, d in members.items()})  # fmt: skip

    path = rewrite(made, tmp_path / "b.scaling.zip", spoil)
    assert len(sl.load(path)) == 12
    with pytest.raises(RecordError, match="damaged"):
        unpack_bundle(path, tmp_path / "in")

"""The ledger: records read once, and an index that never says what a record does not."""

import json
import os
import time

import pytest

from scaling.study import ledger as module
from scaling.study.ledger import Ledger
from scaling.study.record import RunRecord, write_record


def write(folder, name, **values):
    write_record(folder / name, RunRecord(name, "done", **values))


def write_alike(folder, name, old, new):
    """Change a record in place: same inode, same size, same modification time."""
    path = folder / name / "run.json"
    before = path.stat()
    text = path.read_text()
    assert text.count(old) == 1 and len(old) == len(new)
    with open(path, "r+") as file:
        file.write(text.replace(old, new))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = path.stat()
    assert (after.st_ino, after.st_size, after.st_mtime_ns) == (before.st_ino, before.st_size, before.st_mtime_ns)  # fmt: skip


@pytest.fixture
def at_rest(monkeypatch):
    """Take the clock's tick as the 10 ms of a local Linux file system, so that tests need not wait 3 s."""
    monkeypatch.setattr(module, "TICK", 10_000_000)
    return lambda: time.sleep(0.05)


def test_change_of_same_size_and_time_is_seen_at_once(tmp_path):
    write(tmp_path, "a", val_loss=2.25)
    ledger = Ledger(tmp_path)
    assert ledger.look()["a"].val_loss == 2.25
    ledger.save()
    write_alike(tmp_path, "a", "2.25", "2.75")
    assert ledger.look()["a"].val_loss == 2.75
    assert Ledger(tmp_path).look()["a"].val_loss == 2.75


def test_change_of_same_size_and_time_is_seen_after_rest(tmp_path, at_rest):
    write(tmp_path, "a", val_loss=2.25)
    at_rest()
    ledger = Ledger(tmp_path)
    ledger.look()
    ledger.save()
    again = Ledger(tmp_path)
    assert again.look()["a"].val_loss == 2.25 and again.read == 0, "from the index"
    at_rest()
    write_alike(tmp_path, "a", "2.25", "2.75")
    for one in (ledger, Ledger(tmp_path)):
        assert one.look()["a"].val_loss == 2.75 and one.read == 1


def test_index_holds_only_what_is_at_rest(tmp_path, at_rest):
    write(tmp_path, "old")
    at_rest()
    ledger = Ledger(tmp_path)
    write(tmp_path, "new")
    soon = time.time() + 60  # as by a clock ahead of ours, so that the test depends on no pace
    os.utime(tmp_path / "new" / "run.json", (soon, soon))
    assert set(ledger.look()) == {"old", "new"}
    ledger.save()
    again = Ledger(tmp_path)
    again.look()
    assert again.read == 1


def test_index_of_another_version_or_cut_or_altered_is_none(tmp_path, at_rest):
    for name in "abc":
        write(tmp_path, name, val_loss=2.25)
    at_rest()
    ledger = Ledger(tmp_path)
    truth = ledger.look()
    ledger.save()
    path = tmp_path / ".status" / "index.json"
    whole = path.read_text()
    for text in ("", "{", whole[:-20], whole.replace("2.25", "9.75"), "1" + whole, "\x00" * 50):
        path.write_text(text)
        again = Ledger(tmp_path)
        assert again.look() == truth and again.read == 3
    again.save()
    once_more = Ledger(tmp_path)
    assert once_more.look() == truth and once_more.read == 0, "it was written anew"


def test_folder_that_goes_is_gone_and_one_that_comes_is_seen(tmp_path, at_rest):
    for name in "ab":
        write(tmp_path, name)
    at_rest()
    ledger = Ledger(tmp_path)
    ledger.look()
    ledger.save()
    (tmp_path / "a" / "run.json").unlink()
    write(tmp_path, "c")
    assert set(Ledger(tmp_path).look()) == {"b", "c"}


def test_damaged_record_is_named_and_is_read_again_once_mended(tmp_path, at_rest):
    write(tmp_path, "a")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "run.json").write_text('{"run_id": ')
    (tmp_path / "notes.txt").write_text("no run")
    at_rest()
    ledger = Ledger(tmp_path)
    glances = ledger.look()
    assert [g.status for g in glances.values()] == ["done", "damaged"]
    assert "b/run.json" in glances["b"].reason
    ledger.save()
    again = Ledger(tmp_path)
    assert again.look() == glances and again.read == 1, "what is damaged may be mended elsewhere"
    write(tmp_path, "b")
    assert ledger.look()["b"].status == "done"


def test_folder_that_cannot_be_written_is_read_all_the_same(tmp_path, at_rest):
    write(tmp_path, "a")
    (tmp_path / ".status").write_text("a file where the index should be")
    at_rest()
    for _ in range(2):
        ledger = Ledger(tmp_path)
        assert ledger.look()["a"].status == "done" and ledger.read == 1
        ledger.save()


def test_folder_that_is_not_there_has_no_runs(tmp_path):
    assert Ledger(tmp_path / "none").look() == {}
    assert not (tmp_path / "none").exists()
    assert json.dumps(Ledger(tmp_path).look()) == "{}"

"""One process per run: claims on one machine, on several, in containers, and clocks that do not agree."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from small_run import numbers, small_plan

import scaling.training.claim as claims
from scaling.study.config import RunConfig
from scaling.study.errors import BusyError, ConfigError, TrainError
from scaling.study.record import read_record
from scaling.training.claim import Claim, find_holder
from scaling.training.identity import my_identity
from scaling.training.trainer import train

ELSEWHERE = {"pid": 7, "parent": 1, "host": "elsewhere", "started": "1", "token": "t"}


@pytest.fixture
def folder(tmp_path):
    """A run's folder in a sweep's."""
    path = tmp_path / "sweep" / "run"
    path.mkdir(parents=True)
    return path


def leave_claim(folder: Path, *, silent: float = 0.0, **changes) -> Path:
    """Write somebody's claim whose last heartbeat is so many seconds old."""
    path = folder / "claim.json"
    path.write_text(json.dumps(ELSEWHERE | changes))
    then = path.stat().st_mtime - silent
    os.utime(path, (then, then))
    return path


def test_silent_process_elsewhere_is_dead_after_the_stated_time(folder, monkeypatch):
    monkeypatch.setattr(claims, "WATCH", 0.5)
    leave_claim(folder, silent=100)
    assert find_holder(folder, takeover=101) == "process 7 on elsewhere"
    with pytest.raises(BusyError, match=r"last heard of 100 s ago"):
        Claim(folder, takeover=101).__enter__()
    assert find_holder(folder, takeover=99) is None
    with Claim(folder, takeover=99) as claim:
        assert "took over from process 7 on elsewhere" in claim.taken_over


@pytest.mark.parametrize("skew", [-86_400.0, 86_400.0])
def test_clock_that_differs_from_the_file_systems_makes_nobody_dead(folder, monkeypatch, skew):
    leave_claim(folder, silent=100)
    ours = time.time
    monkeypatch.setattr(time, "time", lambda: ours() + skew)
    assert find_holder(folder, takeover=200) == "process 7 on elsewhere"
    assert find_holder(folder, takeover=50) is None


def test_claim_of_another_host_is_judged_by_its_heartbeat_not_by_a_clock(folder, monkeypatch):
    monkeypatch.setattr(claims, "WATCH", 1.0)
    path = leave_claim(folder)
    beats = iter(range(100))

    def sleep(_seconds):  # the other host's process renews, with a clock that is a day behind
        os.utime(path, (1e9 + next(beats), 1e9 + next(beats)))

    os.utime(path, (1e9, 1e9))
    with monkeypatch.context() as patch:
        patch.setattr("scaling.training.claim.time.sleep", sleep)
        with pytest.raises(BusyError, match="process 7 on elsewhere is training this run"):
            Claim(folder).__enter__()
    os.utime(path, (1e9, 1e9))
    with Claim(folder) as claim:  # nobody renews it
        assert "took over from process 7 on elsewhere" in claim.taken_over


def test_process_number_of_a_container_of_the_same_name_means_nothing_here(folder, monkeypatch):
    monkeypatch.setattr(claims, "WATCH", 0.5)
    gone = my_identity() | {"pid": 2**30, "token": "t"}  # above what Linux gives
    leave_claim(folder, **gone)
    assert find_holder(folder) is None  # here it would be seen
    leave_claim(folder, **gone | {"space": "pid:[1]"})
    assert find_holder(folder) is not None  # there it may be alive: its heartbeat tells
    leave_claim(folder, **gone | {"space": "pid:[1]"}, silent=601)
    assert find_holder(folder) is None


def test_claim_from_before_this_machine_was_started_again_is_dead(folder):
    up = time.clock_gettime(time.CLOCK_BOOTTIME)
    before = my_identity() | {"boot": "another", "token": "t"}
    leave_claim(folder, **before, silent=up + 60)
    assert find_holder(folder, takeover=up + 3600) is None
    leave_claim(folder, **before, silent=1)  # another machine of the same name
    assert find_holder(folder, takeover=up + 3600) is not None


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"pid": -1, "host": "h", "token": "t"}', "\x00\xff"]
)
def test_claim_that_says_nothing_is_taken_over_whatever_its_time(text, folder, monkeypatch):
    monkeypatch.setattr(claims, "HALF_WRITTEN", 0.3)
    path = folder / "claim.json"
    path.write_text(text)
    os.utime(path, (4e9, 4e9))  # a clock that has jumped back since
    with Claim(folder) as claim:
        assert claim.taken_over


@pytest.mark.parametrize("left", [None, {"pid": 2**30, "host": None}])
def test_of_many_that_claim_at_once_one_gets_it(folder, left):
    """Also where a dead claim has to be moved aside first; threads contend as processes do."""

    def contend(_number):
        claim = Claim(folder)
        try:
            claim.__enter__()
        except BusyError:
            return None
        time.sleep(0.1)  # longer than all others need to try
        return claim

    for _ in range(10):
        if left is not None:
            leave_claim(folder, **my_identity() | {"pid": 2**30, "token": "dead"})
        with ThreadPoolExecutor(8) as pool:
            got = [claim for claim in pool.map(contend, range(8)) if claim is not None]
        assert len(got) == 1
        got[0].__exit__()
        assert [p.name for p in folder.iterdir()] == []


def test_heir_that_was_killed_before_it_took_over_is_succeeded_in_its_turn(folder):
    dead = my_identity() | {"pid": 2**30}
    claim = Claim(folder)
    leave_claim(folder, **dead | {"token": "first"})
    (_, first, _) = claim._last_in_line()
    heir = claim._after(first)
    heir.write_text(json.dumps(dead | {"token": "heir"}))
    with claim:
        assert claim.taken_over
        assert [p.name for p in folder.iterdir()] == ["claim.json"]
    alive = ELSEWHERE | {"token": "alive"}
    leave_claim(folder, **dead | {"token": "first"})
    heir.write_text(json.dumps(alive))
    with pytest.raises(BusyError, match="process 7 on elsewhere"):
        Claim(folder).__enter__()


def test_heir_of_one_that_was_replaced_long_ago_takes_nothing(folder):
    leave_claim(folder, **my_identity() | {"pid": 2**30, "token": "dead"})
    slow, quick = Claim(folder), Claim(folder)
    first, holder, _ = slow._last_in_line()
    with quick:  # took over between slow's look and its attempt
        assert not slow._succeed(first, holder)
        assert json.loads(quick.path.read_text())["token"] == quick.token
        assert [p.name for p in folder.iterdir()] == ["claim.json"]


def test_claim_on_a_full_disk_leaves_no_empty_file(folder, monkeypatch):
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, before[1]))
    try:
        with pytest.raises(OSError):
            Claim(folder).__enter__()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(folder.iterdir())


def test_takeover_takes_times_as_people_write_them_but_not_below_three_heartbeats():
    assert RunConfig.from_dict({"model": {"params": 1e4}, "claim": {"takeover": "10min"}}).claim.takeover == 600  # fmt: skip
    with pytest.raises(ConfigError, match=r"claim\.takeover: must be at least 15 s; got 10"):
        RunConfig.from_dict({"model": {"params": 1e4}, "claim": {"takeover": "10 s"}})
    assert claims.BEAT_EVERY * 3 <= 15


def test_process_whose_run_was_taken_over_leaves_it(tmp_path, monkeypatch):
    undisturbed = train(small_plan(tmp_path / "undisturbed"))
    plan = small_plan(tmp_path)

    def take(progress):
        if progress["step"] == 30:
            path = plan.folder / "claim.json"
            path.write_text(
                json.dumps(json.loads(path.read_text()) | {"token": "x", "host": "elsewhere"})
            )
            time.sleep(0.1)

    with monkeypatch.context() as patch:
        patch.setattr(claims, "BEAT_EVERY", 0.02)
        with pytest.raises(TrainError, match="on elsewhere has taken this run over"):
            train(plan, on_progress=take)
    assert read_record(plan.folder).status == "running"  # the other's word
    (plan.folder / "claim.json").unlink()
    assert train(plan).val_loss == undisturbed.val_loss
    assert numbers(plan.folder) == numbers(small_plan(tmp_path / "undisturbed").folder)


HOLD = """
import sys, time
from pathlib import Path
from scaling.training.claim import Claim
with Claim(Path(sys.argv[1]), takeover=15):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0 if hasattr(os, "geteuid") else True, reason="another host name needs root")  # fmt: skip
def test_host_that_dies_is_taken_over_after_the_stated_time_and_a_live_one_is_not(folder):
    other = ["unshare", "--uts", "--pid", "--fork", "--kill-child", "sh", "-c"]
    command = f'hostname elsewhere; exec {sys.executable} -c "$0" "$1"'
    child = subprocess.Popen([*other, command, HOLD, str(folder)], stdout=subprocess.PIPE, text=True)  # fmt: skip
    try:
        if child.stdout.readline() != "held\n":
            pytest.skip("this machine lends no other host name")
        time.sleep(20)  # longer than takeover: it lives by its heartbeat alone
        with pytest.raises(BusyError, match="on elsewhere is training this run"):
            Claim(folder, takeover=15).__enter__()
    finally:
        child.kill()
        child.wait()
    died = time.monotonic()
    while True:
        try:
            with Claim(folder, takeover=15) as claim:
                assert "on elsewhere, which is gone" in claim.taken_over
            break
        except BusyError:
            time.sleep(0.5)
    # the last heartbeat was up to 5 s old; then 12.5 s of watching a claim that seems dead
    assert 9 < time.monotonic() - died < 60

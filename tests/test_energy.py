"""Energy of runs: RAPL's tree, NVML's counters, shares of what runs and processes have together.

The tree and the boards are made up here: this needs root on most machines, or a GPU.
"""

import itertools
import json
import threading
import time
from types import SimpleNamespace

import pytest
import torch
from small_run import small_plan

from scaling.study.record import read_record
from scaling.training import energy, trainer
from scaling.training.energy import Meter, Nvml, Rapl, find_zones, open_meter
from scaling.training.trainer import train, train_together


def zone(tree, folder, name, joules, *, size=65536.0):
    at = tree / folder
    at.mkdir(parents=True)
    (at / "name").write_text(f"{name}\n")
    (at / "energy_uj").write_text(f"{joules * 1e6:.0f}\n")
    (at / "max_energy_range_uj").write_text(f"{size * 1e6:.0f}\n")
    return at


def server(tmp_path):
    """Two packages with memory, their cores, and the first package once more (mmio)."""
    tree = tmp_path / "powercap"
    zone(tree, "intel-rapl-mmio:0", "package-0", 7.0)
    for i in (0, 1):
        zone(tree, f"intel-rapl:{i}", f"package-{i}", 100.0 + i)
        zone(tree, f"intel-rapl:{i}:0", "core", 50.0)
        zone(tree, f"intel-rapl:{i}:1", "dram", 10.0)
    zone(tree, "intel-rapl:2", "psys", 900.0)
    return tree


def cores(tmp_path, busy):
    """A /proc/stat whose cores have worked so many seconds; waiting is not work."""
    ticks = round(busy / energy._TICK)
    stat = tmp_path / "stat"
    stat.write_text(f"cpu  {ticks} 0 0 99999 5555 0 0 0 0 0\ncpu0 1 2 3\n")
    return stat


def test_zones_hold_each_joule_once(tmp_path):
    names = {z.name for z in find_zones(server(tmp_path))}
    assert names == {"intel-rapl:0", "intel-rapl:0:1", "intel-rapl:1", "intel-rapl:1:1"}
    assert find_zones(tmp_path / "none") == []


def test_a_process_takes_the_part_of_a_package_that_it_worked(tmp_path):
    package = zone(tmp_path, "intel-rapl:0", "package-0", 100.0)
    own = iter([5.0, 8.0])
    rapl = Rapl([package], stat=cores(tmp_path, 50.0), own_seconds=lambda: next(own))
    (package / "energy_uj").write_text("160000000")
    cores(tmp_path, 62.0)
    assert rapl.read() == pytest.approx(60.0 * 3.0 / 12.0)  # 3 of 12 core-seconds; exact arithmetic


def test_a_counter_that_starts_again_loses_nothing(tmp_path):
    package = zone(tmp_path, "intel-rapl:0", "package-0", 65530.0)
    own = iter([0.0, 4.0])
    rapl = Rapl([package], stat=cores(tmp_path, 0.0), own_seconds=lambda: next(own))
    (package / "energy_uj").write_text("10000000")
    cores(tmp_path, 4.0)
    assert rapl.read() == pytest.approx(16.0)  # 6 J to the end of the range, then 10 J


def test_shares_of_processes_add_up_to_what_was_used(tmp_path):
    package, stat = zone(tmp_path, "intel-rapl:0", "package-0", 0.0), cores(tmp_path, 0.0)
    clocks = [iter([0.0, 2.0]), iter([0.0, 5.0]), iter([0.0, 1.0])]
    gauges = [Rapl([package], stat=stat, own_seconds=lambda c=c: next(c)) for c in clocks]
    (package / "energy_uj").write_text("400000000")
    cores(tmp_path, 8.0)
    assert sum(g.read() for g in gauges) == pytest.approx(400.0)


class Boards:
    """NVML with boards that use 300 W, on which so many processes compute."""

    class NVMLError(Exception):
        pass

    def __init__(self, *, counts=True, processes=1):
        self.counts, self.processes, self.now = counts, processes, 0.0

    def nvmlDeviceGetTotalEnergyConsumption(self, handle):
        if not self.counts:
            raise self.NVMLError("Not Supported")
        return 1e9 + 300e3 * self.now  # mJ since the driver was loaded

    def nvmlDeviceGetPowerUsage(self, handle):
        return 300_000  # mW

    def nvmlDeviceGetComputeRunningProcesses(self, handle):
        return list(range(self.processes))


@pytest.mark.parametrize("counts", [True, False])
def test_boards_are_read_by_counter_or_power_and_divided_among_processes(counts):
    boards = Boards(counts=counts, processes=4)
    gauge = Nvml(boards, ["first", "second"], clock=lambda: boards.now)
    boards.now = 10.0
    assert gauge.read() == pytest.approx(2 * 300.0 * 10.0 / 4)
    assert gauge.read() == 0.0  # it was taken


def test_a_board_that_is_lost_makes_the_stretch_unknown_and_not_nothing():
    boards = Boards()
    meter = Meter(Nvml(boards, ["one"], clock=lambda: boards.now), every=60.0)
    boards.now, boards.counts = 5.0, False
    assert meter.take() is None
    boards.counts = True
    meter.take()
    boards.now = 6.0
    assert meter.take() == pytest.approx(300.0 * 1.0)
    meter.close()


def test_nothing_is_measured_where_nothing_reports(tmp_path):
    tree = server(tmp_path)
    for file in tree.glob("*/energy_uj"):  # what root alone may read fails in the same way
        file.unlink()
    assert open_meter(torch.device("cpu"), powercap=tree) is None
    assert open_meter(torch.device("cpu"), powercap=tmp_path / "none") is None
    assert not [t for t in threading.enumerate() if t.name == "scaling-energy"]


class Steady:
    """A gauge of 40 W by the clock."""

    source = "rapl"

    def __init__(self):
        self.last = time.perf_counter()

    def read(self):
        before, self.last = self.last, time.perf_counter()
        return 40.0 * (self.last - before)


@pytest.fixture
def metered(monkeypatch):
    monkeypatch.setattr(trainer, "open_meter", lambda device, devices: Meter(Steady()))


def test_a_run_records_its_energy_and_the_thread_ends(tmp_path, metered):
    record = train(small_plan(tmp_path, **{"cost.rate": 2.0, "cost.currency": "EUR"}))
    # meter and clock are read one after the other at each of some 30 laps, microseconds apart
    assert record.energy_joules == pytest.approx(40.0 * record.seconds, rel=0.05)
    assert record.energy_source == "rapl" and record.cost == {"rate": 2.0, "currency": "EUR"}
    assert record.device_seconds == record.seconds
    assert not [t for t in threading.enumerate() if t.name == "scaling-energy"]
    assert json.loads((small_plan(tmp_path).folder / "run.json").read_text())["energy_source"] == "rapl"  # fmt: skip


def test_runs_of_a_stack_share_energy_as_they_share_time(tmp_path, metered):
    changes = {"train.stack": 3, "cost.per_device": 2}
    plans = [small_plan(tmp_path, seed=seed, **changes) for seed in range(3)]
    records = train_together(plans)
    assert [r.stacked for r in records] == [3, 3, 3]
    for record in records:
        assert record.energy_joules == pytest.approx(40.0 * record.seconds, rel=0.05)
        assert record.device_seconds == record.seconds / 2


def test_energy_of_a_trunk_is_counted_once(tmp_path, metered):
    plans = [
        small_plan(tmp_path, **{"budget.tokens": steps * 256, "optim.horizon": 15_360, "optim.lr": 0.01})
        for steps in (60, 120)
    ]  # fmt: skip
    short, long = train_together(plans)
    assert short.parent == long.run_id and short.parent_joules == pytest.approx(40.0 * short.parent_seconds, rel=0.05)  # fmt: skip
    once = long.energy_joules + short.energy_joules - short.parent_joules
    assert once < long.energy_joules + short.energy_joules
    assert once == pytest.approx(40.0 * (long.seconds + short.seconds - short.parent_seconds), rel=0.05)  # fmt: skip


def test_a_run_that_went_on_without_a_meter_has_no_energy(tmp_path, monkeypatch):
    plan = small_plan(tmp_path, **{"train.checkpoint_seconds": 1e-6})
    rows = itertools.count()

    def stop(progress):
        if next(rows) == 8:
            raise KeyboardInterrupt

    monkeypatch.setattr(trainer, "open_meter", lambda device, devices: Meter(Steady()))
    with pytest.raises(KeyboardInterrupt):
        train(plan, on_progress=stop)
    assert read_record(plan.folder).energy_joules > 0
    monkeypatch.setattr(trainer, "open_meter", lambda device, devices: None)
    record = train(plan)
    assert record.resumes == 1 and record.status == "done"
    assert record.energy_joules is None and record.energy_source is None


def test_rates_leave_the_hash_of_a_run_alone(tmp_path):
    plain, priced = small_plan(tmp_path), small_plan(tmp_path, **{"cost.watts": 400, "cost.carbon": 0.4})  # fmt: skip
    assert plain.hash == priced.hash


def test_meter_reads_by_itself_before_a_counter_starts_again():
    gauge = SimpleNamespace(source="rapl", count=0)

    def read():
        gauge.count += 1
        return 1.0

    gauge.read = read
    meter = Meter(gauge, every=0.01)
    end = time.monotonic() + 5.0
    while gauge.count < 6 and time.monotonic() < end:
        time.sleep(0.01)
    meter.close()
    assert gauge.count >= 6

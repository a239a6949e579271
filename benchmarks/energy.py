"""What it takes to measure energy: CPU time of one reading, and the share of a core at its interval.

python -m benchmarks.energy

Four zones of a made-up powercap tree (two packages with memory), each two files in a temporary
folder. A real tree asks the processor, some microseconds more for each zone.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from scaling.study.table import Table
from scaling.training.energy import PROC_STAT, SAMPLE_SECONDS, Rapl

READINGS = 2000


def main() -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as folder:
        zones = [Path(folder) / f"zone{i}" for i in range(4)]
        for zone in zones:
            zone.mkdir()
            (zone / "energy_uj").write_text("1000000")
            (zone / "max_energy_range_uj").write_text("65536000000")
        rapl = Rapl(zones, stat=PROC_STAT)
        rapl.read()
        start = time.process_time()
        for _ in range(READINGS):
            rapl.read()
        each = (time.process_time() - start) / READINGS
    rows = [["rapl, 4 zones", f"{1e6 * each:.0f}", f"{SAMPLE_SECONDS:g}", f"{each / SAMPLE_SECONDS:.1e}"]]  # fmt: skip
    header = ["gauge", "CPU time of a reading [µs]", "interval [s]", "share of a core"]
    print(Table(header, rows, title="Cost of measuring energy").text())


if __name__ == "__main__":
    main()

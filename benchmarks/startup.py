"""How long the command takes to answer, and what it imports.

python -m benchmarks.startup
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

from scaling.study.table import Table

COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "import scaling": [sys.executable, "-c", "import scaling"],
    "scaling --help": [sys.executable, "-m", "scaling", "--help"],
    "scaling keys": [sys.executable, "-m", "scaling", "keys"],
    "scaling status quickstart": [sys.executable, "-m", "scaling", "status", "quickstart"],
    "scaling plan quickstart calibrate=false": [
        sys.executable,
        "-m",
        "scaling",
        "plan",
        "quickstart",
        "calibrate=false",
    ],
}
HEAVY = ("torch", "wandb", "matplotlib", "pandas", "scipy", "numpy", "hydra", "rich")


def main(repeats: int = 7) -> None:
    """Time each command and list the heavy packages it loaded."""
    rows = []
    for name, command in COMMANDS.items():
        times = [_time(command) for _ in range(repeats)]
        rows.append(
            [
                name,
                f"{statistics.median(times):.3f}",
                f"{min(times):.3f}",
                ", ".join(_loaded(command)) or "none",
            ]
        )
    print(
        Table(
            ("command", "median s", "best s", "heavy packages loaded"),
            rows,
            title=f"Start-up, {repeats} runs each",
        ).markdown()
    )


def _time(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - start


def _loaded(command: list[str]) -> list[str]:
    """Run the command with import times on; a package is loaded if its own line is there."""
    result = subprocess.run(
        [command[0], "-X", "importtime", *command[1:]], capture_output=True, text=True, check=True
    )
    names = {line.rsplit("|", 1)[-1].strip() for line in result.stderr.splitlines() if "|" in line}
    return [package for package in HEAVY if package in names]


if __name__ == "__main__":
    main()

"""Where runs can execute besides here: Slurm and Ray, asked with a time limit."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Mapping

from scaling.cli.finding import Finding
from scaling.cli.requirements import NAME, installed, unmet

SECONDS = 5.0  # a controller that answers does so within one


def check_slurm(lines: list[str]) -> Finding:
    """Say whether sweeps can be submitted to Slurm from here.

    Args:
        lines: what the extra asks for.
    """
    wrong, there = unmet(lines), shutil.which("sbatch") and shutil.which("srun")
    install = f"pip install '{NAME}[slurm]'"
    if not there:
        package = "" if wrong else f", submitit {installed('submitit')}"
        return Finding("Slurm", f"no sbatch on this machine{package}", "absent", "clusters: log in to one of its nodes (docs/cluster.md)", trains=False)  # fmt: skip
    trouble, partitions = ask_slurm()
    if wrong:
        return Finding(
            "Slurm", f"sbatch is here; {'; '.join(wrong)}", "warn", install, trains=False
        )
    if trouble:
        return Finding("Slurm", trouble, "warn", "on a login node of a cluster sinfo has to answer; elsewhere nothing is needed", trains=False)  # fmt: skip
    use = f"scaling train SWEEP hydra/launcher=slurm hydra.launcher.partition={partitions[0]}"
    return Finding("Slurm", f"partitions {', '.join(partitions)}; {use}", trains=False)


def ask_slurm() -> tuple[str, list[str]]:
    """Return what is wrong with Slurm's controller (empty: nothing) and its partitions."""
    try:
        done = subprocess.run(
            ["sinfo", "-h", "-o", "%R"], capture_output=True, text=True, errors="replace", timeout=SECONDS
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return f"its controller did not answer in {SECONDS:.0f} s", []
    except OSError as error:
        return f"sinfo: {error.strerror}", []
    names = list(dict.fromkeys(done.stdout.split()))
    said = (done.stderr.strip().splitlines() or ["it has no partitions"])[-1]
    return ("", names) if done.returncode == 0 and names else (said, [])


def check_ray(lines: list[str], environ: Mapping[str, str] = os.environ) -> Finding:
    """Say whether runs can be given to Ray, and whether the cluster that is named answers."""
    wrong, version = unmet(lines), installed("ray")
    if version is None:
        return Finding("Ray", "not installed", "absent", f"Ray clusters: pip install '{NAME}[ray]'", trains=False)  # fmt: skip
    if wrong:
        return Finding("Ray", "; ".join(wrong), "warn", f"pip install '{NAME}[ray]'", trains=False)
    address = environ.get("RAY_ADDRESS", "")
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdigit():
        try:
            socket.create_connection((host, int(port)), timeout=SECONDS).close()
        except OSError as error:
            return Finding("Ray", f"{version}; nobody answers at RAY_ADDRESS={address} ({error})", "warn", "unset RAY_ADDRESS, or start the cluster: ray start --head", trains=False)  # fmt: skip
        return Finding("Ray", f"{version}; the cluster at {address} answers", trains=False)
    return Finding("Ray", f"{version}; hydra/launcher=ray starts one here", trains=False)

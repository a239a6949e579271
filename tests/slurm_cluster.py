"""A private Slurm on this machine for tests: installed where it may be, started, and ended again."""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

PACKAGES = ("slurmctld", "slurmd", "slurm-client", "munge")
PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch", "squeue")
PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"
TEMPLATE = Path(__file__).parent / "slurm" / "slurm.conf.in"
NODES = ("n1", "n2")


def why_not() -> str:
    """Install Slurm if it is not here; return why that cannot be, or an empty string."""
    if _installed():
        return ""
    if os.geteuid() or shutil.which("apt-get") is None:
        return "Slurm is not installed, and only root with apt-get may install it here"
    for command in (["update", "-q"], ["install", "-qy", "--no-install-recommends", *PACKAGES]):
        try:
            done = subprocess.run(
                ["apt-get", *command], capture_output=True, text=True, timeout=300,
                stdin=subprocess.DEVNULL, env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return "Slurm could not be installed: apt-get did not end in 5 minutes"
        if done.returncode and command[0] == "install":
            return f"Slurm could not be installed: {done.stderr.strip()[-300:]}"
    return "" if _installed() else "Slurm's packages do not hold its programs here"


def _installed() -> bool:
    return all(shutil.which(name, path=PATH) for name in PROGRAMS)


class Cluster:
    """munged, slurmctld and two slurmd of one folder, at free ports."""

    def __init__(self, folder: Path, *, array: int) -> None:
        self.folder = folder
        self.conf = folder / "slurm.conf"
        self.env = {**os.environ, "PATH": PATH, "SLURM_CONF": str(self.conf)}
        text = TEMPLATE.read_text()
        values = {"HOST": socket.gethostname().split(".")[0], "USER": getpass.getuser(), "DIR": folder, "ARRAY": array}  # fmt: skip
        for name, value in {**values, **_free_ports(3)}.items():
            text = text.replace(f"@{name}@", str(value))
        self.conf.write_text(text)

    def start(self) -> None:
        """Start every daemon and wait until both nodes take jobs."""
        (self.folder / "state").mkdir(mode=0o700)
        for node in NODES:
            (self.folder / f"spool-{node}").mkdir(mode=0o755)
        key = self.folder / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(os.urandom(128))
        names = {"key-file": "key", "socket": "sock", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}  # fmt: skip
        options = [f"--{option}={self.folder}/munge.{end}" for option, end in names.items()]
        self.call("munged", "--force", "--num-threads=2", *options)
        self.call("slurmctld", "-i", "-c")
        for node in NODES:
            self.start_node(node)
        until(lambda: self.nodes() == dict.fromkeys(NODES, "idle"), 30, "nodes are idle")

    def start_node(self, node: str) -> None:
        """Start the daemon of a node."""
        self.call("slurmd", "-N", node)

    def stop(self) -> None:
        """Cancel all jobs and end every daemon that was started here."""
        with contextlib.suppress(subprocess.SubprocessError):
            self.call("scancel", "--user", getpass.getuser())
            until(lambda: not self.call("squeue", "-h"), 15, "the queue is empty")
        for name in (*(f"slurmd-{n}" for n in NODES), "slurmctld", "munge"):
            self.kill(name, signal.SIGTERM)

    def kill(self, name: str, number: int) -> None:
        """End a daemon by its pid file, and wait until it is gone."""
        path = self.folder / f"{name}.pid"
        with contextlib.suppress(FileNotFoundError, ValueError, ProcessLookupError):
            pid = int(path.read_text())
            os.kill(pid, number)
            until(lambda: not _runs(pid), 15, f"{name} has ended")
            path.unlink(missing_ok=True)

    def lose_node(self, node: str) -> None:
        """Let a node die at once: its daemon, and every process of its jobs."""
        self.kill(f"slurmd-{node}", signal.SIGKILL)
        tasks = _processes_of(self.folder, node)
        keepers = {_parent(pid) for pid in tasks} - set(tasks)  # slurmstepd, which would tell
        for pid in [*keepers, *tasks]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def call(self, *command: str) -> str:
        """Run a command of Slurm and return what it prints."""
        done = subprocess.run(command, env=self.env, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)  # fmt: skip
        if done.returncode:
            raise subprocess.SubprocessError(f"{' '.join(command)}: {done.stderr.strip()}")
        return done.stdout.strip()

    def nodes(self) -> dict[str, str]:
        """Return the state of each node."""
        return dict(line.split() for line in self.call("sinfo", "-h", "-N", "-p", "low", "-o", "%N %T").splitlines())  # fmt: skip

    def jobs(self, name: str) -> dict[str, str]:
        """Return the state of each job of a name that Slurm knows, ended ones too."""
        rows = self.call("squeue", "-h", "-r", "-t", "all", "-n", name, "-o", "%i %T").splitlines()
        return dict(row.split() for row in rows)

    def lives(self, job: str) -> int:
        """Return how often a job was put back into the queue."""
        text = self.call("scontrol", "show", "job", job)
        return int(text.split("Restarts=")[1].split()[0])


@contextlib.contextmanager
def cluster(*, array: int = 6) -> Iterator[Cluster]:
    """A running Slurm whose arrays have at most so many jobs.

    In a short folder of its own: the path of munge's socket must stay below 108 bytes.
    """
    with tempfile.TemporaryDirectory(prefix="slurm-", ignore_cleanup_errors=True) as folder:
        found = Cluster(Path(folder), array=array)
        try:
            found.start()
            yield found
        finally:
            found.stop()


def until(condition: Callable[[], object], seconds: float, what: str) -> None:
    """Wait until a condition holds.

    Raises:
        AssertionError: it does not in so many seconds.
    """
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not in {seconds} s: {what}"
        time.sleep(0.2)


def _free_ports(count: int) -> dict[str, int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return {f"PORT{i}": one.getsockname()[1] for i, one in enumerate(sockets)}


def _runs(pid: int) -> bool:
    """Whether a process is there and not just waiting to be buried."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def _parent(pid: int) -> int:
    with contextlib.suppress(FileNotFoundError):
        return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
    return pid


def _processes_of(folder: Path, node: str) -> list[int]:
    """Return the processes whose environment says that a Slurm of this folder started them on a node."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            values = path.read_bytes().split(b"\0")
            ours = f"SLURM_CONF={folder}/slurm.conf".encode() in values
            if ours and f"SLURMD_NODENAME={node}".encode() in values:
                found.append(int(path.parent.name))
    return found

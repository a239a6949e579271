"""`scaling doctor`: what is whole is said to be, what is broken is named with its cure."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from scaling.cli import engines
from scaling.cli.devices import Inquiry, check_gpus, check_memory, check_torch, driver
from scaling.cli.doctor import can_train, describe
from scaling.cli.engines import ask_slurm, check_ray, check_slurm
from scaling.cli.finding import VERDICTS, Finding
from scaling.cli.places import check_folder, file_system, nearest
from scaling.cli.requirements import check_extra, check_packages, check_wandb, find_packages, unmet
from scaling.training.probe import probe

DOCTOR = """
import sys
from scaling.cli import main
code = main(["doctor", "json=true"])
print([m for m in ("torch", "hydra", "pandas", "matplotlib", "wandb") if m in sys.modules], file=sys.stderr)
sys.exit(code)
"""


def doctor(cwd, **env):
    return subprocess.run(
        [sys.executable, "-c", DOCTOR], cwd=cwd, env={**os.environ, **env}, capture_output=True, text=True, timeout=120
    )  # fmt: skip


@pytest.mark.slow
def test_doctor_finds_this_machine_whole(tmp_path):
    done = doctor(tmp_path)
    found = json.loads(done.stdout)
    assert done.returncode == 0 and found["trains"], found
    assert done.stderr.strip() == "[]"  # the heavy packages are loaded by processes of their own
    by_name = {f["what"]: f for f in found["findings"]}
    assert {"Python", "packages", "PyTorch", "memory", "results", "Slurm", "Ray", "wandb"} <= set(
        by_name
    )
    assert all(f["verdict"] in VERDICTS for f in by_name.values())
    assert not any(tmp_path.iterdir())  # looking leaves nothing behind


def test_doctor_outlives_a_torch_that_crashes(tmp_path):
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "torch.py").write_text(
        "import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n"
    )
    path = os.pathsep.join(filter(None, [str(tmp_path / "broken"), os.environ.get("PYTHONPATH")]))
    done = doctor(tmp_path, PYTHONPATH=path)
    found = json.loads(done.stdout)
    assert done.returncode == 1 and not found["trains"]
    torch = next(f for f in found["findings"] if f["what"] == "PyTorch")
    assert (
        torch["verdict"] == "fail"
        and "SIGSEGV" in torch["found"]
        and "pytorch.org" in torch["cure"]
    )


def test_probe_tells_what_torch_computes_on():
    seen = json.loads(json.dumps(probe()))
    assert seen["trouble"] == "" and seen["threads"] >= 1 and seen["memory"] > 2**28


def test_question_that_is_not_answered_ends_in_time(monkeypatch):
    monkeypatch.setattr("scaling.cli.devices.SECONDS", 0.2)
    (finding,) = check_torch(Inquiry("-c", "import time; time.sleep(60)"))
    assert finding.verdict == "fail" and "no answer" in finding.found
    (finding,) = check_torch(Inquiry("-c", "import nothing_of_that_name"))
    assert "No module named" in finding.found


def test_missing_and_old_packages_are_named_with_the_command():
    lines = ["numpy>=99", "nothing-of-that-name>=1.2", "pyyaml>=5"]
    assert [w.partition(" (")[0] for w in unmet(lines)] == [
        "numpy>=99",
        "nothing-of-that-name>=1.2",
    ]
    finding = check_packages(lines)
    assert (
        finding.verdict == "fail"
        and "install 'numpy>=99' 'nothing-of-that-name>=1.2'" in finding.cure
    )
    assert check_extra("hf", ["nothing-of-that-name>=1.2"], "data").verdict == "absent"
    assert check_extra("hf", ["pyyaml>=5"], "data").verdict == "ok"
    found = {f.what: f.verdict for f in find_packages()}
    assert found["Python"] == found["packages"] == "ok" and "extra hf" in found


def test_wandb_key_is_found_and_never_shown(tmp_path):
    (tmp_path / ".netrc").write_text("machine api.wandb.ai\n  login user\n  password secret123\n")
    finding = check_wandb({"HOME": str(tmp_path)})
    assert "key in .netrc" in finding.found and "secret123" not in finding.found
    assert "wandb login" in check_wandb({"HOME": str(tmp_path / "none")}).cure
    assert "key in WANDB_API_KEY" in check_wandb({"HOME": "/", "WANDB_API_KEY": "secret123"}).found
    own = {"HOME": str(tmp_path), "WANDB_BASE_URL": "https://wandb.example.org"}
    assert "no key" in check_wandb(own).found  # the key is another server's


def test_folder_is_tried_where_it_would_be_made(tmp_path):
    finding = check_folder("results", tmp_path / "a" / "b", cure="another")
    assert finding.verdict in ("ok", "warn") and "free" in finding.found
    assert nearest(tmp_path / "a" / "b") == tmp_path and not any(tmp_path.iterdir())
    if Path("/proc/self").exists():  # not even root writes there
        finding = check_folder("results", Path("/proc/self/x"), cure="another")
        assert finding.verdict == "fail" and "another" in finding.cure


def test_file_system_is_that_of_the_innermost_mount(tmp_path):
    mounts = tmp_path / "mounts"
    mounts.write_text(
        "a / ext4 rw 0 0\nb /mnt/my\\040data nfs4 rw 0 0\nc /mnt/my\\040data/x lustre rw 0 0\n"
    )
    assert file_system(Path("/mnt/my data/y"), mounts) == "nfs4"
    assert file_system(Path("/mnt/my data/x/z"), mounts) == "lustre"
    assert file_system(Path("/mnt/my database"), mounts) == "ext4"
    assert file_system(Path("/"), tmp_path / "none") == ""


def _program(folder, name, lines):
    folder.mkdir(exist_ok=True)
    (folder / name).write_text("#!/bin/sh\n" + lines)
    (folder / name).chmod(0o755)


def test_slurm_is_asked_with_a_time_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(engines, "SECONDS", 0.5)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    for name in ("sbatch", "srun"):
        _program(tmp_path / "bin", name, "")
    _program(tmp_path / "bin", "sinfo", "echo gpu; echo long; echo gpu\n")
    assert ask_slurm() == ("", ["gpu", "long"])
    assert "hydra.launcher.partition=gpu" in check_slurm([]).found
    assert check_slurm(["nothing-of-that-name>=1"]).verdict == "warn"
    _program(tmp_path / "bin", "sinfo", "exec sleep 30\n")
    assert "did not answer" in check_slurm([]).found
    _program(
        tmp_path / "bin", "sinfo", "echo slurm_load_partitions: Unable to contact >&2; exit 1\n"
    )
    assert "Unable to contact" in check_slurm([]).found
    _program(tmp_path / "bin", "sinfo", "printf '\\377\\376 no text\\n' >&2; exit 1\n")
    assert "no text" in check_slurm([]).found
    monkeypatch.setenv("PATH", str(tmp_path))
    assert check_slurm([]).verdict == "absent"


def test_ray_cluster_that_nobody_answers_for_is_said():
    pytest.importorskip("ray")
    with socket.socket() as taken:  # bound and not listening: refused at once
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        assert check_ray([], {"RAY_ADDRESS": address}).verdict == "warn"
        taken.listen()
        assert "answers" in check_ray([], {"RAY_ADDRESS": address}).found


def test_gpus_are_named_with_what_hinders_them(tmp_path):
    free = {"name": "NVIDIA H100", "free": 70e9, "total": 80e9, "bfloat16": True, "trouble": ""}
    seen = {
        "gpus": [free, free | {"free": 1e9}, free | {"trouble": "no kernel image"}],
        "cuda": "12.8",
    }
    found = list(check_gpus(seen))
    assert [f.verdict for f in found] == ["ok", "warn", "fail"]
    assert "CUDA_VISIBLE_DEVICES" in found[1].cure and "no kernel image" in found[2].found
    (tmp_path / "version").write_text(
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.183.01  Sun\n"
    )
    assert driver(tmp_path / "version") == "driver 535.183.01"
    assert check_memory(5e8).verdict == "warn" and "SCALING_JOBS=1" in check_memory(5e8).cure


def test_table_puts_the_worst_cure_first():
    findings = [
        Finding("a", "1", "warn", "do x"),
        Finding("b", "2", "fail", "do y"),
        Finding("c", "3"),
    ]
    text = describe(findings)
    assert text.index("do y") < text.index("do x") and "cannot train yet: b" in text
    assert can_train([Finding("d", "", "fail", trains=False)])

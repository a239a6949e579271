"""What is installed beside what the package asks for, by the metadata of packages; nothing is imported."""

from __future__ import annotations

import netrc
import os
import platform
import sys
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from urllib.parse import urlsplit

from scaling.cli.finding import Finding
from scaling.study.errors import ConfigError

NAME = "scaling-lab"
# extras that a user may want, and for what; the others are for those who work on the package
EXTRAS = {
    "hf": "Hugging Face data sets, tokenizers and export",
    "measures": "BLEU and ROUGE",
    "tune": "fine-tuning with LoRA",
}


def find_packages() -> Iterator[Finding]:
    """Yield Python, the packages that everything needs, and those of the extras."""
    yield check_python()
    by_extra = read_requirements()
    yield check_packages(by_extra.get("", []))
    for extra, use in EXTRAS.items():
        if extra in by_extra:
            yield check_extra(extra, by_extra[extra], use)


def read_requirements() -> dict[str, list[str]]:
    """Return the package's requirements by extra; those of every installation under an empty name.

    Raises:
        ConfigError: the package has no metadata, or there is nothing to read them with.
    """
    try:
        from packaging.requirements import Requirement

        lines = metadata.requires(NAME) or []
    except (ImportError, metadata.PackageNotFoundError) as error:
        raise ConfigError(
            f"{NAME}: its requirements cannot be read ({error}). Install it: pip install . in its folder"
        ) from None
    found: dict[str, list[str]] = {}
    for line in lines:
        wanted = Requirement(line)
        for extra in ("", *EXTRAS, "slurm", "ray"):
            ours = wanted.marker is None or wanted.marker.evaluate({"extra": extra})
            if ours and (extra == "" or line not in found.get("", [])):
                found.setdefault(extra, []).append(line)
    return found


def installed(name: str) -> str | None:
    """Return the version of a package; null if it is not installed."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def unmet(lines: list[str]) -> list[str]:
    """Return what is missing or of another version, as `torch>=2.6 (2.1 is here)`."""
    from packaging.requirements import Requirement

    wrong = []
    for line in lines:
        wanted = Requirement(line)
        version = installed(wanted.name)
        text = f"{wanted.name}{wanted.specifier}"
        if version is None:
            wrong.append(f"{text} (not installed)")
        elif not wanted.specifier.contains(version, prereleases=True):
            wrong.append(f"{text} ({version} is here)")
    return wrong


def check_python() -> Finding:
    """Hold the interpreter against what the package asks for."""
    version = platform.python_version()
    found = f"{version}, {sys.executable}"
    try:
        from packaging.specifiers import SpecifierSet

        asked = metadata.metadata(NAME)["Requires-Python"] or ""
        if not SpecifierSet(asked).contains(version, prereleases=True):
            return Finding(
                "Python", found, "fail", f"Python {asked} is needed: python3.12 -m venv .venv"
            )
    except (ImportError, metadata.PackageNotFoundError):
        pass  # said of the packages
    return Finding("Python", found)


def check_packages(lines: list[str]) -> Finding:
    """Hold the packages that everything needs against their versions."""
    wrong = unmet(lines)
    if wrong:
        names = " ".join(f"'{w.partition(' (')[0]}'" for w in wrong)
        return Finding("packages", "; ".join(wrong), "fail", f"{_pip()} install {names}")
    return Finding("packages", f"all {len(lines)} as asked for; {NAME} {installed(NAME)}")


def check_extra(extra: str, lines: list[str], use: str) -> Finding:
    """Say whether an extra is installed, and what it is for."""
    wrong = unmet(lines)
    cure = f"{use}: {_pip()} install '{NAME}[{extra}]'"
    if not wrong:
        return Finding(f"extra {extra}", f"installed ({use})", trains=False)
    none = all("not installed" in w for w in wrong)
    return Finding(f"extra {extra}", "not installed" if none else "; ".join(wrong), "absent" if none else "warn", cure, trains=False)  # fmt: skip


def _pip() -> str:
    return (
        "pip"
        if sys.prefix != sys.base_prefix and os.environ.get("VIRTUAL_ENV")
        else f"{sys.executable} -m pip"
    )


def check_wandb(environ: Mapping[str, str] = os.environ) -> Finding:
    """Say whether runs can be mirrored to wandb, and whether it has a key; nothing is sent."""
    version = installed("wandb")
    if version is None:
        return Finding("wandb", "not installed", "absent", f"mirroring runs: {_pip()} install wandb", trains=False)  # fmt: skip
    if environ.get("WANDB_MODE") in ("disabled", "offline"):
        return Finding("wandb", f"{version}, WANDB_MODE={environ['WANDB_MODE']}", trains=False)
    if where := find_key(environ):
        return Finding("wandb", f"{version}, key in {where}; tracker=wandb tracker.mode=online sends", trains=False)  # fmt: skip
    return Finding(
        "wandb", f"{version}, no key: tracker=wandb writes offline", "ok",
        "to send runs as they train: wandb login; later: wandb sync results/SWEEP/RUN/wandb/offline-run-*", trains=False,
    )  # fmt: skip


def find_key(environ: Mapping[str, str]) -> str | None:
    """Return where wandb's key is: its variable or the netrc file; the key itself is not looked at."""
    if environ.get("WANDB_API_KEY"):
        return "WANDB_API_KEY"
    host = urlsplit(environ.get("WANDB_BASE_URL") or "https://api.wandb.ai").hostname or ""
    home = Path(environ.get("HOME") or Path.home())
    for path in (
        [Path(environ["NETRC"])] if environ.get("NETRC") else [home / ".netrc", home / "_netrc"]
    ):
        try:
            if netrc.netrc(str(path)).authenticators(host):
                return path.name
        except (OSError, netrc.NetrcParseError):
            continue
    return None

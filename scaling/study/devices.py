"""Accelerators by name, with the arithmetic peak that their makers publish."""

from __future__ import annotations

from scaling.study.errors import ConfigError, did_you_mean

# Dense bfloat16 peak in FLOPs/s with float32 accumulation, no sparsity. Source: NVIDIA data sheets
# (V100: float16; consumer cards: the Ada and Ampere architecture white papers), AMD's data sheet.
PEAK_FLOPS = {
    "B200": 2250e12, "H200": 989e12, "H100 PCIe": 756e12, "H100 NVL": 835e12, "H100": 989e12,
    "A100": 312e12, "L40S": 362e12, "L40": 181e12, "L4": 121e12, "A10G": 70e12, "A10": 125e12,
    "V100": 125e12, "T4": 65e12, "RTX 4090": 165e12, "RTX 3090": 71e12, "MI300X": 1307e12,
}  # fmt: skip


def find_peak(name: str) -> float | None:
    """Return the peak [FLOPs/s] of a device by the name it gives itself, e.g. `NVIDIA A100-SXM4-80GB`."""
    return next((peak for known, peak in PEAK_FLOPS.items() if known in name), None)


def read_device(text: str) -> str:
    """Return a known device's name however it is written: `h100`, `H100-PCIe`.

    Raises:
        ConfigError: no such device; lists those there are.
    """
    plain = {_plain(name): name for name in PEAK_FLOPS}
    if _plain(text) in plain:
        return plain[_plain(text)]
    raise ConfigError(
        f"price.device: there is no peak for {text!r}.{did_you_mean(text.upper(), PEAK_FLOPS)} "
        f"There are {', '.join(PEAK_FLOPS)}; of another say price.peak=4e14, its bfloat16 FLOPs per second."
    )


def _plain(text: str) -> str:
    return "".join(c for c in text.lower() if c.isalnum())

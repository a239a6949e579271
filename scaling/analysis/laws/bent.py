"""Laws in one variable that bend: breaks in the slope, and levels at both ends."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy.special import expit

from scaling.analysis.law import Array, Law, Param, Published
from scaling.analysis.laws.examples import Example, grid
from scaling.analysis.laws.needs import spread, values
from scaling.analysis.laws.parts import FLOOR, coefficient, exponent
from scaling.study.errors import FitError


def broken_power_law(x: str = "C", *, breaks: int = 1) -> Law:
    """Return a power law whose slope changes smoothly at some points.

    On log-log axes the term falls with slope c0, past d1 with c0 + c1, past d2 with c0 + c1 + c2;
    a small f makes a sharp corner. The data must reach into the last break: one that lies beyond
    them leaves almost no trace.

    Args:
        x: the input, e.g. N, D, C or a column.
        breaks: how many; each adds c, d and f, so three parameters.

    Raises:
        FitError: fewer than one break.

    Source: Caballero et al. 2022, arXiv:2210.14891.
    """
    if breaks < 1:
        raise FitError(f"breaks: must be 1 or more; got {breaks}. Use power_law for none.")
    numbers = range(1, breaks + 1)

    def pieces(x_: Array, p: dict[str, Array]) -> tuple[Array, Iterator[tuple[Array, Array]]]:
        z = [np.log(x_ / p[f"d{i}"]) / p[f"f{i}"] for i in numbers]
        bends = [np.logaddexp(0.0, zi) for zi in z]  # ln(1 + (x/d)^(1/f)) without overflow
        log_term = -p["c0"] * np.log(x_)
        for i, bend in zip(numbers, bends, strict=True):
            log_term = log_term - p[f"c{i}"] * p[f"f{i}"] * bend
        return np.exp(log_term), zip(z, bends, strict=True)

    def loss(**p: Array) -> Array:
        return p["E"] + p["A"] * pieces(p[x], p)[0]

    def gradient(**p: Array) -> dict[str, Array]:
        shape, bent = pieces(p[x], p)
        term = p["A"] * shape
        slopes = {"E": np.ones_like(term), "A": shape, "c0": -term * np.log(p[x])}
        for i, (z, bend) in zip(numbers, bent, strict=True):
            c, d, f, past = p[f"c{i}"], p[f"d{i}"], p[f"f{i}"], expit(z)
            slopes |= {
                f"c{i}": -term * f * bend, f"d{i}": term * c * past / d, f"f{i}": -term * c * (bend - z * past),
            }  # fmt: skip
        return slopes

    edges = np.geomspace(0.05, 50.0, breaks + 1)  # around the centre of x; one range for each break
    params = [FLOOR, coefficient("A", x, "c0"), Param("c0", f"slope in {x} before the first break", low=-4.0, high=4.0, start=(0.02, 1.2))]  # fmt: skip
    for i in numbers:
        params += [
            Param(f"c{i}", f"change of slope at break {i}", low=-30.0, high=30.0, start=(0.1, 8.0)),
            Param(f"d{i}", f"{x} of break {i}", log=True, low=1e-9, high=1e9, unit_of={x: 1.0}, start=(float(edges[i - 1]), float(edges[i]))),
            Param(f"f{i}", f"width of break {i} in ln {x}", log=True, low=1e-3, high=10.0, start=(0.03, 1.0)),
        ]  # fmt: skip
    return Law(
        name=f"broken_{x}" + (f"_{breaks}" if breaks > 1 else ""),
        formula=f"L = E + A {x}^-c0" + "".join(f" (1 + ({x}/d{i})^(1/f{i}))^(-c{i} f{i})" for i in numbers),
        params=tuple(params), loss=loss, gradient=gradient, inputs=(x,), family="single",
        nested={f"power_{x}_floor": {f"c{i}": 0.0 for i in numbers} | {"alpha": "c0"}} if x in ("N", "D", "C") else {},
        needs=(spread(x, 10.0), values(x, 4 + 3 * breaks)),
        published=(_ADDITION,) if (x, breaks) == ("D", 1) else (),
        source="Caballero et al. 2022, arXiv:2210.14891",
    )  # fmt: skip


_ADDITION = Published(
    "addition", {"E": 0.41388, "A": 2.27727, "c0": 0.05508, "c1": 5.66290, "d1": 612.58, "f1": 0.05919},
    "four-digit addition; D in training examples, loss of the sum's digits", "Caballero et al. 2022, code of arXiv:2210.14891",
)  # fmt: skip


def saturating_law(x: str = "C") -> Law:
    """Return a power law between two levels: E0 at scale zero (chance), E with unlimited scale.

    (L - E) / (E0 - L)^kappa = A / x^alpha; kappa = 0 is the power law with a floor. Hold E0 where
    chance is known, e.g. fixed={"E0": log(vocabulary)}.

    Source: Alabdulmohsin et al. 2022, arXiv:2209.06640, their M4.
    """

    def solve(p: dict[str, Array]) -> tuple[Array, Array]:
        """Return E0 - E and u, where L = E + (E0 - E) / (1 + exp(-u))."""
        width = np.maximum(p["E0"] - p["E"], 1e-12)
        kappa = p["kappa"]
        target = np.log(p["A"]) - p["alpha"] * np.log(p[x]) - (1 - kappa) * np.log(width)
        # ln s(u) - kappa ln s(-u) = target bends one way only, and from its asymptote Newton's
        # method walks to the root without ever passing it.
        u = np.where(target < 0, target, target / np.maximum(kappa, 1e-9))
        for _ in range(40):
            gap = -np.logaddexp(0, -u) + kappa * np.logaddexp(0, u) - target
            step = gap / (expit(-u) + kappa * expit(u) + 1e-300)
            u = u - step
            if np.all(np.abs(step) <= 1e-13 * (1 + np.abs(u))):
                break
        return width, u

    def loss(**p: Array) -> Array:
        width, u = solve(p)
        return p["E"] + width * expit(u)

    def gradient(**p: Array) -> dict[str, Array]:
        width, u = solve(p)
        up, down, kappa = expit(u), expit(-u), p["kappa"]
        total = down + kappa * up + 1e-300  # implicit differentiation of the defining equation
        slope = width * up * down / total
        return {
            "E": down / total, "E0": kappa * up / total, "A": slope / p["A"],
            "alpha": -slope * np.log(p[x]), "kappa": slope * (np.log(width) - np.logaddexp(0, u)),
        }  # fmt: skip

    return Law(
        name=f"saturating_{x}",
        formula=f"(L - E) / (E0 - L)^kappa = A / {x}^alpha",
        params=(
            Param("E", f"level at unlimited {x}", start=(0.05, 3.0), floor=True),
            Param("E0", f"level at {x} = 0, e.g. chance", log=True, low=1e-6, high=1e6, start=(0.5, 15.0)),
            coefficient("A", x, "alpha", linear=False, low=1e-12, high=1e12), exponent("alpha", x),
            Param("kappa", "how the upper level is left; 0 is a plain power law", low=1e-3, high=20.0, start=(0.1, 3.0)),
        ),
        loss=loss, gradient=gradient, inputs=(x,), family="single", needs=(spread(x, 100.0), values(x, 7)),
        nested={f"power_{x}_floor": {"kappa": 0.0}} if x in ("N", "D", "C") else {},
        source="Alabdulmohsin et al. 2022, arXiv:2209.06640, M4",
    )  # fmt: skip


def sigmoid_law(x: str = "C") -> Law:
    """Return a score that rises from `bottom` (chance) to `top`, half-way at x = mid.

    y = bottom + (top - bottom) / (1 + (mid / x)^slope). Hold the bottom at chance where it is known.

    Source: Khatri et al. 2025, arXiv:2510.13786, for reward against compute.
    """

    def loss(*, bottom: Array, top: Array, mid: Array, slope: Array, **inputs: Array) -> Array:
        return bottom + (top - bottom) * expit(slope * np.log(inputs[x] / mid))

    def gradient(
        *, bottom: Array, top: Array, mid: Array, slope: Array, **inputs: Array
    ) -> dict[str, Array]:
        log = np.log(inputs[x] / mid)
        up, down = expit(slope * log), expit(-slope * log)
        steep = (top - bottom) * up * down
        return {"bottom": down, "top": up, "mid": -steep * slope / mid, "slope": steep * log}

    return Law(
        name=f"sigmoid_{x}",
        formula=f"y = bottom + (top - bottom) / (1 + (mid / {x})^slope)",
        params=(
            Param("bottom", "score at chance", linear=True, floor=True),
            Param("top", f"score at unlimited {x}", linear=True),
            Param("mid", f"{x} half-way between", log=True, low=1e-9, high=1e9, unit_of={x: 1.0}, start=(0.02, 50.0)),
            Param("slope", f"steepness in ln {x}", low=1e-3, high=20.0, start=(0.1, 3.0)),
        ),
        loss=loss, gradient=gradient, inputs=(x,), family="single", needs=(spread(x, 30.0), values(x, 6)),
        output="accuracy", unit="share correct", objective="mse",
        source="Khatri et al. 2025, arXiv:2510.13786; the Hill function",
    )  # fmt: skip


def onset_law() -> Law:
    """Return a score that rises from `bottom` to `top` at a number of tokens that falls with size.

    y = bottom + (top - bottom) / (1 + (mid / D)^slope) with mid = A / N^beta: the sigmoid in D, whose
    half-way point a larger model reaches from fewer tokens. Neither a rise that no run has reached nor
    one that all have passed says where the onset lies.

    Source: the Hill function of `sigmoid_law`; that its half-way point is a power of N is an assumption here.
    """

    def place(p: dict[str, Array]) -> tuple[Array, Array]:
        """Return how far in ln D a run is past the onset, and the share of the rise that is done."""
        past = np.log(p["D"]) - np.log(p["A"]) + p["beta"] * np.log(p["N"])
        return past, expit(p["slope"] * past)

    def loss(**p: Array) -> Array:
        return p["bottom"] + (p["top"] - p["bottom"]) * place(p)[1]

    def gradient(**p: Array) -> dict[str, Array]:
        past, up = place(p)
        steep = (p["top"] - p["bottom"]) * up * (1 - up)
        return {
            "bottom": 1 - up, "top": up, "slope": steep * past,
            "A": -steep * p["slope"] / p["A"], "beta": steep * p["slope"] * np.log(p["N"]),
        }  # fmt: skip

    return Law(
        name="onset",
        formula="y = bottom + (top - bottom) / (1 + (A / (N^beta D))^slope)",
        params=(
            Param("bottom", "score before the onset", linear=True),
            Param("top", "score after it", linear=True),
            Param("A", "D half-way at N = 1", log=True, low=1e-9, high=1e9, unit_of={"D": 1.0, "N": "beta"}, start=(0.1, 10.0)),
            Param("beta", "how fast the onset falls with N", low=-4.0, high=4.0, start=(0.05, 1.5)),
            Param("slope", "steepness in ln D", low=1e-3, high=50.0, start=(1.0, 15.0)),
        ),
        loss=loss, gradient=gradient, inputs=("N", "D"), family="single",
        needs=(spread("N", 4.0), spread("D", 8.0), values("N", 3), values("D", 6)),
        output="accuracy", unit="share", objective="mse",
        source="Hill function with its half-way point a power of N; for heads that are learnt late see Olsson et al. 2022, arXiv:2209.11895",
    )  # fmt: skip


LAWS = (
    onset_law(),
    *(make(x) for x in ("N", "D", "C") for make in (broken_power_law, sigmoid_law)),
    *(saturating_law(x) for x in ("D", "C")),
)

_TRUE = {
    "broken": {"E": 0.4, "A": 60.0, "c0": 0.2, "c1": 0.5, "d1": 1e9, "f1": 0.4},
    "saturating": {"E": 1.5, "E0": 6.0, "A": 1e3, "alpha": 0.4, "kappa": 1.3},
    "sigmoid": {"bottom": 0.25, "top": 0.85, "mid": 1e9, "slope": 0.6},
}
EXAMPLES = {
    law.name: Example(_TRUE[law.name.split("_")[0]], grid(**{law.inputs[0]: (1e6, 1e12, 25)}))
    for law in LAWS
    if len(law.inputs) == 1
} | {
    "onset": Example(
        {"bottom": 0.05, "top": 0.55, "A": 1e8, "beta": 0.45, "slope": 4.0},
        grid(N=(1e4, 1e6, 6), D=(5e4, 2e7, 16)),
    )
}

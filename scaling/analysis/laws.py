"""Scaling laws as small declarative objects, and their registry.

A law is a loss function with named inputs and parameters; the fitter needs nothing else. What more
a law declares (gradient, units of its coefficients, closed-form optimum) makes the fit faster and
its results richer. A user's own law is the same object: `register(Law(...))`.

Inside formulas: N parameters, D tokens, C FLOPs, L nats/token.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from scaling.analysis.law import SIX_ND, Array, Cost, Derived, Law, Param, Published
from scaling.study.errors import FitError, did_you_mean

__all__ = ["Cost", "Law", "Param", "Published", "get", "names", "power_law", "register"]


# --- shared parts -----------------------------------------------------------------------------


def _coefficient(
    name: str, x: str, exponent: str, *, linear: bool = True, low: float = 1e-9, high: float = 1e9
) -> Param:
    return Param(name, f"size of the {x} term at {x} = 1", log=True, linear=linear,
                 low=low, high=high, unit_of={x: exponent}, start=(0.05, 5.0))  # fmt: skip


def _exponent(name: str, x: str, *, high: float = 4.0) -> Param:
    # Every published language-model exponent lies in 0.03 to 1.2; a bound reached is reported.
    return Param(name, f"how fast the {x} term falls", low=1e-3, high=high, start=(0.05, 1.2))


_FLOOR = Param("E", "loss that no N and D removes [nats/token]", linear=True)


# --- one variable -----------------------------------------------------------------------------


def power_law(x: str = "C", *, floor: bool = True) -> Law:
    """Return L = E + A x^-alpha (or without E) in one input x, one of N, D, C."""

    def loss(*, A: Array, alpha: Array, E: Array = 0.0, **inputs: Array) -> Array:
        return E + A * inputs[x] ** -alpha

    def gradient(*, A: Array, alpha: Array, E: Array = 0.0, **inputs: Array) -> dict[str, Array]:
        term = inputs[x] ** -alpha
        return {"E": np.ones_like(A * term), "A": term, "alpha": -A * term * np.log(inputs[x])}

    params = (_coefficient("A", x, "alpha"), _exponent("alpha", x))
    return Law(
        name=f"power_{x}" + ("_floor" if floor else ""),
        formula=f"L = {'E + ' if floor else ''}A / {x}^alpha",
        params=(_FLOOR, *params) if floor else params,
        loss=loss, gradient=gradient, inputs=(x,),
        source="Hestness et al. 2017, arXiv:1712.00409" if floor else "Kaplan et al. 2020, arXiv:2001.08361",
    )  # fmt: skip


# --- L(N, D) ----------------------------------------------------------------------------------


def _chinchilla(
    *, N: Array, D: Array, E: Array, A: Array, B: Array, alpha: Array, beta: Array
) -> Array:
    return E + A * N**-alpha + B * D**-beta


def _chinchilla_gradient(
    *, N: Array, D: Array, E: Array, A: Array, B: Array, alpha: Array, beta: Array
) -> dict[str, Array]:
    n, d = N**-alpha, D**-beta
    return {
        "E": np.ones_like(A * n + d),
        "A": n,
        "B": d,
        "alpha": -A * n * np.log(N),
        "beta": -B * d * np.log(D),
    }


def _allocate(p: Mapping[str, Array], C: Array, cost: Cost) -> tuple[Array, Array]:
    """Minimise A N^-alpha + B D^-beta at C = f N^e D.

    Setting the derivative along the budget to zero gives the marginal balance
    alpha A N^-alpha = e beta B D^-beta; with D = C / (f N^e) this is a power law in C:
    N^(alpha + e beta) = alpha A / (e beta B) * (C/f)^beta. At 6ND: Hoffmann et al. 2022, eq. 4.
    """
    alpha, beta = p["alpha"], p.get("beta", p["alpha"])
    ratio = alpha * p["A"] / (cost.power * beta * p["B"])
    N = (ratio * (C / cost.factor) ** beta) ** (1.0 / (alpha + cost.power * beta))
    return N, cost.tokens(C, N)


def _grow(p: Mapping[str, Array], cost: Cost = SIX_ND) -> Array:
    """Exponent a of N* ~ C^a: beta / (alpha + e beta) at C = f N^e D, see `_allocate`."""
    beta = p.get("beta", p["alpha"])
    return beta / (p["alpha"] + cost.power * beta)


_DERIVED: dict[str, Derived] = {
    "a": _grow,
    "b": lambda p, cost=SIX_ND: 1.0 - cost.power * _grow(p, cost),  # D* = C / (f N*^e)
    "G": lambda p, cost=SIX_ND: _allocate(p, cost.factor, cost)[0],  # N* = G (C/f)^a
    "gamma": lambda p, cost=SIX_ND: p.get("k", 1.0) * p["alpha"] * _grow(p, cost),
}

_HOFFMANN = "MassiveText; N total with embeddings, C = 6ND, nats/token"
CHINCHILLA = Law(
    name="chinchilla",
    formula="L = E + A / N^alpha + B / D^beta",
    params=(_FLOOR, _coefficient("A", "N", "alpha"), _coefficient("B", "D", "beta"), _exponent("alpha", "N"), _exponent("beta", "D")),
    loss=_chinchilla,
    gradient=_chinchilla_gradient,
    optimum=_allocate,
    derived=_DERIVED,
    published=(
        Published("hoffmann", {"E": float(np.exp(0.5267228)), "A": float(np.exp(6.0073404)), "B": float(np.exp(6.0179186)), "alpha": 0.33917084, "beta": 0.2849083}, _HOFFMANN, "Hoffmann et al. 2022, unrounded, as in Besiroglu et al. 2024"),
        Published("hoffmann_printed", {"E": 1.69, "A": 406.4, "B": 410.7, "alpha": 0.34, "beta": 0.28}, _HOFFMANN + "; rounding moves the optimum by 20 %", "Hoffmann et al. 2022, arXiv:2203.15556, eq. 10"),
        Published("epoch", {"E": 1.8172, "A": 482.01, "B": 2085.43, "alpha": 0.3478, "beta": 0.3658}, _HOFFMANN + "; in effect a least-absolute-deviation fit", "Besiroglu et al. 2024, arXiv:2404.10102"),
    ),
    source="Hoffmann et al. 2022, arXiv:2203.15556, section 3.3",
)  # fmt: skip


def _tied(*, N: Array, D: Array, E: Array, A: Array, B: Array, alpha: Array) -> Array:
    return E + A * N**-alpha + B * D**-alpha


def _tied_gradient(
    *, N: Array, D: Array, E: Array, A: Array, B: Array, alpha: Array
) -> dict[str, Array]:
    n, d = N**-alpha, D**-alpha
    return {
        "E": np.ones_like(A * n + d),
        "A": n,
        "B": d,
        "alpha": -A * n * np.log(N) - B * d * np.log(D),
    }


CHINCHILLA_TIED = Law(
    name="chinchilla_tied",
    formula="L = E + A / N^alpha + B / D^alpha",
    params=(_FLOOR, _coefficient("A", "N", "alpha"), _coefficient("B", "D", "alpha"), _exponent("alpha", "N and D")),
    loss=_tied,
    gradient=_tied_gradient,
    optimum=_allocate,
    derived={"a": _DERIVED["a"], "gamma": _DERIVED["gamma"]},
    published=(
        Published("muennighoff", {"E": float(np.exp(0.6254804)), "A": float(np.exp(6.255414)), "B": float(np.exp(7.3049974)), "alpha": 0.3526596}, "C4, GPT-2 tokenizer, unique tokens", "Muennighoff et al. 2023, arXiv:2305.16264"),
    ),
    source="Muennighoff et al. 2023, arXiv:2305.16264",
)  # fmt: skip


def _chinchilla_k(
    *, N: Array, D: Array, E: Array, A: Array, B: Array, alpha: Array, beta: Array, k: Array
) -> Array:
    return E + (A * N**-alpha + B * D**-beta) ** k


def _chinchilla_k_gradient(
    *, N: Array, D: Array, E: Array, A: Array, B: Array, alpha: Array, beta: Array, k: Array
) -> dict[str, Array]:
    n, d = N**-alpha, D**-beta
    inner = A * n + B * d
    outer = k * inner ** (k - 1.0)
    return {
        "E": np.ones_like(inner), "A": outer * n, "B": outer * d, "k": inner**k * np.log(inner),
        "alpha": -outer * A * n * np.log(N), "beta": -outer * B * d * np.log(D),
    }  # fmt: skip


def _lift_k(p: Mapping[str, Array], k: Array) -> dict[str, Array]:
    """(A N^-alpha)^k is one term of Chinchilla's sum: same floor and slopes, a sharper bend between."""
    return {
        "E": p["E"],
        "A": p["A"] ** (1 / k),
        "B": p["B"] ** (1 / k),
        "alpha": p["alpha"] / k,
        "beta": p["beta"] / k,
        "k": k,
    }


CHINCHILLA_K = Law(
    name="chinchilla_k",
    formula="L = E + (A / N^alpha + B / D^beta)^k",
    params=(
        _FLOOR,
        # Inner coefficients and exponents are those of the terms to the power 1/k, so may be extreme.
        _coefficient("A", "N", "alpha", linear=False, low=1e-40, high=1e40), _coefficient("B", "D", "beta", linear=False, low=1e-40, high=1e40),
        _exponent("alpha", "N", high=30.0), _exponent("beta", "D", high=30.0),
        # The prior covers what 8 public tables gave, k = 0.56 to 0.88, within about one SD.
        Param("k", "how sharply the larger term rules; 1 is Chinchilla, towards 0 a maximum",
              log=True, low=0.03, high=10.0, start=(0.12, 1.4), prior=(-0.5, 0.5)),
    ),
    loss=_chinchilla_k,
    gradient=_chinchilla_k_gradient,
    optimum=_allocate,  # a power of the sum has its minimum where the sum has it
    derived=_DERIVED,
    nested={"chinchilla": {"k": 1.0}},
    lift=("chinchilla", "k", _lift_k),
    source="Videau et al. 2026, arXiv:2608.07222; E = 0 and k = alpha_D is Kaplan et al. 2020, eq. 1.5",
)  # fmt: skip


def _kaplan(*, N: Array, D: Array, Nc: Array, Dc: Array, alpha_N: Array, alpha_D: Array) -> Array:
    return ((Nc / N) ** (alpha_N / alpha_D) + Dc / D) ** alpha_D


def _kaplan_gradient(
    *, N: Array, D: Array, Nc: Array, Dc: Array, alpha_N: Array, alpha_D: Array
) -> dict[str, Array]:
    power = alpha_N / alpha_D
    n, d, log_n = (Nc / N) ** power, Dc / D, np.log(Nc / N)
    loss, outer = (n + d) ** alpha_D, alpha_D * (n + d) ** (alpha_D - 1.0)
    return {
        "Nc": outer * power * n / Nc, "Dc": outer / D, "alpha_N": outer * n * log_n / alpha_D,
        "alpha_D": loss * np.log(n + d) - outer * n * log_n * power / alpha_D,
    }  # fmt: skip


def _allocate_kaplan(p: Mapping[str, Array], C: Array, cost: Cost) -> tuple[Array, Array]:
    """The inner sum is A N^-(alpha_N/alpha_D) + Dc D^-1: the same balance as Chinchilla's."""
    power = p["alpha_N"] / p["alpha_D"]
    return _allocate(
        {"A": p["Nc"] ** power, "B": p["Dc"], "alpha": power, "beta": 1.0 + 0.0 * power}, C, cost
    )


KAPLAN = Law(
    name="kaplan",
    formula="L = ((Nc / N)^(alpha_N / alpha_D) + Dc / D)^alpha_D",
    params=(
        Param("Nc", "size at which the N term is 1 nat [parameters]", log=True, low=1e-12, high=1e25, unit_of={"N": 1.0}, start=(1.0, 1e6)),
        Param("Dc", "data at which the D term is 1 nat [tokens]", log=True, low=1e-12, high=1e25, unit_of={"D": 1.0}, start=(1.0, 1e6)),
        Param("alpha_N", "slope in N", low=1e-3, high=4.0, start=(0.03, 0.4)),
        Param("alpha_D", "slope in D", low=1e-3, high=4.0, start=(0.03, 0.4)),
    ),
    loss=_kaplan,
    gradient=_kaplan_gradient,
    optimum=_allocate_kaplan,
    derived={"a": lambda p, cost=SIX_ND: 1.0 / (cost.power + p["alpha_N"] / p["alpha_D"])},
    published=(
        Published("kaplan", {"Nc": 6.4e13, "Dc": 1.8e13, "alpha_N": 0.076, "alpha_D": 0.103}, "WebText2, context 1024; N non-embedding, nats/token", "Kaplan et al. 2020, arXiv:2001.08361, table 2"),
    ),
    source="Kaplan et al. 2020, arXiv:2001.08361, eq. 1.5",
)  # fmt: skip


# --- registry ---------------------------------------------------------------------------------

_REGISTRY: dict[str, Law] = {}


def register(law: Law) -> Law:
    """Add a law under its name, so that `fit(law="name")` and saved fits find it."""
    unknown = [u for p in law.params for u in p.unit_of if u not in law.inputs]
    if unknown or len(set(law.names)) < len(law.names):
        raise FitError(
            f"law {law.name}: parameters {law.names} repeat a name, or unit_of names {unknown}, which is no input. Correct the law."
        )
    _REGISTRY[law.name] = law
    return law


def get(law: str | Law) -> Law:
    """Return a law by name; a law object is returned as it is.

    Raises:
        FitError: no law has that name.
    """
    if isinstance(law, Law):
        return law
    if law not in _REGISTRY:
        raise FitError(
            f"law: {law!r} is not known.{did_you_mean(law, _REGISTRY)} There are {', '.join(names())}."
        )
    return _REGISTRY[law]


def names() -> tuple[str, ...]:
    """Return the names of all registered laws."""
    return tuple(_REGISTRY)


for _law in (CHINCHILLA, CHINCHILLA_TIED, CHINCHILLA_K, KAPLAN):
    register(_law)
for _x in ("N", "D", "C"):
    register(power_law(_x))
    register(power_law(_x, floor=False))

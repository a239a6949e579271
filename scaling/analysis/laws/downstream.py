"""Laws of over-training and of metrics: from a loss to an error, an accuracy, a BLEU, another loss.

Links read a loss, `x`, from the column `proxy_loss`; each is made for another column by its function,
e.g. `error_law("val_loss")`, and fitted to a metric with `runs.using(loss="error")`. `through` puts
a link behind a surface, so that a metric is predicted from N and D.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from scipy.special import expit

from scaling.analysis.law import Array, Cost, Law, Param, Published
from scaling.analysis.laws.examples import Example, grid
from scaling.analysis.laws.needs import spread, values
from scaling.analysis.laws.parts import DERIVED, FLOOR, allocate, coefficient, exponent
from scaling.study.errors import FitError

PROXY = "proxy_loss"


# Over-training: D = M N with equal exponents, so that curves of equal M are parallel in C.


def _gadre(*, N: Array, M: Array, E: Array, A: Array, B: Array, alpha: Array) -> Array:
    return E + (A + B * M**-alpha) * N**-alpha


def _gadre_gradient(
    *, N: Array, M: Array, E: Array, A: Array, B: Array, alpha: Array
) -> dict[str, Array]:
    n, m = N**-alpha, M**-alpha
    return {
        "E": np.ones_like(A * n * m), "A": n, "B": n * m,
        "alpha": -n * ((A + B * m) * np.log(N) + B * m * np.log(M)),
    }  # fmt: skip


def _gadre_optimum(p: Mapping[str, Array], C: Array, cost: Cost) -> tuple[Array, Array]:
    return allocate({k: p[k] for k in ("A", "B", "alpha")}, C, cost)


def _published_gadre(name: str, a: float, b: float, h: float, E: float) -> Published:
    # Their code writes the second term as b 6^(h/2) (M N)^h with h = -alpha.
    return Published(
        name, {"E": E, "A": a, "B": b * 6 ** (h / 2), "alpha": -h},
        f"trained on {name}, C4 evaluation; N total, M = D/N; 5 runs (4 sizes at M = 20, the smallest at 320), least squares; nats/token",
        "Gadre et al. 2024, arXiv:2403.08540, fitted with their code",
    )  # fmt: skip


GADRE = Law(
    name="gadre",
    formula="L = E + (A + B / M^alpha) / N^alpha,  M = D / N",
    params=(
        FLOOR,
        coefficient("A", "N", "alpha"),
        replace(coefficient("B", "N", "alpha"), meaning="size of the term in D = M N at D = 1", unit_of={"N": "alpha", "M": "alpha"}),
        exponent("alpha", "N and M N"),
    ),
    loss=_gadre, gradient=_gadre_gradient, inputs=("N", "M"), family="downstream", objective="mse",
    optimum=_gadre_optimum,
    derived={
        "a": DERIVED["a"], "gamma": DERIVED["gamma"],
        "eta": lambda p, cost=None: 0.5 * p["alpha"],  # L - E falls as C^-eta at any fixed M
        "a_C": lambda p, cost=None: p["A"] * 6 ** (0.5 * p["alpha"]),  # (a_C M^eta + b_C M^-eta) C^-eta
        "b_C": lambda p, cost=None: p["B"] * 6 ** (0.5 * p["alpha"]),
    },
    needs=(spread("N", 10.0), values("N", 3), spread("M", 4.0), values("M", 2)),
    published=(
        _published_gadre("RedPajama", 166.211, 366.687, -0.272851, 1.83665),
        _published_gadre("C4", 113.693, 189.516, -0.242472, 1.50826),
    ),
    source="Gadre et al. 2024, arXiv:2403.08540",
)  # fmt: skip


def error_law(column: str = PROXY) -> Law:
    """Return err = eps - k exp(-gamma x), the mean error of tasks from a loss x.

    Only averages over many tasks are smooth enough for it; the error of one task may not move
    until the loss is low. Source: Gadre et al. 2024, arXiv:2403.08540, eq. 5.
    """

    def loss(*, x: Array, eps: Array, k: Array, gamma: Array) -> Array:
        return eps - k * np.exp(-gamma * x)

    def gradient(*, x: Array, eps: Array, k: Array, gamma: Array) -> dict[str, Array]:
        term = np.exp(-gamma * x)
        return {"eps": np.ones_like(k * term), "k": -term, "gamma": k * x * term}

    def published(name: str, k: float, gamma: float, eps: float) -> Published:
        return Published(
            name, {"eps": eps, "k": k, "gamma": gamma},
            "C4 loss [nats/token] to mean top-1 error; 6 runs, least squares", "Gadre et al. 2024, arXiv:2403.08540, fitted with their code",
        )  # fmt: skip

    return Law(
        name="error_from_loss",
        formula="error = eps - k exp(-gamma x)",
        params=(
            Param("eps", "error of a model that knows nothing", linear=True),
            Param("k", "errors that a loss of 0 would remove", log=True, linear=True, low=1e-9, high=1e9),
            Param("gamma", "how fast errors go as the loss falls [1/nat]", low=1e-3, high=30.0, start=(0.05, 4.0)),
        ),
        loss=loss, gradient=gradient, inputs=("x",), columns={"x": column}, family="downstream",
        output="error", unit="share wrong", objective="mse", needs=(spread("x", 1.2), values("x", 4)),
        published=(
            published("RedPajama_17_tasks", 2.2065, 0.71459, 0.85699), published("C4_17_tasks", 2.0789, 0.7561, 0.8497),
            published("RedPajama_46_tasks", 1.3229, 0.8907, 0.7608), published("C4_46_tasks", 1.2885, 0.9722, 0.7589),
        ),
        source="Gadre et al. 2024, arXiv:2403.08540, eq. 5",
    )  # fmt: skip


def accuracy_law(column: str = PROXY) -> Law:
    """Return accuracy = floor + span / (1 + exp(k (x - x0))), a task's accuracy from its loss x.

    The second step of a ladder: first the task's bits per byte from N and D, then this. Hold the
    floor at chance, and have runs on both sides of the knee x0, or the other parameters are guesses.
    Source: Bhagia et al. 2024, arXiv:2412.04403.
    """

    def loss(*, x: Array, floor: Array, span: Array, k: Array, x0: Array) -> Array:
        return floor + span * expit(-k * (x - x0))

    def gradient(*, x: Array, floor: Array, span: Array, k: Array, x0: Array) -> dict[str, Array]:
        up, down = expit(-k * (x - x0)), expit(k * (x - x0))
        steep = span * up * down
        return {"floor": np.ones_like(steep), "span": up, "k": -steep * (x - x0), "x0": steep * k}

    return Law(
        name="accuracy_from_loss",
        formula="accuracy = floor + span / (1 + exp(k (x - x0)))",
        params=(
            Param("floor", "accuracy at chance", linear=True, floor=True),
            Param("span", "from chance to the best", log=True, linear=True, low=1e-6, high=1e3),
            Param("k", "steepness [per unit of the loss]", low=1e-3, high=200.0, start=(0.5, 12.0)),
            Param("x0", "loss half-way [unit of x]", low=1e-6, high=50.0, start=(0.3, 6.0)),
        ),
        loss=loss, gradient=gradient, inputs=("x",), columns={"x": column}, family="downstream",
        output="accuracy", unit="share correct", objective="huber", needs=(spread("x", 1.3), values("x", 6)),
        source="Bhagia et al. 2024, arXiv:2412.04403, step two",
    )  # fmt: skip


def loss_to_loss_law(column: str = PROXY) -> Law:
    """Return y = E1 + K (x - E0)^kappa, one loss from another: other data, other set, other task.

    E0 and E1 trade against kappa where the losses stay far above them: hold both at the floors of
    their own fits. Source: Brandfonbrener et al. 2024, arXiv:2411.12925.
    """

    def loss(*, x: Array, E0: Array, E1: Array, K: Array, kappa: Array) -> Array:
        return E1 + K * np.maximum(x - E0, 1e-12) ** kappa

    def gradient(*, x: Array, E0: Array, E1: Array, K: Array, kappa: Array) -> dict[str, Array]:
        above = np.maximum(x - E0, 1e-12)
        term = above**kappa
        return {
            "E0": -K * kappa * term / above, "E1": np.ones_like(K * term), "K": term, "kappa": K * term * np.log(above),
        }  # fmt: skip

    return Law(
        name="loss_to_loss",
        formula="y = E1 + K (x - E0)^kappa",
        params=(
            Param("E0", "floor of the loss that is read", start=(0.05, 2.0)),
            Param("E1", "floor of the loss that is predicted", linear=True, floor=True),
            Param("K", "ratio of the reducible losses at 1", log=True, linear=True, low=1e-9, high=1e9),
            Param("kappa", "their exponent; 1 is a straight line", low=1e-2, high=10.0, start=(0.3, 2.0)),
        ),
        loss=loss, gradient=gradient, inputs=("x",), columns={"x": column}, family="downstream", needs=(spread("x", 1.5), values("x", 5)),
        source="Brandfonbrener et al. 2024, arXiv:2411.12925",
    )  # fmt: skip


def bleu_law(column: str = PROXY) -> Law:
    """Return BLEU = scale exp(-k x), translation quality from a cross-entropy x.

    An exponential has no ceiling: hold `scale` at what is reached at a loss of 0, 100 where the best
    answer is certain. Below a BLEU of 10 it falls faster than above, for lack of long matches: runs
    that reach only so far say a `scale` of 1,000.

    Source: Gordon et al. 2021, Data and parameter scaling laws for neural machine translation.
    """

    def loss(*, x: Array, scale: Array, k: Array) -> Array:
        return scale * np.exp(-k * x)

    def gradient(*, x: Array, scale: Array, k: Array) -> dict[str, Array]:
        term = np.exp(-k * x)
        return {"scale": term, "k": -scale * x * term}

    return Law(
        name="bleu_from_loss",
        formula="BLEU = scale exp(-k x)",
        params=(
            Param("scale", "BLEU at a loss of 0", log=True, linear=True, low=1e-9, high=1e12),
            Param("k", "how fast BLEU falls [1/nat]", low=1e-3, high=30.0, start=(0.05, 4.0)),
        ),
        loss=loss, gradient=gradient, inputs=("x",), columns={"x": column}, family="downstream",
        output="bleu", unit="BLEU",
        objective="mse",  # its error grows slowly: 0.4 at a BLEU of 3, 1.4 at 70 (512 texts), so points and not ratios
        needs=(spread("x", 1.2), values("x", 3)),
        source="Gordon et al. 2021, EMNLP, aclanthology.org/2021.emnlp-main.478",
    )  # fmt: skip


def _isik(*, D: Array, D0: Array, alpha: Array, beta: Array) -> Array:
    return np.maximum(alpha * np.log(D / D0), 1e-300) ** beta


def _isik_gradient(*, D: Array, D0: Array, alpha: Array, beta: Array) -> dict[str, Array]:
    log = np.maximum(alpha * np.log(D / D0), 1e-300)
    outer = beta * log ** (beta - 1.0)
    return {
        "D0": -outer * alpha / D0,
        "alpha": outer * np.log(D / D0),
        "beta": log**beta * np.log(log),
    }


ISIK_BLEU = Law(
    name="bleu_from_tokens",
    formula="BLEU = (alpha ln(D / D0))^beta, written (ln(A D^alpha))^beta in the paper",
    params=(
        Param("D0", "pre-training tokens at which BLEU is 0", log=True, low=1e-30, high=1.0, unit_of={"D": 1.0}, start=(1e-6, 0.05)),
        Param("alpha", "rate inside the logarithm", log=True, low=1e-6, high=1e6, start=(0.02, 5.0)),
        Param("beta", "power of the logarithm", low=0.05, high=20.0, start=(0.3, 4.0)),
    ),
    loss=_isik, gradient=_isik_gradient, inputs=("D",), family="downstream",
    derived={"A": lambda p, cost=None: p["D0"] ** -p["alpha"]},
    output="bleu", unit="BLEU", objective="mse_log", needs=(spread("D", 30.0), values("D", 5)),
    source="Isik et al. 2024, arXiv:2402.04177; only where pre-training and task are aligned, else BLEU can fall while the loss improves",
)  # fmt: skip


def through(surface: Law, link: Law) -> Law:
    """Return a law of the metric: the link applied to the surface's loss.

    Parameters keep their names; one that both have gets `link_` before it in the link. With the
    surface fitted to the loss and the link to the metric, `law({**fit1.params, **fit2.params}, N=..., D=...)`
    is the two-step prediction; `sl.fit` fits both at once.

    Raises:
        FitError: the link does not read one loss.
    """
    if link.inputs != ("x",):
        raise FitError(
            f"through: {link.name} reads {', '.join(link.inputs)}; a link reads one loss, x, such as error_from_loss."
        )
    mine = {n: f"link_{n}" if n in surface.names else n for n in link.names}

    def split(p: Mapping[str, Array]) -> tuple[dict[str, Array], dict[str, Array]]:
        first = {n: p[n] for n in (*surface.inputs, *surface.names)}
        return first, {n: p[new] for n, new in mine.items()}

    def loss(**p: Array) -> Array:
        first, second = split(p)
        return link.loss(x=surface.loss(**first), **second)

    return Law(
        name=f"{link.name}_of_{surface.name}",
        formula=f"{link.formula},  x from {surface.formula}",
        params=(
            *(replace(p, linear=False, floor=False, start=(0.2, 2.0) if p.name == "E" else p.start) for p in surface.params),
            *(replace(p, name=mine[p.name]) for p in link.params),
        ),
        loss=loss, inputs=surface.inputs, columns=surface.columns, family="downstream", needs=surface.needs,
        output=link.output, unit=link.unit, objective=link.objective, source=f"{surface.source}; {link.source}",
    )  # fmt: skip


ERROR, ACCURACY, LOSS_TO_LOSS, GORDON_BLEU = error_law(), accuracy_law(), loss_to_loss_law(), bleu_law()  # fmt: skip
LAWS = (GADRE, ERROR, ACCURACY, LOSS_TO_LOSS, GORDON_BLEU, ISIK_BLEU)

_LOSSES = {"x": np.linspace(2.0, 6.0, 15)}
EXAMPLES = {
    "gadre": Example({"E": 1.8, "A": 166.0, "B": 287.0, "alpha": 0.27}, grid(N=(1e7, 1e10, 5), M=[5, 20, 80, 320])),
    "error_from_loss": Example({"eps": 0.857, "k": 2.2, "gamma": 0.715}, _LOSSES),
    "accuracy_from_loss": Example({"floor": 0.25, "span": 0.6, "k": 3.0, "x0": 3.5}, _LOSSES),
    "loss_to_loss": Example(
        {"E0": 1.7, "E1": 0.5, "K": 0.8, "kappa": 1.2}, _LOSSES,
        fixed={"E0": "the floor of the loss that is read, from its own fit"},
    ),
    "bleu_from_loss": Example({"scale": 150.0, "k": 0.6}, _LOSSES),
    "bleu_from_tokens": Example({"D0": 1e5, "alpha": 1.5, "beta": 1.3}, grid(D=(1e7, 1e11, 15))),
}  # fmt: skip

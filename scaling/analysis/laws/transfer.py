"""Laws of fine-tuning: what pre-training is worth, in tokens or in loss."""

from __future__ import annotations

import numpy as np

from scaling.analysis.law import Array, Law, Param, Published
from scaling.analysis.laws import needs
from scaling.analysis.laws.examples import Example, grid
from scaling.analysis.laws.parts import FLOOR, coefficient, exponent
from scaling.analysis.laws.sums import power_sum
from scaling.analysis.terms import Term


def _worth(*, N: Array, D: Array, k: Array, mu: Array, nu: Array) -> Array:
    return k * D**mu * N**nu


def _worth_gradient(*, N: Array, D: Array, k: Array, mu: Array, nu: Array) -> dict[str, Array]:
    size = D**mu * N**nu
    return {"k": size, "mu": k * size * np.log(D), "nu": k * size * np.log(N)}


_HERNANDEZ = "Hernandez et al. 2021, arXiv:2102.01293"
_CODE = "N non-embedding, D and D_T in characters of Python; "
_K = Param("k", "tokens transferred at N = D = 1", log=True, low=1e-6, high=1e12, start=(1.0, 1e6))
_MU = Param("mu", "how fast the transfer grows with fine-tuning tokens", low=-1.0, high=3.0, start=(0.05, 1.0))  # fmt: skip
_NU = Param("nu", "how fast the transfer grows with N", low=-1.0, high=3.0, start=(0.05, 1.0))

TRANSFER = Law(
    name="transfer",
    formula="D_T = k D^mu N^nu, D the fine-tuning tokens",
    params=(_K, _MU, _NU),
    loss=_worth, gradient=_worth_gradient, family="data",
    output="tokens that pre-training is worth", unit="tokens",
    needs=(needs.spread("N"), needs.spread("D"), needs.apart("N", "D")),
    published=(
        Published("text_to_python", {"k": 1.9e4, "mu": 0.18, "nu": 0.38}, _CODE + "pre-trained on text", _HERNANDEZ),
        Published("mixed_to_python", {"k": 2.1e5, "mu": 0.096, "nu": 0.38}, _CODE + "pre-trained on half text, half other code", _HERNANDEZ),
    ),
    source=_HERNANDEZ,
)  # fmt: skip


def _transferred(
    *, N: Array, D: Array, P: Array,
    E: Array, A: Array, B: Array, alpha: Array, beta: Array, **transfer: Array,
) -> Array:  # fmt: skip
    tokens = D + P * _worth(N=N, D=D, **transfer)
    return E + A * N**-alpha + B * tokens**-beta


def _transferred_gradient(
    *, N: Array, D: Array, P: Array,
    E: Array, A: Array, B: Array, alpha: Array, beta: Array, **transfer: Array,
) -> dict[str, Array]:  # fmt: skip
    tokens = D + P * _worth(N=N, D=D, **transfer)
    n, d = N**-alpha, tokens**-beta
    slope = -beta * B * d / tokens * P
    return {
        "E": np.ones_like(A * n + d), "A": n, "B": d,
        "alpha": -A * n * np.log(N), "beta": -B * d * np.log(tokens),
        **{name: slope * s for name, s in _worth_gradient(N=N, D=D, **transfer).items()},
    }  # fmt: skip


_SCALE = {"log": True, "linear": True, "low": 1e-9, "high": 1e12}
TRANSFER_LOSS = Law(
    name="transfer_loss",
    formula="L = E + A / N^alpha + B / (D + P k D^mu N^nu)^beta, P = 1 after pre-training, 0 from scratch",
    params=(
        FLOOR,
        # N and D also meet inside the transfer, so that neither can be centred alone.
        Param("A", "size of the N term at N = 1", **_SCALE, start=(1.0, 1e5)),  # type: ignore[arg-type]
        Param("B", "size of the D term at D = 1", **_SCALE, start=(1.0, 1e5)),  # type: ignore[arg-type]
        exponent("alpha", "N"), exponent("beta", "D"), _K, _MU, _NU,
    ),
    loss=_transferred, gradient=_transferred_gradient,
    inputs=("N", "D", "P"), columns={"P": "pretrained"}, family="data",
    nested={"chinchilla": {"P": 0.0}},
    needs=(needs.spread("N"), needs.spread("D"), needs.apart("N", "D"), needs.values("P", 2)),
    source="Hernandez et al. 2021, arXiv:2102.01293: the transfer is defined by the loss from scratch; "
    "here both are fitted at once",
)  # fmt: skip


def finetuning(x: str, column: str | None = None) -> Law:
    """Return L = E + A / (X^alpha D^beta), D fine-tuning tokens and X what it multiplies with.

    Args:
        x: name of the input X: N, or any other, as tokens of pre-training or trained parameters.
        column: the table's column for it, if it has another name.

    Source: Zhang et al. 2024, arXiv:2402.17193.
    """
    scale = Param("A", f"size of the term at {x} = D = 1", log=True, linear=True, low=1e-9, high=1e9,
                  unit_of={x: "alpha", "D": "beta"}, start=(0.05, 5.0))  # fmt: skip
    return Law(
        name=f"finetune_{x}", formula=f"L = E + A / ({x}^alpha D^beta)",
        params=(FLOOR, scale, exponent("alpha", x), exponent("beta", "D")),
        **power_sum(Term("A", {x: "alpha", "D": "beta"})),
        inputs=(x, "D"), columns={x: column} if column else {}, family="data",
        needs=(needs.spread(x), needs.spread("D"), needs.apart(x, "D")),
        source="Zhang et al. 2024, arXiv:2402.17193",
    )  # fmt: skip


def _rectified(*, D: Array, E: Array, A: Array, D_l: Array, alpha: Array) -> Array:
    return E + A / (D_l + D**alpha)


def _rectified_gradient(
    *, D: Array, E: Array, A: Array, D_l: Array, alpha: Array
) -> dict[str, Array]:
    power = D**alpha
    size = 1.0 / (D_l + power)
    return {
        "E": np.ones_like(size), "A": size, "D_l": -A * size**2,
        "alpha": -A * size**2 * power * np.log(D),
    }  # fmt: skip


RECTIFIED = Law(
    name="finetune_rectified",
    formula="L = E + A / (D_l + D^alpha)",
    params=(
        FLOOR, coefficient("A", "D", "alpha"),
        Param("D_l", "what pre-training has already taught, in units of D^alpha", log=True, low=1e-9, high=1e9, unit_of={"D": "alpha"}, start=(0.01, 10.0)),
        exponent("alpha", "D"),
    ),
    loss=_rectified, gradient=_rectified_gradient, inputs=("D",), family="data",
    nested={"power_D_floor": {"D_l": 0.0}},
    needs=(needs.spread("D", 100.0),),
    source="Lin et al. 2024, arXiv:2402.02314: a flat phase before the power law",
)  # fmt: skip

LAWS = (TRANSFER, TRANSFER_LOSS, finetuning("N"), finetuning("D_pre", "pretrain_tokens"), RECTIFIED)
_FINETUNE = {"E": 1.2, "A": 60.0, "alpha": 0.12, "beta": 0.1}
EXAMPLES = {
    "transfer": Example(TRANSFER.published[0].params, grid(N=(1e6, 3e8, 4), D=(1e5, 1e8, 5))),
    "transfer_loss": Example(
        {"E": 0.6, "A": 400.0, "B": 1500.0, "alpha": 0.34, "beta": 0.35, "k": 1.9e4, "mu": 0.18, "nu": 0.38},
        grid(N=(1e7, 1e10, 5), D=(1e6, 1e10, 5), P=[0.0, 1.0]),
    ),
    "finetune_N": Example(_FINETUNE, grid(N=(1e8, 1e10, 5), D=(1e5, 1e9, 5))),
    "finetune_D_pre": Example(_FINETUNE, grid(D_pre=(1e9, 1e12, 5), D=(1e5, 1e9, 5))),
    "finetune_rectified": Example({"E": 0.8, "A": 300.0, "D_l": 100.0, "alpha": 0.5}, grid(D=(1e2, 1e8, 14))),
}  # fmt: skip

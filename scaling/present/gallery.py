"""The report's gallery: the same prompts continued by models of rising size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from scaling.present import page
from scaling.study.units import format_quantity


@dataclass(frozen=True)
class Texts:
    """What one model wrote: a continuation for each prompt.

    params: non-embedding parameters. tokens: trained on. loss: nats/token on held-out text.
    """

    params: float
    tokens: float
    loss: float | None
    continuations: Sequence[str]


@dataclass(frozen=True)
class Gallery:
    """Prompts, what models wrote behind them, and how.

    truth: how the held-out texts go on that the prompts are from; empty where they are from none.
    note: how tokens were chosen, and what was left out; shown below. Without models it says why.
    """

    prompts: Sequence[str] = ()
    models: Sequence[Texts] = ()
    truth: Sequence[str] = ()
    note: str = ""


def gallery_section(gallery: Gallery | None) -> str:
    """Return the section of the page; empty where there is nothing to say."""
    if gallery is None:
        return ""
    blocks = [
        _block(gallery, number) for number in range(len(gallery.prompts) if gallery.models else 0)
    ]
    return page.section(
        "What the models write", *blocks, page.paragraph(gallery.note, "note"), name="gallery"
    )


def _block(gallery: Gallery, number: int) -> str:
    """A table of one prompt: a row for each model, and the text that it is from."""
    rows = [
        (format_quantity(m.params), format_quantity(m.tokens), "-" if m.loss is None else f"{m.loss:.4f}", m.continuations[number])
        for m in gallery.models
    ]  # fmt: skip
    if gallery.truth:
        rows.append(("held-out text", "", "", gallery.truth[number]))
    body = "".join(
        f"<tr><td>{page.text(n)}</td><td class='r'>{page.text(d)}</td><td class='r'>{page.text(loss)}</td>"
        f"<td><pre class='written'><b>{page.text(gallery.prompts[number])}</b>{page.text(made)}</pre></td></tr>"
        for n, d, loss, made in rows
    )
    head = "<th scope='col'>N</th><th scope='col' class='r'>D [tokens]</th><th scope='col' class='r'>loss [nats/token]</th><th scope='col'>text</th>"
    return f"<div class='scroll'><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"

"""Run notebooks and keep what they show, so that it can be read where nothing runs.

python notebooks/execute.py                  # all of them; `make notebooks`
python notebooks/execute.py inspect_sweep    # one

Every notebook runs from top to bottom in a new kernel, in this folder, as Jupyter starts it. What
changes from run to run without a reason (ids, times, versions) is left out, so that a difference
between two versions of a notebook is a difference in what it says.
"""

from __future__ import annotations

import base64
import hashlib
import io
import os
import re
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode
from PIL import Image

FOLDER = Path(__file__).resolve().parent
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
OPTIONS = [
    "--IPKernelApp.log_level=40",  # errors; it would tell of its local port
    "--InlineBackend.figure_formats={'png'}",
    "--InlineBackend.print_figure_kwargs={'dpi': 90, 'bbox_inches': 'tight'}",
]
COLORS = 96  # of a picture; a figure has few, and a palette takes a third of the bytes


def execute(path: Path) -> NotebookNode:
    """Return a notebook as it is after all its cells ran in a new kernel; the file stays.

    Raises:
        CellExecutionError: a cell failed; the message has its source and the traceback.
    """
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook, timeout=300, kernel_name="python3", extra_arguments=OPTIONS,
        resources={"metadata": {"path": str(FOLDER)}},
    )  # fmt: skip
    environment = {
        **os.environ,
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",  # whatever is set for scripts
        "PYTHONPATH": os.pathsep.join([str(FOLDER.parent), os.environ.get("PYTHONPATH", "")]),
        "OMP_NUM_THREADS": "1",  # sums in one order, so that the last digits stay
    }
    client.execute(env=environment)
    return tidy(notebook)


def tidy(notebook: NotebookNode) -> NotebookNode:
    """Leave out what changes without a reason, and write down which sources the outputs are of."""
    for number, cell in enumerate(notebook.cells, start=1):
        cell.id = f"cell-{number}"
        cell.metadata = {}
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                output.data["image/png"] = _shrink(output.data["image/png"])
                output.metadata = {}
    notebook.metadata = {
        "kernelspec": KERNEL,
        "language_info": {"name": "python"},
        "outputs_of": digest(notebook),
    }
    return notebook


def _shrink(picture: str) -> str:
    """Return a PNG, in base64, with a palette."""
    image = Image.open(io.BytesIO(base64.b64decode(picture))).convert("RGB")
    small = io.BytesIO()
    image.quantize(COLORS, dither=Image.Dither.NONE).save(small, "PNG", optimize=True)
    return base64.b64encode(small.getvalue()).decode()


def digest(notebook: NotebookNode) -> str:
    """Return a hash of the code cells."""
    text = "\n\0".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def texts(notebook: NotebookNode) -> list[str]:
    """Return what each code cell shows as text, pictures by the word `figure`."""
    return ["\n".join(_text(out) for out in c.outputs) for c in notebook.cells if c.cell_type == "code"]  # fmt: skip


def _text(output: NotebookNode) -> str:
    if output.output_type == "stream":
        return str(output.text)
    if "image/png" in output.get("data", {}):
        return "figure"
    return str(output.get("data", {}).get("text/plain", ""))


def split_numbers(text: str) -> tuple[str, list[float]]:
    """Return a text with `#` for each number, in any width of blanks and rules, and the numbers."""
    numbers: list[float] = []

    def take(found: re.Match[str]) -> str:
        numbers.append(float(found.group()))
        return "#"

    plain = re.sub(r"-?\d+(\.\d+)?(e[+-]?\d+)?", take, text)
    return re.sub(r"[\s-]+", " ", plain), numbers


def main(names: list[str]) -> None:
    """Run the named notebooks, or all, and write them with their outputs."""
    paths = [FOLDER / f"{name}.ipynb" for name in names] or sorted(FOLDER.glob("*.ipynb"))
    for path in paths:
        nbformat.write(execute(path), path)
        print(f"{path.name}: {path.stat().st_size / 1024:.0f} KB")


if __name__ == "__main__":
    main(sys.argv[1:])

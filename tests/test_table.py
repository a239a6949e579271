"""Tables: each format says the same, and nothing in a cell breaks it."""

import csv
import html
import io
import re
import shutil
import subprocess

import pytest

from scaling.study.table import Table

HEADER = ["name", "C [FLOPs]", "meaning_of"]
ROWS = [
    ["E", "1.2e+17", "50 % & more | less <b>, #1, $2, a_b, x^y, ~, {z}, back\\slash"],
    ["[1, 2]", "-3", "N* grows as C^a, L* as C^-gamma, B / D^beta"],
    ["*", "1e-05", "α ± σ, 2 × 10, ≤, ≥, σ², ∞"],
]
TABLE = Table(HEADER, ROWS, title="T_1 & 2", note="First line.\n- second: 50 %")
SPECIAL = re.compile(r"(?<!\\)[%&#_]")


def test_text_aligns_numbers_right():
    lines = TABLE.text().split("\n")
    assert lines[0] == "T_1 & 2" and lines[-1] == "- second: 50 %"
    assert lines[3].index("1.2e+17") + len("1.2e+17") == lines[4].index("-3") + len("-3")


def test_markdown_keeps_rows_and_note_apart():
    lines = TABLE.markdown().split("\n")
    start = lines.index(next(x for x in lines if x.startswith("| name")))
    body = lines[start : start + 5]
    assert all(
        len(re.findall(r"(?<!\\)\|", row)) == 4 for row in body
    )  # a bar in a cell is escaped
    assert lines[start + 5] == ""  # else the note would be one more row
    assert "N\\* grows" in TABLE.markdown() and "\\<b>" in TABLE.markdown()
    assert lines[start + 1] == "| --- | ---: | --- |"


def test_html_escapes_cells():
    text = TABLE._repr_html_()
    assert "<b>" not in text
    assert html.escape(ROWS[0][2]) in text


def test_csv_reads_back():
    assert list(csv.reader(io.StringIO(TABLE.csv()))) == [HEADER, *ROWS]


def test_latex_leaves_nothing_unescaped():
    body = TABLE.latex().split(r"\midrule")[1].split(r"\bottomrule")[0]
    rows = [row for row in body.strip().split("\n") if row]
    assert len(rows) == 3 and all(row.endswith(r" \\") for row in rows)
    for row in rows:
        cells = re.split(r"(?<!\\)&", row.removesuffix(r" \\"))
        assert len(cells) == 3
        plain = re.sub(r"\$[^$]*\$", "", "".join(cells))  # mathematics aside
        assert not SPECIAL.search(plain), plain
        assert plain.isascii(), plain
    assert rows[1].startswith("{}[") and rows[2].startswith("{}*")  # not an argument of \\


def test_latex_writes_numbers_and_powers_as_mathematics():
    text = TABLE.latex(label="tab:one")
    for part in (r"$1.2 \times 10^{17}$", r"$1 \times 10^{-5}$", "$-$3", "$C^{a}$", r"$C^{-\gamma}$", r"$D^{\beta}$",
                 r"\label{tab:one}", r"\begin{tabular}{lrl}", r"\toprule", r"\caption{T\_1 \& 2}"):  # fmt: skip
        assert part in text, part
    assert text.count("{") - text.count(r"\{") == text.count("}") - text.count(r"\}")


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_latex_compiles(tmp_path):
    page = r"\documentclass{article}\usepackage{booktabs}\begin{document}" + TABLE.latex() + r"\end{document}"  # fmt: skip
    (tmp_path / "t.tex").write_text(page)
    done = subprocess.run(["pdflatex", "-interaction=nonstopmode", "t.tex"], cwd=tmp_path, capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:]


@pytest.mark.parametrize("form", ["text", "markdown", "latex", "csv", "_repr_html_"])
def test_empty_table_is_still_a_table(form):
    assert "name" in getattr(Table(HEADER), form)()


def test_table_reads_well_at_a_prompt_and_in_a_notebook():
    table = Table(
        ["law", "error"], [["a", "1.5"]], title="Errors", note="first line\nsecond < line"
    )
    assert repr(table) == table.text() and "first line\nsecond" in repr(table)
    assert "first line<br>second &lt; line" in table._repr_html_()


def test_columns_of_chinese_are_aligned_in_a_terminal():
    # each Chinese character takes two columns of a terminal
    text = Table(["token", "p"], [["昨天", "0.5"], ["轻轻地", "1"], ["a", "2"]]).text()
    assert text.splitlines() == ["token     p", "------  ---", "昨天    0.5", "轻轻地    1", "a         2"]  # fmt: skip

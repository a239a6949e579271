"""Chinese pages say what the English ones say: the same lines to type, and no number of their own."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAIRS = [
    (ROOT / "README.zh.md", ROOT / "README.md"),
    *(
        (page, ROOT / "docs" / page.name)
        for page in sorted((ROOT / "docs" / "zh").glob("*.md"))
        if page.name != "index.md"  # its own
    ),
]
BLOCK = re.compile(r"^```([\w-]*)\n(.*?)^```", re.M | re.S)
NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?(?:e\d+)?")


def lines(page):
    """Return the lines of every block without their comments."""
    text = "\n".join(match[2] for match in BLOCK.finditer(page.read_text("utf-8")))
    return {re.sub(r"\s*#.*", "", line).strip() for line in text.splitlines()} - {""}


def numbers(page, *, blocks=True):
    """Return the numbers of a page, 1,000 as 1000; one digit alone may be a word in the other."""
    text = page.read_text("utf-8")
    text = text if blocks else BLOCK.sub("", text)
    text = re.sub(r"\]\([^)]*\)", "]", text)
    found = {n.replace(",", "") for n in NUMBER.findall(text)}
    return {n for n in found if len(n) > 1}


@pytest.mark.parametrize(("chinese", "english"), PAIRS, ids=lambda p: p.stem)
def test_chinese_page_has_the_lines_and_numbers_of_the_english_one(chinese, english):
    assert lines(chinese) <= lines(english)
    assert numbers(chinese, blocks=False) <= numbers(english)
    assert re.search(r"[\u4e00-\u9fff]{10}", chinese.read_text("utf-8"))


def test_readmes_lead_to_each_other_and_say_the_columns_alike():
    chinese, english = PAIRS[0]
    assert "](README.md)" in chinese.read_text("utf-8") and "](README.zh.md)" in english.read_text(
        "utf-8"
    )
    yaml = [
        [m[2] for m in BLOCK.finditer(p.read_text("utf-8")) if m[1] == "yaml"] for p in PAIRS[0]
    ]
    assert yaml[0] == yaml[1]


@pytest.mark.parametrize("page", [pair[0] for pair in PAIRS], ids=lambda p: p.stem)
def test_chinese_sentence_is_punctuated_as_chinese_is(page):
    prose = BLOCK.sub("", page.read_text("utf-8"))
    assert re.findall(r"[\u4e00-\u9fff][,;:?(][\u4e00-\u9fff]", prose) == []

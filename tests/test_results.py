"""All measured numbers in docs/results.md are in a committed table."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "results.md"
NUMBER = r"[+−]?\d+(?:\.\d+)?"
# 1.2 [0.8, 1.6], 1.2 [0.8, 1.6] ± 0.3 or 1.2 ± 0.3: a measured number
MEASURED = re.compile(rf"(?<![\d.]){NUMBER} (?:\[{NUMBER}, {NUMBER}\](?: ± {NUMBER})?|± {NUMBER})")
TABLE = re.compile(r"\]\((\.\./reports/[^)]+\.md)\)")


def paragraphs() -> list[str]:
    """Return the paragraphs with a measured number. A list or table after a paragraph belongs to it."""
    blocks = re.split(r"\n\n(?=[^|\-\s])", RESULTS.read_text(encoding="utf-8"))
    return [block for block in (" ".join(block.split()) for block in blocks) if MEASURED.search(block)]


@pytest.mark.parametrize("paragraph", paragraphs(), ids=lambda text: re.sub(r"\W+", "-", text[:40]))
def test_every_number_stands_in_a_table_linked_beside_it(paragraph):
    tables = [(RESULTS.parent / link).resolve() for link in TABLE.findall(paragraph)]
    assert tables, f"numbers without a table: {paragraph[:80]}"
    said = "\n".join(table.read_text(encoding="utf-8") for table in tables)
    missing = [number for number in MEASURED.findall(paragraph) if number not in said]
    assert not missing


def test_there_are_numbers_to_check():
    assert len(paragraphs()) >= 5


def test_links_lead_somewhere():
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", RESULTS.read_text(encoding="utf-8"))
    assert links
    assert not [link for link in links if not (RESULTS.parent / link).exists()]

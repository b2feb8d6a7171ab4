"""All measured numbers in README.md and docs/results.md are in a committed table."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
RESULTS, README = ROOT / "docs" / "results.md", ROOT / "README.md"
NUMBER = r"[+−]?\d+(?:\.\d+)?"
# 1.2 [0.8, 1.6], 1.2 [0.8, 1.6] ± 0.3 or 1.2 ± 0.3: a measured number
MEASURED = re.compile(rf"(?<![\d.]){NUMBER} (?:\[{NUMBER}, {NUMBER}\](?: ± {NUMBER})?|± {NUMBER})")
TABLE = re.compile(r"\]\(((?:\.\./)?reports/[^)]+\.md)\)")


def paragraphs(page: Path) -> list[str]:
    """Return the paragraphs with a measured number. A list or table after a paragraph belongs to it."""
    blocks = re.split(r"\n\n(?=[^|\-\s])", page.read_text(encoding="utf-8"))
    return [block for block in (" ".join(block.split()) for block in blocks) if MEASURED.search(block)]


NUMBERS = [
    pytest.param(page, paragraph, id=re.sub(r"\W+", "-", paragraph[:40]))
    for page in (README, RESULTS)
    for paragraph in paragraphs(page)
]


@pytest.mark.parametrize(("page", "paragraph"), NUMBERS)
def test_every_number_stands_in_a_table_linked_beside_it(page, paragraph):
    tables = [(page.parent / link).resolve() for link in TABLE.findall(paragraph)]
    assert tables, f"numbers without a table: {paragraph[:80]}"
    said = "\n".join(table.read_text(encoding="utf-8") for table in tables)
    missing = [number for number in MEASURED.findall(paragraph) if number not in said]
    assert not missing


def test_there_are_numbers_to_check():
    assert len(paragraphs(RESULTS)) >= 5
    assert paragraphs(README)


def test_links_lead_somewhere():
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", RESULTS.read_text(encoding="utf-8"))
    assert links
    assert not [link for link in links if not (RESULTS.parent / link).exists()]

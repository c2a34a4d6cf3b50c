"""The release page is current."""

from pathlib import Path

from ascend_v4.catalog.load import catalog
from ascend_v4.render.matrix import release_page

PAGE = Path(__file__).resolve().parents[2] / "docs" / "releases.md"


def test_page_is_current():
    assert PAGE.read_text() == release_page(catalog())

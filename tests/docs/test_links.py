"""The pages form one site: links lead somewhere, and the reference names what the package offers."""

import re
from itertools import pairwise

import pytest
from markdown_it import MarkdownIt

import streamward
from tests.docs.pages import PAGES, ROOT

CARDS = sorted((ROOT / "src/streamward/bundled").glob("*/README.md"))


def headings(page):
    """The anchors of a page, as GitHub and MyST make them."""
    tokens = MarkdownIt().parse(page.read_text(encoding="utf-8"))
    texts = [after.content for token, after in pairwise(tokens) if token.type == "heading_open"]
    return {re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in texts}


@pytest.mark.parametrize("page", [*PAGES, *CARDS], ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{target} does not exist"
        if anchor:
            assert anchor in headings(file), f"{target}: no such heading"


def test_every_page_is_in_the_table_of_contents():
    index = (ROOT / "docs/index.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"^((?:tutorials|how-to|reference|explanation)/[\w-]+)$", index, re.MULTILINE))
    pages = {str(page.relative_to(ROOT / "docs").with_suffix("")) for page in PAGES[1:]} - {"index"}
    assert pages - listed - {page for page in pages if page.startswith("tutorials/")} == set()
    assert listed <= pages


def test_the_reference_names_everything_public():
    page = (ROOT / "docs/reference/api.md").read_text(encoding="utf-8")
    documented = set(re.findall(r"^\.\. auto\w+:: streamward\.(\w+)$", page, re.MULTILINE))
    assert documented == {name for name in streamward.__all__ if not name.startswith("__")}

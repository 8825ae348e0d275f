"""The pages speak of what exists: links lead somewhere, named files are there, the tour has every folder, both READMEs
have the same code."""

import re
from pathlib import Path

import pytest

from tests.journeys.pages import ROOT, anchors_of, blocks_of, links_of, pages

_FILE = re.compile(r"`((?:hanbit|tests|benchmarks|docs|scripts)/[\w/.-]+)`")


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", pages(), ids=name_of)
def test_every_link_leads_to_a_page_and_a_heading(page: Path) -> None:
    broken = []
    for link in links_of(page):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors_of(target)):
            broken.append(link)
    assert broken == []


@pytest.mark.parametrize("page", pages(), ids=name_of)
def test_every_file_that_is_named_exists(page: Path) -> None:
    named = _FILE.findall(page.read_text(encoding="utf-8"))
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_the_tour_has_every_folder_of_the_package() -> None:
    folders = {path.parent.name for path in ROOT.glob("hanbit/*/__init__.py")}
    tour = (ROOT / "docs/README.md").read_text(encoding="utf-8")
    assert folders == set(re.findall(r"^\| \d \| `(\w+)/`", tour, re.MULTILINE))


def test_both_readmes_have_the_same_code_in_the_same_order() -> None:
    english, korean = blocks_of(ROOT / "README.md"), blocks_of(ROOT / "README.ko.md")
    assert len(english) > 5
    assert english == korean


def test_both_readmes_have_the_same_sections_and_links() -> None:
    english, korean = ROOT / "README.md", ROOT / "README.ko.md"
    levels = [re.findall(r"^(#+) ", page.read_text(encoding="utf-8"), re.MULTILINE) for page in (english, korean)]
    assert levels[0] == levels[1]
    assert links_of(english)[1:] == links_of(korean)[1:]  # the first is the one to the other language


def test_every_decision_is_in_the_list() -> None:
    listed = links_of(ROOT / "docs/decisions/README.md")
    there = sorted(path.name for path in ROOT.glob("docs/decisions/0*.md"))
    assert listed == there

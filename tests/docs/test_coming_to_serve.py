"""Every flag that the pages for vLLM's and Triton's users name as ours is one, and every link leads somewhere."""

import re
from pathlib import Path

import pytest
import typer

from hanbit.cli.serve import command
from tests.journeys.pages import ROOT

PAGES = ["docs/coming-from-vllm.md", "docs/coming-from-triton.md"]


def flags() -> set[str]:
    app = typer.Typer()
    app.command()(command)
    found = typer.main.get_command(app).params
    return {name for one in found for name in (*one.opts, *one.secondary_opts)}


def rows(page: Path) -> list[list[str]]:
    """Of the table of flags: theirs, ours, a word on it."""
    table = page.read_text().partition("## Flags")[2].partition("\n## ")[0]
    lines = [line.strip("|").split("|") for line in table.splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in line] for line in lines]


@pytest.mark.parametrize("page", PAGES)
def test_flags_that_are_named_as_ours_are_ours(page: str) -> None:
    ours, found = flags(), rows(ROOT / page)
    assert len(found) >= 10
    for theirs, mine, word in found:
        named = theirs if mine == "the same" else f"{mine} {word}"
        for flag in re.findall(r"(?<![\w-])--[a-z][a-z-]*", named):
            assert flag in ours, f"{page}: {flag}"


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_pages_and_their_headings(page: str) -> None:
    for target, heading in re.findall(r"\]\(([\w./-]+\.md)?(?:#([\w-]+))?\)", (ROOT / page).read_text()):
        file = ROOT / "docs" / target if target else ROOT / page
        assert file.is_file(), target
        heads = {re.sub(r"[^\w -]", "", line.lstrip("# ")).lower().replace(" ", "-")
                 for line in file.read_text().splitlines() if line.startswith("#")}  # fmt: skip
        assert not heading or heading in heads, f"{target}#{heading}"

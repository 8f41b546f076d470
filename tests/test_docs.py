"""Both READMEs have the same commands and numbers, and what the pages link to exists."""

import re
import sys
from unicodedata import east_asian_width

import pytest
from conftest import ROOT, shell

READMES = [(ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "README.ko.md")]
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("*/*.md")]


def width(line):
    """In columns of a terminal, where a Hangul syllable takes two."""
    return sum(1 + (east_asian_width(character) in "WF") for character in line)


def blocks(text):
    """The lines of all code blocks, without comments and, in the list of files, what the files are."""
    lines = "\n".join(re.findall(r"^```\w*\n(.*?)^```$", text, re.M | re.S)).split("\n")
    return [re.split(r"\s+#|\s{3,}", line)[0].strip() for line in lines]


def table_numbers(text):
    return [re.findall(r"\d*\.?\d+", re.sub(r"`[^`]*`|\(.*?\)", "", line)) for line in text.split("\n") if line.startswith("|")]


def test_both_readmes_have_the_same_code_blocks_and_numbers():
    english, korean = READMES
    assert blocks(english) == blocks(korean) and len(blocks(english)) > 20
    assert table_numbers(english) == table_numbers(korean) and sum(map(len, table_numbers(english))) > 50
    targets = [re.findall(r"\]\(([^)#]+)\)|src=\"([^\"]+)", text) for text in READMES]
    assert len(targets[0]) == len(targets[1]) > 20


@pytest.mark.parametrize("text", READMES, ids=("English", "Korean"))
def test_a_readme_is_short(text):
    lines = text.rstrip("\n").split("\n")
    assert 150 <= len(lines) <= 200
    assert max(map(width, lines)) <= 128


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_a_page_links_to_exists(page):
    text = page.read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)\s]+)\)|src=\"([^\"]+)", text):
        path, _, anchor = "".join(link).partition("#")
        if path.startswith("http"):
            continue
        target = page.parent / path if path else page
        assert target.exists(), link
        if anchor:
            headings = re.findall(r"^#+ (.+)$", target.read_text(encoding="utf-8"), re.M)
            assert anchor in [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings], link


@pytest.mark.parametrize("script", sorted(path.name for path in ROOT.glob("*.py")))
def test_help_ends_with_an_example_of_the_script(script):
    text = shell(sys.executable, ROOT / script, "--help").stdout
    *_, title, example = text.rstrip("\n").split("\n")
    assert title == "example:" and example.startswith(f"  python {script} ")
    assert all(f" {flag} " in text for flag in re.findall(r"--\w+", example))

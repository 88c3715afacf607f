"""README.zh.md says what README.md says: whoever changes one is reminded of the other.

Words cannot be compared; what stands beside them can, section by section: snippets, tables, links,
what is in backticks, figures.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import Final

import pytest

from tests.tools.pages import Page, page, pages

ENGLISH, CHINESE = page("README.md"), page("README.zh.md")
_HAN: Final = re.compile(r"[\u3400-\u9fff]")
_COMMENT: Final = re.compile(r"(?m)(?:^|[ ]+)# .*$")
_PROMPT: Final = re.compile(r'(prompt"?[=:] ?)"[^"]*"')


@dataclass(frozen=True, slots=True)
class Section:
    """What both languages have in common. `snippets` are without comments and prompts, `tables`
    how many cells each row has, `links` without those from one language to the other."""

    level: int
    snippets: tuple[tuple[str, str], ...]
    tables: tuple[int, ...]
    links: Counter[str]
    codes: Counter[str]
    figures: Counter[str]


def sections(whole: Page) -> list[Section]:
    fence = re.compile(r"(?ms)^```.*?^```$")
    blocks = fence.findall(whole.text)
    numbered = iter(range(len(blocks)))
    text = fence.sub(lambda _: f"@@{next(numbered)}@@", whole.text)
    parts = re.split(r"(?m)^(#+) ", text)
    made = []
    for marks, part in zip(parts[1::2], parts[2::2], strict=True):
        inner = Page(whole.name, re.sub(r"@@\d+@@", "", part))
        codes = inner.codes()
        prose = re.sub(r"`[^`]*`|\]\([^)]*\)", "", inner.text)
        made.append(
            Section(
                len(marks),
                tuple(bare(blocks[int(n)]) for n in re.findall(r"@@(\d+)@@", part)),
                tuple(line.count("|") for line in part.splitlines() if line.startswith("|")),
                Counter(
                    to for to in inner.links() if to != ENGLISH.name and not to.endswith(".zh.md")
                ),
                Counter(codes),
                Counter(re.findall(r"\d+(?:[-.,]\d+)*", prose)),
            )
        )
    return made


def bare(block: str) -> tuple[str, str]:
    """The language of a snippet, and its lines as far as they are not for people alone."""
    head, _, body = block.partition("\n")
    lines = _PROMPT.sub(r'\1"…"', _COMMENT.sub("", body)).splitlines()
    return head, "\n".join(line for line in lines if line)


def test_both_have_the_same_sections() -> None:
    assert [each.level for each in sections(CHINESE)] == [each.level for each in sections(ENGLISH)]


@pytest.mark.parametrize("at", range(len(sections(ENGLISH))))
def test_a_section_has_what_its_translation_has(at: int) -> None:
    english, chinese = sections(ENGLISH)[at], sections(CHINESE)[at]
    assert chinese.snippets == english.snippets
    assert chinese.tables == english.tables
    assert chinese.links == english.links
    assert chinese.codes == english.codes
    assert chinese.figures == english.figures


def test_each_leads_to_the_other() -> None:
    """In the first lines, before anybody has to read a word of the wrong language."""
    for one, other in ((ENGLISH, CHINESE), (CHINESE, ENGLISH)):
        assert f"]({other.name})" in "\n".join(one.text.splitlines()[:3])


@pytest.mark.parametrize(
    ("written", "instead"),
    [
        ('seconds="4"', 'seconds="5"'),
        ("make demo\n", "make show\n"),
        ("docs/install.md", "docs/redis.md"),
        ("| OpenAI Videos |", "| OpenAI | Videos |"),
        ("`queue = N`", "`queue = 7`"),
        (" µs |", "0 µs |"),
        ("\n## ", "\n### "),
    ],
)
def test_a_difference_would_be_seen(written: str, instead: str) -> None:
    text = CHINESE.text.replace(written, instead)
    assert text != CHINESE.text
    assert sections(Page(CHINESE.name, text)) != sections(CHINESE)


def test_the_chinese_pages_are_chinese_and_the_others_are_not() -> None:
    """A page in the wrong file, or a paragraph left behind untranslated."""
    for each in pages():
        paragraphs = [part for part in each.prose.split("\n\n") if len(part) > 200]
        is_chinese = each.name.endswith(".zh.md")
        for paragraph in paragraphs:
            assert bool(_HAN.search(paragraph)) is is_chinese or "简体中文" in paragraph, paragraph

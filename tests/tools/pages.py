"""Markdown pages as tests need them: their fenced blocks, links, headings and inline code."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
_FENCE: Final = re.compile(r"(?ms)^```(\w*)[^\n]*\n(.*?)^```[ \t]*$")
_LINK: Final = re.compile(r"\[(?:[^\[\]]|\[[^\]]*\])*\]\(([^()\s]+)\)")
_CODE: Final = re.compile(r"``([^\n]+?)``|`([^`\n]+)`")
_PARTS: Final = re.compile(r"&&|\|\||[;|\n]|\$\(")
_BEFORE: Final = re.compile(r"(?:sudo(?: -u \w+)?|exec|\w+=\S*)\s+")


@dataclass(frozen=True, slots=True)
class Page:
    """`name` is its path from the root of the repository."""

    name: str
    text: str

    @property
    def path(self) -> Path:
        return ROOT / self.name

    @property
    def prose(self) -> str:
        """Without fenced blocks."""
        return _FENCE.sub("", self.text)

    def blocks(self, *languages: str) -> list[str]:
        return [found[2] for found in _FENCE.finditer(self.text) if found[1] in languages]

    def links(self) -> list[str]:
        """Targets inside the repository, as they are written."""
        prose = _CODE.sub("", self.prose)
        return [to for to in _LINK.findall(prose) if not re.match(r"[a-z]+:", to)]

    def codes(self) -> list[str]:
        """What stands in backticks."""
        return [found[1] or found[2] for found in _CODE.finditer(self.prose)]

    def anchors(self) -> set[str]:
        """As GitHub makes them of headings; of equal ones the second has `-1`."""
        found: set[str] = set()
        for heading in re.findall(r"(?m)^#{1,6} +(.+?) *$", self.prose):
            slug = re.sub(r"[^\w\- ]", "", _LINK_TEXT.sub(r"\1", heading).lower())
            slug = slug.replace(" ", "-")
            number = 0
            while (slug if not number else f"{slug}-{number}") in found:
                number += 1
            found.add(slug if not number else f"{slug}-{number}")
        return found

    def commands(self) -> list[list[str]]:
        """The words after `reelway` of each of its command lines, in shell blocks and in
        backticks. `…` stands for what the reader knows, `[--x]` for what may be left out."""
        texts = [block.replace("\\\n", " ") for block in self.blocks("sh", "bash", "console")]
        return [words for text in (*texts, *self.codes()) for words in commands_in(text)]


_LINK_TEXT: Final = re.compile(r"\[([^\]]*)\]\([^)]*\)")


def commands_in(text: str) -> Iterator[list[str]]:
    for part in _PARTS.split(text):
        line = part.strip()
        while found := _BEFORE.match(line):
            line = line[found.end() :]
        program, _, rest = line.partition(" ")
        if program in ("reelway", "/opt/reelway/bin/reelway") and rest:
            rest = re.sub(r"[\[\]…]", " ", rest)
            yield shlex.split(rest, comments=True)


def pages() -> list[Page]:
    """The pages at the root and in deploy/, and everything under docs/."""
    readmes = [
        ROOT / name
        for name in (
            "README.md",
            "README.zh.md",
            "SECURITY.md",
            "CONTRIBUTING.md",
            "deploy/README.md",
        )
    ]
    files = [*readmes, *sorted(ROOT.glob("docs/**/*.md"))]
    return [Page(str(f.relative_to(ROOT)), f.read_text(encoding="utf-8")) for f in files]


def page(name: str) -> Page:
    return Page(name, (ROOT / name).read_text(encoding="utf-8"))

"""The console's files, read as text: nothing inline, nothing from elsewhere, every sentence in both
languages, colours that can be read, and no more bytes than the console is worth."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import proxy
from proxy.dialects import DIALECTS
from proxy.model import Operation, Stage

CONSOLE = Path(proxy.__file__).parent / "admin" / "console"
FILES = sorted(path for path in CONSOLE.rglob("*") if path.is_file())
SCRIPTS = [path for path in FILES if path.suffix == ".js"]
SHEETS = [path for path in FILES if path.suffix == ".css"]
KINDS = {".html", ".js", ".css", ".svg"}

MOST_BYTES_OF_ONE = 40_000
MOST_BYTES = 300_000
MOST_LINES = 400  # of a module; text.js is a table
MOST_COLUMNS = 100


def name_of(path: Path) -> str:
    return path.relative_to(CONSOLE).as_posix()


def bare(text: str) -> str:
    """A script without its line comments."""
    return re.sub(r"(?m)(^|\s)//.*$", r"\1", text)


def read(name: str) -> str:
    return (CONSOLE / name).read_text()


def test_there_is_a_console_and_only_of_files_the_admin_port_serves() -> None:
    assert {"index.html", "main.js", "text.js", "theme.css", "icon.svg"} <= set(map(name_of, FILES))
    assert {path.suffix for path in FILES} == KINDS


# ---------------------------------------------------------------- nothing inline


def test_the_page_has_no_script_style_or_handler_of_its_own() -> None:
    """What the content policy would refuse is not even there."""
    page = read("index.html")
    scripts = re.findall(r"<script([^>]*)>(.*?)</script>", page, re.DOTALL)
    assert scripts
    assert all("src=" in attributes and not body for attributes, body in scripts)
    assert "<style" not in page
    assert not re.search(r"\s(style|on\w+)\s*=", page)


@pytest.mark.parametrize("path", SCRIPTS, ids=name_of)
def test_no_script_can_turn_text_into_markup_or_code(path: Path) -> None:
    """The one module that touches the document forbids it by name; nobody else has the words."""
    text = bare(path.read_text())
    if name_of(path) == "dom.js":
        assert 'new Set(["innerhtml", "outerhtml", "srcdoc"])' in text
        text = text.replace('"innerhtml", "outerhtml", "srcdoc"', "")
    words = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|srcdoc"
    code = r"\beval\(|new Function|setTimeout\(\s*[\"'`]|javascript:|setAttribute\(\s*[\"']style"
    assert not re.search(f"(?i:{words})|{code}", text)


@pytest.mark.parametrize("path", SCRIPTS, ids=name_of)
def test_only_the_drawing_module_makes_elements(path: Path) -> None:
    """Everything else goes through it; a dialog and the clipboard's text box are said aloud."""
    allowed = {
        "dom.js": {"createElement", "createElementNS", "createTextNode"},
        "dialogs.js": {'createElement("dialog")'},
        "parts.js": {'createElement("textarea")'},
    }.get(name_of(path), set())
    found = set(
        re.findall(
            r"createElement\(\"\w+\"\)|create(?:ElementNS|Element|TextNode)", path.read_text()
        )
    )
    assert found <= allowed | {"createElement"} if allowed else not found


# ---------------------------------------------------------------- nothing from elsewhere


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_nothing_is_fetched_from_elsewhere(path: Path) -> None:
    """The only absolute address is the name of SVG."""
    text = path.read_text().replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"https?://|//[a-z0-9.-]+\.[a-z]{2,}/", bare(text))
    assert not re.search(r"@import|url\(", text)


@pytest.mark.parametrize("path", SCRIPTS, ids=name_of)
def test_every_import_is_a_file_that_is_there(path: Path) -> None:
    imported = re.findall(r"(?:from|import)\s+\"([^\"]+)\"", path.read_text())
    assert all((path.parent / name).resolve() in FILES for name in imported), imported


def test_every_file_the_page_names_is_there() -> None:
    names = re.findall(r'(?:src|href)="console/([^"]+)"', read("index.html"))
    assert len(names) == 7
    assert set(names) <= set(map(name_of, FILES))


def test_every_module_is_reached_from_the_page() -> None:
    """No file is served that nothing uses."""
    seen: set[Path] = set()
    ahead = [CONSOLE / "main.js", CONSOLE / "early.js"]
    while ahead:
        path = ahead.pop()
        if path not in seen:
            seen.add(path)
            names = re.findall(r"from \"([^\"]+)\"", path.read_text())
            ahead += [(path.parent / name).resolve() for name in names]
    assert seen == set(SCRIPTS)


# ---------------------------------------------------------------- every sentence twice


def sentences() -> dict[str, tuple[str, str]]:
    table = read("text.js").split("export const TEXT = {", 1)[1]
    literal = r'"((?:[^"\\]|\\.)*)"'
    entry = rf'(?m)^  (?:"([^"]+)"|(\w+)): \[\s*{literal},\s*{literal},?\s*\],$'
    return {quoted or plain: (en, zh) for quoted, plain, en, zh in re.findall(entry, table)}


SENTENCES = sentences()


def test_the_table_of_sentences_is_read_whole() -> None:
    """Each key opens a line; an entry of another shape would be missed by every test below."""
    table = read("text.js").split("export const TEXT = {", 1)[1]
    keys = re.findall(r'(?m)^  (?:"([^"]+)"|(\w+)): \[', table)
    assert len(keys) == len(SENTENCES) > 300


def test_every_sentence_is_there_in_both_languages() -> None:
    """With the same things filled in, and Chinese in Chinese."""
    names = {"secrets.access_key", "secrets.secret_key"}
    for key, (en, zh) in SENTENCES.items():
        assert en.strip(), key
        assert zh.strip(), key
        for form in en.split("|"):
            assert set(re.findall(r"\{\w+\}", form)) == set(re.findall(r"\{\w+\}", zh)), key
        words = re.sub(r"\{\w+\}|[\W\d_]", "", zh)
        assert key in names or not words or re.search(r"[\u4e00-\u9fff]", zh), key
        assert not re.search(r"[\u4e00-\u9fff]", en), key


def test_every_word_of_a_task_is_said_in_both_languages() -> None:
    assert {f"stage.{stage}" for stage in Stage} <= set(SENTENCES)
    assert {f"operation.{op}" for op in Operation if op.is_submit} <= set(SENTENCES)


def asked() -> Iterator[tuple[str, str]]:
    for path in SCRIPTS:
        for key in re.findall(r"\bt\(\s*[\"`]([^\"`]+)[\"`]", path.read_text()):
            yield name_of(path), key


def test_every_sentence_a_page_asks_for_is_in_the_table() -> None:
    """A key made of a variable part must fit at least one."""
    for where, key in asked():
        pattern = re.sub(r"\\\$\\\{.*?\\\}", ".+", re.escape(key))
        assert any(re.fullmatch(pattern, known) for known in SENTENCES), (where, key)


def test_every_sentence_in_the_table_is_used() -> None:
    text = "\n".join(path.read_text() for path in SCRIPTS if name_of(path) != "text.js")
    literals = set(re.findall(r"[\"`]([a-z_.]+)[\"`]", text))
    made = re.findall(r"`([a-z_.]*\$\{[^`]*)`", text)
    patterns = [re.sub(r"\\\$\\\{.*?\\\}", ".+", re.escape(one)) for one in made if "." in one]
    unused = [
        key
        for key in SENTENCES
        if key not in literals and not any(re.fullmatch(one, key) for one in patterns)
    ]
    assert unused == []


# ---------------------------------------------------------------- colours that can be read

INKS = ("ink", "ink-2", "ink-3", "accent-ink")
GROUNDS = ("ground", "surface", "sunken")
TONES = ("ok", "warn", "bad", "idle")
SOFT = (*(f"{tone}-soft" for tone in TONES), "accent-soft")
READ: list[tuple[str, str]] = [  # text on a ground: 4.5 : 1
    *((ink, ground) for ink in INKS for ground in GROUNDS),
    *((ink, soft) for ink in INKS[:3] for soft in SOFT),
    *((tone, f"{tone}-soft") for tone in TONES),
    *((tone, ground) for tone in TONES for ground in GROUNDS),
    ("accent-ink", "accent-soft"),
    ("on-accent", "accent"),
    ("on-accent", "accent-strong"),
    ("on-accent", "bad-strong"),
    ("surface", "ink"),
    ("ink", "line"),
]
SEEN: list[tuple[str, str]] = [  # what is only looked at: 3 : 1
    *(("control", ground) for ground in GROUNDS),
    *((f"series-{n}", "surface") for n in range(1, 7)),
    ("accent", "surface"),
    ("accent-ink", "ground"),
]


def themes() -> dict[str, dict[str, str]]:
    sheet = re.sub(r"/\*.*?\*/", "", read("theme.css"), flags=re.DOTALL)
    blocks = {
        "light": r":root \{(.*?)\}",
        "dark, chosen": r':root\[data-theme="dark"\] \{(.*?)\}',
        "dark, the system's": r":root:not\(\[data-theme\]\) \{(.*?)\}",
    }
    found = {}
    for name, pattern in blocks.items():
        match = re.search(pattern, sheet, re.DOTALL)
        assert match is not None, name
        found[name] = dict(re.findall(r"--([\w-]+):\s*([^;]+);", match[1]))
    return found


THEMES = themes()


def luminance(colour: str) -> float:
    """WCAG 2's relative luminance of #rrggbb."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    darker, lighter = sorted((luminance(one), luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


def test_contrast_is_computed_as_wcag_does() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


def test_both_ways_to_the_dark_theme_lead_to_the_same() -> None:
    assert THEMES["dark, chosen"] == THEMES["dark, the system's"]


@pytest.mark.parametrize("theme", ["light", "dark, chosen"])
def test_colours_have_the_contrast_of_wcag_aa(theme: str) -> None:
    colours = THEMES[theme]
    wanted = [*((*pair, 4.5) for pair in READ), *((*pair, 3.0) for pair in SEEN)]
    for front, back, least in wanted:
        assert contrast(colours[front], colours[back]) >= least, (front, back)


def test_every_colour_a_sheet_uses_is_one_of_the_theme() -> None:
    """No sheet has colours of its own but black, white and those of the mark."""
    known = set(THEMES["light"])
    local = {"tone", "tone-soft", "share"}
    for path in SHEETS:
        text = path.read_text()
        assert set(re.findall(r"var\(--([\w-]+)", text)) <= known | local, name_of(path)
        if name_of(path) != "theme.css":
            assert set(re.findall(r"#[0-9a-f]{3,8}\b", text)) <= {"#fff", "#05060a", "#3451db"}


def test_whoever_wants_less_motion_gets_none() -> None:
    assert "@media (prefers-reduced-motion: reduce)" in read("base.css")


# ---------------------------------------------------------------- no more than it is worth


def test_the_console_is_small() -> None:
    sizes = {name_of(path): path.stat().st_size for path in FILES}
    assert max(sizes.values()) <= MOST_BYTES_OF_ONE, sizes
    assert sum(sizes.values()) <= MOST_BYTES, sizes


@pytest.mark.parametrize("path", [p for p in SCRIPTS if name_of(p) != "text.js"], ids=name_of)
def test_a_module_has_one_subject_and_says_which(path: Path) -> None:
    text = path.read_text()
    assert text.startswith("// ")
    assert text.count("\n") <= MOST_LINES
    assert max(map(len, text.splitlines())) <= MOST_COLUMNS


@pytest.mark.parametrize("path", SCRIPTS, ids=name_of)
def test_no_script_has_a_list_of_dialects_of_its_own(path: Path) -> None:
    """The overview says which there are."""
    quoted = set(re.findall(r"[\"'`](\w+)[\"'`]", path.read_text()))
    assert not quoted & set(DIALECTS)

"""docs/configuration.md, made of the code that reads the file and of the words in config.toml.

    python -m tests.tools.config_reference > docs/configuration.md

What a key accepts and its default come from `proxy.config.tables`, what it means from the comments
of config.toml, when it takes effect from `proxy.config.reload` and from what a worker reads only
while it starts. Nothing is written twice, so nothing can disagree.
"""

from __future__ import annotations

import inspect
import json
import re
import sys
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin, get_type_hints

from annotated_types import Ge, Gt, Le, MinLen
from pydantic import AfterValidator, BaseModel, BeforeValidator
from pydantic.fields import FieldInfo

from proxy.config.reload import WAIT, WAIT_KEYS
from proxy.config.source import fields_of
from proxy.config.tables import (
    SECTIONS,
    CredentialTable,
    RouteTable,
    ShareTable,
    Table,
    UpstreamTable,
)
from proxy.providers import PROVIDERS
from proxy.providers.catalogue.row import ModelRow
from proxy.tasks import pricing

ROOT: Final = Path(__file__).parents[2]
COMMAND: Final = "python -m tests.tools.config_reference > docs/configuration.md"
LONGEST_DEFAULT: Final = 60  # characters; a longer one stands below its table
WIRING: Final = ROOT / "proxy" / "server" / "wiring.py"

# What each validator of `proxy.config.values` accepts. One that is not here stops the generator.
ACCEPTS: Final[Mapping[str, str]] = {
    "_listen": "`host:port`, `[v6]:port` or `unix:/absolute/path`",
    "_exact_host_port": "`host:port`",
    "_url": "http(s) URL without a query",
    "_redis_url": "`embedded`, or a URL as on the left",
    "_secret": "text of 32 bytes or more",
    "_network": "address or CIDR block",
    "_web_origin": "`scheme://host[:port]` or `*`",
    "_header_name": "header name",
    "_upstream_headers": "table of headers",
    "_path_names": "table: `submit`, `poll`, `content`, also with `.<kind>`, each a path",
    "_upstream_path": "path from `base_url` on",
    "_name": "1 to 64 letters, digits, `.`, `_`, `-`",
    "_model_name": "1 to 256 printable characters",
    "_currency": "ISO 4217 code",
    "_json": "any JSON value",
    "_body_field": "field name, or names joined by dots",
    "_field_glob": "field name; `*` and `?` are wild",
    "_body_fields": "table: field name, or names joined by dots, to any JSON value",
    "all_dialects": "table: `openai`, `generic`, `kling`, `jimeng` to a model's name",
    "_submit": "`create`, `remix`, `edit` or `extend`",
    "_size": "size such as `1280x720`",
    "_ratio": "shape such as `16:9`",
    "_resolution": "resolution such as `720p`",
    "_shares": "name, or list of `{ name, weight }`",
}
# These only shape what is given before others look at it.
SHAPING: Final = frozenset({"_unset", "_flat_paths", "_ascending", "_some"})

HEAD: Final = f"""\
# Configuration

Every key of `config.toml`: what it means, what it accepts, its default. This page is made by
`{COMMAND}`; a test compares the two.

- `reelway check --config config.toml` reports every mistake as `path:line: key: message`;
  `reelway config show --origin` prints what is in force and where each value came from.
- In an emergency a mistake elsewhere in the file stops no command. `token`, `owner`, `task`,
  `webhook`, `credential`, `ledger` and `usage` need `[redis]` and `server.state_dir` only
  (`token create` and `token rotate` also `server.secrets`). They warn on standard error about
  every mistake they passed over, also when a provider's variable is missing in this shell.
- `${{NAME}}` inside any string is the environment variable `NAME`, as it was when the process
  started; unset or empty is a mistake. `$${{` is a literal `${{`.
- Unknown keys are mistakes. A missing key has its default; a missing file has all of them.
- *Reload*: "at once" takes effect with `kill -HUP`, "restart" waits until the gateway starts again
  ([Upgrade and reload](upgrade.md#reload)).
"""


MODELS: Final = (
    "What models render: rows that add to or correct the built-in catalogue",
    "([Models](models.md)). What a row does not say is as the built-in one has it, else unknown",
    "and passed on as asked.",
    "",
)


@dataclass(frozen=True, slots=True)
class Group:
    """Keys that stand together under one comment."""

    comment: str
    keys: tuple[str, ...]


# ---------------------------------------------------------------- the words of config.toml


def groups_of(text: str) -> Mapping[str, tuple[str, list[Group]]]:
    """By section: what stands above its heading, and its keys in groups."""
    sections: dict[str, tuple[str, list[Group]]] = {}
    groups: list[Group] = []
    comment: list[str] = []
    for line in text.splitlines():
        if line.startswith("# -----"):
            break
        heading = re.fullmatch(r"\[(\w+)\]", line)
        key = re.match(r"(\w+) = ", line)
        if line.startswith("# "):
            comment.append(line[2:].strip())
        elif heading:
            groups = []
            sections[heading[1]] = (" ".join(comment), groups)
            comment = []
        elif key and comment:
            groups.append(Group(" ".join(comment), (key[1],)))
            comment = []
        elif key:
            groups[-1] = Group(groups[-1].comment, (*groups[-1].keys, key[1]))
        elif not line:
            comment = []
    return sections


def guides_of(text: str) -> Mapping[str, Mapping[str, str]]:
    """By `upstreams` and `routes`: what the guide above their examples says of each key."""
    guides: dict[str, dict[str, str]] = {}
    key = ""
    for line in text.splitlines():
        heading = re.fullmatch(r"# -+ (\w+)", line)
        entry = re.match(r"#   (\w+)(?: = \S+)? {2,}(.*)", line)
        if heading:
            guide, key = guides.setdefault(heading[1], {}), ""
        elif entry and guides:
            key = entry[1]
            guide[key] = entry[2].strip()
        elif line.startswith("#     ") and key:
            guide[key] += " " + line[1:].strip()
        else:
            key = ""
    return guides


# ---------------------------------------------------------------- what a key accepts


def accepted(hint: Any) -> str:
    """In words, what a value of this annotated type may be."""
    if get_origin(hint) is Annotated:
        return _annotated(hint)
    if get_origin(hint) in (Union, types.UnionType):
        [inner] = [item for item in get_args(hint) if item is not type(None)]
        return accepted(inner)
    if get_origin(hint) is Literal:
        *first, last = [f"`{word}`" for word in get_args(hint)]
        return f"{', '.join(first)} or {last}"
    if get_origin(hint) is tuple:
        return f"list of: {accepted(get_args(hint)[0])}"
    if isinstance(hint, type) and issubclass(hint, BaseModel):
        return "{ " + ", ".join(hint.model_fields) + " }"
    plain = {bool: "true or false", int: "whole number", float: "number", str: "text", Path: "path"}
    plain[date] = "date such as `2026-11-30`"
    return plain.get(hint, "table")


def _annotated(hint: Any) -> str:
    base, *marks = get_args(hint)
    validators = [mark for mark in marks if isinstance(mark, AfterValidator | BeforeValidator)]
    names = [validator.func.__name__ for validator in validators]
    unknown = [name for name in names if name not in ACCEPTS and name not in SHAPING]
    if unknown:
        raise LookupError(f"say in ACCEPTS what {unknown[0]} accepts")
    words = next((ACCEPTS[name] for name in names if name in ACCEPTS), None)
    if words is None:
        words = accepted(base) + _bounds(marks)
    return words + (', or `""`' if "_unset" in names else "")


def _bounds(marks: Sequence[object]) -> str:
    words = ""
    for mark in marks:
        if isinstance(mark, Ge):
            words += f", {mark.ge} or more"
        elif isinstance(mark, Le):
            words += f", {mark.le} at most"
        elif isinstance(mark, Gt):
            words += f" above {mark.gt}"
        elif isinstance(mark, MinLen):
            words += ", not empty"
    return words


def hints_of(table: type[BaseModel]) -> Mapping[str, Any]:
    return {
        table.model_fields[name].alias or name: hint
        for name, hint in get_type_hints(table, include_extras=True).items()
        if name in table.model_fields
    }


# ---------------------------------------------------------------- defaults


def spelled(name: str, value: object) -> str:
    """A default as it would be written in the file."""
    if value is None:
        return '""'
    if isinstance(value, Mapping):
        inner = ", ".join(f"{key} = {spelled(name, item)}" for key, item in value.items())
        return f"{{ {inner} }}" if inner else "{}"
    if isinstance(value, tuple):
        return json.dumps(list(value))
    return json.dumps(str(value) if isinstance(value, Path) else value)


def default_of(name: str, info: FieldInfo) -> str | None:
    """None: the key is required."""
    if info.is_required():
        return None
    value = info.get_default(call_default_factory=True, validated_data={})
    return None if value is None else spelled(name, value)


def in_plain_units(name: str, value: object) -> str:
    if isinstance(value, int) and name.endswith("_bytes") and value >= 1024 * 1024:
        return f" ({value / 1024**2:g} MiB)"
    return ""


# ---------------------------------------------------------------- when it takes effect


def read_at_start() -> frozenset[str]:
    """Dotted keys outside the sections of `WAIT` that a worker takes while it starts and does not
    look at again: `config.timeouts.connect_s` in `build`, where `config` is a local."""
    found = re.findall(r"(?<![.\w])config\.(\w+)\.(\w+)", WIRING.read_text(encoding="utf-8"))
    return frozenset(
        f"{section}.{key}" for section, key in found if section in SECTIONS and section not in WAIT
    )


# ---------------------------------------------------------------- the page


def row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def section_of(name: str, table: type[Table], said: tuple[str, list[Group]]) -> Iterator[str]:
    intro, groups = said
    hints = hints_of(table)
    later: list[str] = []
    yield f"## [{name}]"
    yield ""
    if intro:
        yield intro
        yield ""
    yield row("key = default", "meaning", "accepts", "reload")
    yield row("---", "---", "---", "---")
    for group in groups:
        keys, accepts, when = [], [], []
        for key in group.keys:
            info = table.model_fields[key]
            value = info.get_default(call_default_factory=True, validated_data={})
            text = spelled(key, value)
            if len(text) > LONGEST_DEFAULT and isinstance(value, tuple):
                names = ", ".join(f"`{item}`" for item in value)
                later.append(f"Default of `{key}`: {names}.")
                keys.append(f"`{key}`, see below")
            else:
                keys.append(f"`{key} = {text}`{in_plain_units(key, value)}")
            accepts.append(accepted(hints[key]))
            is_late = name in WAIT or key in WAIT_KEYS.get(name, ())
            when.append("restart" if is_late else "at once")
        yield row(
            "<br>".join(keys),
            group.comment,
            "<br>".join(dict.fromkeys(accepts)),
            when[0] if len(set(when)) == 1 else "<br>".join(when),
        )
    yield ""
    for text in later:
        yield text
        yield ""


def entry_of(table: type[BaseModel], guide: Mapping[str, str] | None) -> Iterator[str]:
    """The keys of one entry of `[[upstreams]]` or `[[routes]]`, or of a table inside one, whose
    meanings stand with the key that holds it (`guide` None)."""
    hints = hints_of(table)
    more = [] if guide is None else ["meaning"]
    yield row("key", "default", *more, "accepts")
    yield row(*["---"] * (3 + len(more)))
    for key, info in fields_of(table).items():
        default = default_of(key, info)
        unset = "required" if info.is_required() else "none"
        meaning = [] if guide is None else [guide[key]]
        shown = unset if default is None else f"`{default}`"
        yield row(f"`{key}`", shown, *meaning, accepted(hints[key]))
    yield ""


def provider_lines() -> Iterator[str]:
    yield row("provider", "keys of a credential", "`options`")
    yield row("---", "---", "---")
    for provider in PROVIDERS.values():
        keys = ", or ".join(
            " and ".join(f"`{key}`" for key in sorted(names)) for names in provider.credentials
        )
        options = ", ".join(f"`{name}`" for name in fields_of(provider.options)) or "none"
        yield row(f"`{provider.name}`", keys, options)
    yield ""
    for provider in PROVIDERS.values():
        if not provider.options.model_fields:
            continue
        yield f"Options of `{provider.name}`:"
        yield ""
        yield from entry_of(provider.options, None)
        yield from paragraphs(inspect.cleandoc(provider.options.__doc__ or "").splitlines()[2:])


def paragraphs(lines: Sequence[str]) -> Iterator[str]:
    yield from lines
    yield ""


def page() -> str:
    text = (ROOT / "config.toml").read_text(encoding="utf-8")
    said, guides = groups_of(text), guides_of(text)
    lines = [HEAD]
    for name, table in SECTIONS.items():
        lines += section_of(name, table, said[name])
    lines += ["## [[upstreams]]", "", "One account at a provider.", ""]
    lines += entry_of(UpstreamTable, guides["upstreams"])
    lines += ["A credential, `{ name = …, api_key = … }`:", ""]
    lines += entry_of(CredentialTable, None)
    lines += provider_lines()
    lines += ["## [[routes]]", "", "Read from above: the first that matches is taken.", ""]
    lines += entry_of(RouteTable, guides["routes"])
    lines += ["An upstream's share of a route, `{ name = …, weight = … }`:", ""]
    lines += entry_of(ShareTable, None)
    lines += ["### Prices", ""]
    lines += paragraphs(inspect.cleandoc(pricing.__doc__ or "").splitlines()[2:])
    lines += ["## [[models]]", "", *MODELS]
    lines += entry_of(ModelRow, guides["models"])
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    sys.stdout.write(page())

"""The text of a configuration file: where each key stands, what its `${NAME}`s stand for,
and what was found wrong with it.

`${NAME}` in any string value is replaced by that environment variable; `$${` stands for a
literal `${`; any other `$` is itself. Values are expanded once: what a variable holds is
not looked into.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, TypeVar, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from proxy.config.toml_lines import BARE_KEY, Loc, key_lines, only_tables

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong in a configuration; prints as `path:line: key: message`."""

    path: str
    line: int
    key: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.key}: {self.message}"


class ConfigErrors(Exception):
    """Everything wrong with a configuration, in the order of the file; one line each."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(map(str, self.problems)))


@dataclass(frozen=True, slots=True)
class ConfigSource:
    """A file's values, expanded, with the place each came from.

    `names` has the environment variables a value was made from; `problems` what could not
    be expanded, by place.
    """

    label: str
    data: Mapping[str, object]
    lines: Mapping[Loc, int]
    names: Mapping[Loc, tuple[str, ...]]
    problems: Mapping[Loc, str]

    def line(self, loc: Loc) -> int:
        """The line of this key or, when it is not in the file, of what it belongs to."""
        while loc and loc not in self.lines:
            loc = loc[:-1]
        return self.lines.get(loc, 1)

    def origin(self, loc: Loc) -> str:
        """`env NAME`, `file:line` or `default`."""
        names = [n for at, found in self.names.items() if at[: len(loc)] == loc for n in found]
        if names:
            return "env " + ", ".join(dict.fromkeys(names))
        return f"{self.label}:{self.lines[loc]}" if loc in self.lines else "default"


EMPTY: Final = ConfigSource("(no file)", MappingProxyType({}), {}, {}, {})


_T = TypeVar("_T", bound=BaseModel)


class Problems:
    """Collects what is wrong with a source. The first thing said about a place stands: what
    follows from it (a secret too short because its variable is unset) would only confuse."""

    __slots__ = ("_found", "source")

    def __init__(self, source: ConfigSource) -> None:
        self.source = source
        self._found: dict[Loc, str] = dict(source.problems)

    def add(self, loc: Loc, message: str) -> None:
        self._found.setdefault(loc, message)

    def has(self, loc: Loc) -> bool:
        """True when something was said about this place or a place inside it."""
        return any(at[: len(loc)] == loc for at in self._found)

    def table(self, table: type[_T], values: object, loc: Loc) -> _T | None:
        """The table read from these values, or None when something in it is wrong."""
        try:
            return table.model_validate(values)
        except ValidationError as exc:
            for error in exc.errors(include_url=False):
                at = tuple(part for part in error["loc"] if part != "[key]")
                self.add((*loc, *at), message_of(error, table))
            return None

    def settle(self, needs: Sequence[Loc] | None = None) -> tuple[Problem, ...]:
        """Raise `ConfigErrors` with every problem. With `needs` only a problem that concerns one
        of these places raises; the others are returned, in the order of the file."""
        source = self.source
        found = {
            loc: Problem(source.label, source.line(loc), dotted(loc), message)
            for loc, message in self._found.items()
        }
        grave = [at for loc, at in found.items() if needs is None or concerns(loc, needs)]
        if grave:
            raise ConfigErrors(sorted(grave, key=lambda problem: problem.line))
        return tuple(sorted(found.values(), key=lambda problem: problem.line))


def concerns(loc: Loc, needs: Sequence[Loc]) -> bool:
    """Whether a problem at `loc` touches a needed place: the place itself, a place inside it or
    around it, or a name so close to it that it may be meant (`[reddis]`)."""
    for need in needs:
        pairs = zip(loc, need, strict=False)
        if all(have == want or _is_near(have, want) for have, want in pairs):
            return True
    return False


def _is_near(have: str | int, want: str | int) -> bool:
    return bool(get_close_matches(str(have), [str(want)], n=1, cutoff=0.75))


def text_of(path: Path) -> str:
    """A file's text; `ConfigErrors` when there is none."""
    label = str(path)
    try:
        return path.read_bytes().decode("utf-8")
    except OSError as exc:
        reason = exc.strerror or str(exc)
        raise ConfigErrors([Problem(label, 1, "file", f"cannot be read: {reason}")]) from exc
    except UnicodeDecodeError as exc:
        line = exc.object[: exc.start].count(b"\n") + 1
        raise ConfigErrors([Problem(label, line, "file", "is not UTF-8")]) from exc


def parse(
    text: str, label: str, env: Mapping[str, str], needs: Sequence[Loc] | None = None
) -> ConfigSource:
    """Expand a file's text; `ConfigErrors` when it is not TOML.

    With `needs` a mistake outside the tables of these places is noted under `syntax`, and only
    these tables are read.
    """
    text = text.replace("\r\n", "\n")
    syntax: dict[Loc, str] = {}
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        problem = _syntax_problem(str(exc), text, label)
        if needs is None:
            raise ConfigErrors([problem]) from exc
        text = only_tables(text, {str(need[0]) for need in needs})
        try:
            data = tomllib.loads(text)
        except tomllib.TOMLDecodeError:
            raise ConfigErrors([problem]) from exc
        syntax["syntax",] = f"line {problem.line}: {problem.message}"
    expansion = _Expansion(env)
    expansion.problems |= syntax
    expanded = {key: expansion.walk(value, (key,)) for key, value in data.items()}
    return ConfigSource(label, expanded, key_lines(text), expansion.names, expansion.problems)


def _syntax_problem(message: str, text: str, label: str) -> Problem:
    """tomllib tells the line only inside its message (Python 3.11 to 3.13)."""
    said, _, where = message.partition(" (at ")
    number = re.match(r"line (\d+)", where)
    line = int(number[1]) if number else max(1, len(text.splitlines()))
    return Problem(label, line, "syntax", f"not TOML: {said}")


# ---------------------------------------------------------------- what pydantic says, in our words

_KINDS: Final[Mapping[str, str]] = {
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "string_type": "must be a string",
    "path_type": "must be a path",
    "list_type": "must be a list",
    "tuple_type": "must be a list",
    "dict_type": "must be a table",
    "mapping_type": "must be a table",
    "model_type": "must be a table",
    "greater_than": "must be more than {gt:g}",
    "greater_than_equal": "must be at least {ge:g}",
    "less_than": "must be less than {lt:g}",
    "less_than_equal": "must be at most {le:g}",
}


def message_of(error: ErrorDetails, table: type[BaseModel]) -> str:
    kind, at = error["type"], error["loc"]
    context = error.get("ctx", {})
    if kind == "missing":
        return "is required"
    if kind == "extra_forbidden":
        return f"unknown key{did_you_mean(str(at[-1]), _accepted_keys(table, at[:-1]))}"
    if kind in ("literal_error", "enum"):
        accepted = re.findall(r"'([^']*)'", str(context["expected"]))
        said = "unknown key" if at[-1] == "[key]" else f"'{error['input']}' is not accepted"
        return said + did_you_mean(str(error["input"]), accepted)
    if kind in ("too_short", "string_too_short"):
        return "must not be empty"
    if kind == "value_error":
        return str(context["error"])
    if kind in _KINDS:
        return f"{_KINDS[kind].format(**context)}, not {say(error['input'])}"
    return error["msg"]  # only a provider's own options have other rules


def _accepted_keys(table: type[BaseModel], at: tuple[int | str, ...]) -> list[str]:
    """The keys of the table found by walking `at` down from this one."""
    for part in at:
        if isinstance(part, int):
            continue
        info = fields_of(table).get(part)
        if info is None:  # pydantic's own label for a branch of a union
            return []
        inner = _table_in(info.annotation)
        if inner is None:
            return []
        table = inner
    return list(fields_of(table))


def fields_of(table: type[BaseModel]) -> Mapping[str, FieldInfo]:
    """The fields of a table under the keys of the file: `pass` is no name in Python."""
    return {info.alias or name: info for name, info in table.model_fields.items()}


def _table_in(annotation: object) -> type[BaseModel] | None:
    """The table of a field that holds one, a list of such, or perhaps none."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _table_in(part))), None)


def say(value: object) -> str:
    """A value inside a message. A string's text is left out: it may be a misplaced secret."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return str(value)
    for kind, name in ((str, "a string"), (list, "a list"), (dict, "a table")):
        if isinstance(value, kind):
            return name
    return f"a {type(value).__name__}"


# ---------------------------------------------------------------- names of places


def dotted(loc: Loc) -> str:
    """A place as TOML would write it: `upstreams[0].headers."x.y"`."""
    text = ""
    for part in loc:
        if isinstance(part, int):
            text += f"[{part}]"
            continue
        quoted = part.replace("\\", "\\\\").replace('"', '\\"')
        text += ("." if text else "") + (part if BARE_KEY.fullmatch(part) else f'"{quoted}"')
    return text


def did_you_mean(name: str, accepted: Iterable[str]) -> str:
    """`; did you mean 'x'?` when something accepted is near, and the whole list anyway."""
    names = list(accepted)
    if not names:
        return ""
    near = get_close_matches(name, names, n=1)
    hint = f"; did you mean '{near[0]}'?" if near else ";"
    return f"{hint} accepted: {', '.join(names)}"


# ---------------------------------------------------------------- ${NAME}

_REFERENCE: Final = re.compile(r"\$\$\{|\$\{([^}]*)(\}?)")
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class _Expansion:
    """One walk over a parsed file, noting which variables went where."""

    def __init__(self, env: Mapping[str, str]) -> None:
        self._env = env
        self.names: dict[Loc, tuple[str, ...]] = {}
        self.problems: dict[Loc, str] = {}

    def walk(self, value: object, loc: Loc) -> object:
        if isinstance(value, str):
            return self._text(value, loc) if "${" in value else value
        if isinstance(value, list):
            return [self.walk(inner, (*loc, n)) for n, inner in enumerate(value)]
        if isinstance(value, dict):
            return {key: self.walk(inner, (*loc, key)) for key, inner in value.items()}
        return value

    def _text(self, value: str, loc: Loc) -> str:
        names: list[str] = []

        def replaced(found: re.Match[str]) -> str:
            if found[0] == "$${":
                return "${"
            name = found[1]
            if not found[2] or not _NAME.fullmatch(name):
                self.problems.setdefault(
                    loc, "'${' must begin a ${NAME}; a literal '${' is written '$${'"
                )
            elif not self._env.get(name):
                state = "empty" if name in self._env else "not set"
                self.problems.setdefault(loc, f"the environment variable {name} is {state}")
            else:
                names.append(name)
                return self._env[name]
            return found[0]

        text = _REFERENCE.sub(replaced, value)
        if names:
            self.names[loc] = tuple(names)
        return text

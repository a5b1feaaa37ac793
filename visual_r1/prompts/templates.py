"""Templates of prompts: text files that a user can copy and edit.

    [system]
    You solve geometry problems.

    [user]
    {{ problem }}
    Think inside <think> </think>. Then give only the answer inside <answer> </answer>.

    [assistant]
    <think>

`[user]` must be there; `[system]` and `[assistant]` (the words put into the model's mouth) may be.
Each section is a Jinja template that knows `problem` (the text with `<image>` where each image
stands), `question` (the text alone) and `scan` (a description of the figure). A `<image>` in the
template itself is a place for an image too.

Which tags the format reward asks for follows from the template: those of `<scan>`, `<think>` and
`<answer>` that it names, in this order. A section `[format]` with the tags' names in another order,
or with others, overrides that:

    [format]
    plan think answer
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import jinja2
from jinja2 import meta, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

from visual_r1.errors import ConfigError
from visual_r1.opening import read_file

TEMPLATES_DIR = Path(__file__).parent / "templates"
SECTIONS = ("system", "user", "assistant", "format")
TAGS = ("scan", "think", "answer")
VARIABLES = ("problem", "question", "scan")

_HEADING = re.compile(r"\[([^\]\s]*)\]\s*")
_TAG = re.compile(r"[A-Za-z][\w-]*")
_JINJA = ImmutableSandboxedEnvironment(undefined=jinja2.StrictUndefined, autoescape=False)


@dataclass(frozen=True, slots=True)
class Template:
    """A loaded template: Jinja sources by section, stripped; see `load_template`.

    `tags` are those that a response has to have, in their order.
    """

    path: Path
    sections: Mapping[str, jinja2.Template]
    uses_scan: bool
    tags: tuple[str, ...]

    def render(self, section: str, variables: Mapping[str, str]) -> str:
        """The text of a section, stripped; empty where the template does not have it.

        Raises `ConfigError` where the template's own expressions fail.
        """
        if section not in self.sections:
            return ""
        try:
            return self.sections[section].render(variables).strip()
        except (jinja2.TemplateError, ArithmeticError, TypeError, ValueError) as error:
            raise ConfigError(
                f"section [{section}] of the prompt template {self.path} cannot be filled in: "
                f"{error}; it may use {', '.join(VARIABLES)}."
            ) from error


def load_template(name: str) -> Template:
    """A shipped template by its name, or a user's file by its path.

    Raises `ConfigError` naming the file and line of an unknown section or variable, or of a Jinja
    mistake; and the shipped names where there is no such template.
    """
    path = _find(name)
    try:
        text = read_file(path).decode("utf-8")
    except OSError as error:
        raise ConfigError(f"the prompt template {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"the prompt template {path} cannot be read as text: {error}") from error
    sources = _split(path, text)
    if "user" not in sources:
        raise ConfigError(f"the prompt template {path} has no [user] section; add one.")
    tags = _tags(path, sources)
    used: set[str] = set()
    sections: dict[str, jinja2.Template] = {}
    for section, (start, source) in sources.items():
        used |= _check(path, start, source)
        sections[section] = _JINJA.from_string(source)
    return Template(path, sections, "scan" in used, tags)


def own_template(name: str) -> Path | None:
    """The file of a user's own template; None for one that ships. Raises as `load_template`."""
    path = _find(name)
    return None if path.parent == TEMPLATES_DIR else path


def _find(name: str) -> Path:
    shipped = {path.stem: path for path in sorted(TEMPLATES_DIR.glob("*.txt"))}
    if name in shipped:
        return shipped[name]
    path = Path(name).expanduser()
    if path.exists():
        return path
    raise ConfigError(
        f"there is no prompt template {name!r} (--prompt.template): give the path of a file, or "
        f"one of {', '.join(shipped)}."
    )


def _split(path: Path, text: str) -> dict[str, tuple[int, str]]:
    """Sections by name: the line their text starts at, and the text."""
    sections: dict[str, tuple[int, list[str]]] = {}
    current: list[str] | None = None
    for number, line in enumerate(text.splitlines(), start=1):
        heading = _HEADING.fullmatch(line)
        if heading is not None:
            name = heading[1]
            if name not in SECTIONS or name in sections:
                problem = "a second time" if name in sections else "which is not known"
                raise ConfigError(
                    f"{path}, line {number}: section [{name}] {problem}; a prompt template has "
                    f"{', '.join(f'[{s}]' for s in SECTIONS)}, each once."
                )
            current = []
            sections[name] = (number + 1, current)
        elif current is not None:
            current.append(line)
        elif line.strip():
            raise ConfigError(
                f"{path}, line {number}: text before the first section; "
                "start with [system] or [user]."
            )
    return {name: (start, "\n".join(lines)) for name, (start, lines) in sections.items()}


def _tags(path: Path, sources: dict[str, tuple[int, str]]) -> tuple[str, ...]:
    """The tags of a response, declared in `[format]` (which is taken out) or named elsewhere."""
    start, declared = sources.pop("format", (0, ""))
    if declared.strip():
        tags = tuple(declared.split())
        for tag in tags:
            if not _TAG.fullmatch(tag) or tags.count(tag) > 1:
                raise ConfigError(
                    f"{path}, line {start}: {tag!r} is no tag that can be asked for once; "
                    "[format] holds names such as: scan think answer."
                )
        return tags
    text = "".join(source for _, source in sources.values())
    # A thought that the template writes itself, to its end, is no part of the response.
    _, prefill = sources.get("assistant", (0, ""))
    named = [tag for tag in TAGS if f"<{tag}>" in text and f"</{tag}>" not in prefill]
    return tuple(named) or ("think", "answer")


def _check(path: Path, start: int, source: str) -> set[str]:
    """The variables that `source` uses, all of them known."""
    try:
        tree = _JINJA.parse(source)
    except jinja2.TemplateSyntaxError as error:
        raise ConfigError(f"{path}, line {start + error.lineno - 1}: {error.message}") from error
    used = meta.find_undeclared_variables(tree)
    for name in sorted(used - set(VARIABLES)):
        line = min((n.lineno for n in tree.find_all(nodes.Name) if n.name == name), default=1)
        raise ConfigError(
            f"{path}, line {start + line - 1}: there is no variable {name!r}; a prompt template "
            f"may use {', '.join(VARIABLES)}."
        )
    return used

"""Writes what the documents say of the command line and of the contracts, from the code itself.

python docs/make_reference.py            # writes docs/cli.md and docs/contracts.md
python docs/make_reference.py --check    # says which of them is not what the code is; ends with 1 then
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import inspect
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from i2i import contracts, hookspecs
from i2i.cli.app import LazyCommand, build
from i2i.errors import UsageError

HERE = Path(__file__).parent


# --------------------------------------------------------------------------------------------------------- the command line


def _commands(group: Any, words: str) -> Iterator[tuple[str, Any]]:
    """Every command below a group, by the words that start it."""
    for name in group.list_commands(None):
        found = group.get_command(None, name)
        if isinstance(found, typer.core.TyperGroup):
            yield from _commands(found, f"{words} {name}")
            continue
        with contextlib.suppress(UsageError):  # a task that cannot be trained, or judged
            yield f"{words} {name}", found._make() if isinstance(found, LazyCommand) else found


def _plain(text: str) -> str:
    """Help as Markdown in a table shows it: rich's escapes undone, Markdown's own made."""
    return re.sub(r"\\(\[)", r"\1", text or "").replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")


def _default(option: Any) -> str:
    shown = option.show_default and option.default not in (None, "", False, [], ())
    if not shown or callable(option.default):
        return ""
    names = option.opts if option.default is True else []
    return f" (default: {names[0].lstrip('-') if names else option.default})"


def _row(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        name = f"`{parameter.metavar or parameter.name.upper()}`"
        return f"| {name} | {_plain(parameter.help)} |"
    names = ", ".join(f"`{flag}`" for flag in [*parameter.opts, *parameter.secondary_opts])
    value = "" if parameter.is_flag else f" `{parameter.metavar or 'TEXT'}`".replace("|", "\\|")
    return f"| {names}{value} | {_plain(parameter.help)}{_plain(_default(parameter))} |"


def _section(words: str, command: Any) -> Iterator[str]:
    yield f"\n## {words}\n"
    yield _plain(command.help).strip() + ".\n" if command.help else ""
    panels: dict[str, list[str]] = {}
    for parameter in command.params:
        if parameter.name != "help":
            panels.setdefault(getattr(parameter, "rich_help_panel", None) or "Arguments", []).append(_row(parameter))
    for panel, rows in panels.items():
        yield f"| {panel} | |\n|---|---|\n" + "\n".join(rows) + "\n"


def command_line() -> str:
    """All commands with all their options. Those of plugins of others are left out: the documents are of i2i."""
    os.environ["I2I_DISABLE_PLUGINS"] = "1"
    head = "# The command line\n\nMade from the code by `docs/make_reference.py`; `i2i COMMAND --help` shows the same.\n"
    return head + "\n".join(line for words, found in _commands(build(), "i2i") for line in _section(words, found))


# ------------------------------------------------------------------------------------------------------------- the contracts


def _text(thing: Any) -> str:
    """A docstring, its roles as plain code."""
    found = inspect.cleandoc(thing.__doc__ or "")
    found = re.sub(r":\w+:`~?([\w.]+)`", r"`\1`", found)
    return found.replace("``", "`")


def _signature(function: Any) -> str:
    return f"{function.__name__}{inspect.signature(function)}".replace("'", "")


def _class(name: str, kind: Any) -> Iterator[str]:
    yield f"\n### {name}\n"
    if dataclasses.is_dataclass(kind):
        lines = [f"    {item.name}: {_written(item.type)}{_field_default(item)}" for item in dataclasses.fields(kind)]
        yield "```python\n@dataclass(frozen=True)\nclass " + name + ":\n" + "\n".join(lines) + "\n```\n"
        yield _text(kind) + "\n"
        return
    own = [
        item for key, item in vars(kind).items() if inspect.isfunction(item) and (not key.startswith("_") or key == "__call__")
    ]
    attributes = {key: text for key, text in inspect.get_annotations(kind).items() if not key.startswith("_")}
    lines = [f"    {key}: {_written(text)}{_value(kind, key)}" for key, text in attributes.items()]
    lines += [f"    def {_signature(item)}" for item in own]
    bases = ", ".join(base.__name__ for base in kind.__bases__ if base is not object)
    yield f"```python\nclass {name}{f'({bases})' if bases else ''}:\n" + "\n".join(lines or ["    ..."]) + "\n```\n"
    yield _text(kind) + "\n"
    for item in own:
        if item.__doc__:
            yield f"- `{item.__name__}`: {' '.join(_text(item).split())}"
    yield ""


def _field_default(item: dataclasses.Field[Any]) -> str:
    if item.default is not dataclasses.MISSING:
        return " = ..." if inspect.isfunction(item.default) else f" = {_written(repr(item.default))}"
    return f" = {item.default_factory.__name__}()" if item.default_factory is not dataclasses.MISSING else ""


def _value(kind: Any, key: str) -> str:
    value = vars(kind).get(key, dataclasses.MISSING)
    plain = isinstance(value, bool | int | float | str | tuple | type(None))
    return f" = {_written(repr(value))}" if plain else ""


def _written(code: object) -> str:
    """As a formatter of Python writes it."""
    return str(code).replace("'", '"')


def contract() -> str:
    """The hooks and the values and classes that they exchange with the engine, with their exact arguments."""
    parts = ["# Hooks and contracts\n\nMade from the code by `docs/make_reference.py`. `docs/plugins.md` says how to begin.\n"]
    parts.append(f"`I2I_API = {contracts.I2I_API}`: {' '.join(_text(hookspecs).split('::')[0].split())}\n\n## Hooks\n")
    hooks = [item for key, item in vars(hookspecs).items() if key.startswith("i2i_") and inspect.isfunction(item)]
    parts += [f"- `{_signature(hook)}`: {' '.join(_text(hook).split())}" for hook in hooks]
    parts.append("\n## Values and classes, from `i2i.contracts`")
    for name in contracts.__all__:
        kind = getattr(contracts, name)
        if inspect.isclass(kind):
            parts += _class(name, kind)
        elif inspect.isfunction(kind):
            parts.append(f"\n### {name}\n\n`{_signature(kind)}`: {' '.join(_text(kind).split())}\n")
    return re.sub(r"\n{3,}", "\n\n", "\n".join(parts)).rstrip() + "\n"


MADE = {"cli.md": command_line, "contracts.md": contract}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing")
    check = parser.parse_args().check
    wrong = [name for name, make in MADE.items() if not (HERE / name).exists() or (HERE / name).read_text("utf-8") != make()]
    for name in wrong:
        if check:
            print(f"docs/{name}: not what the code is; run python docs/make_reference.py", file=sys.stderr)
        else:
            (HERE / name).write_text(MADE[name](), "utf-8")
            print(f"docs/{name}")
    return 1 if check and wrong else 0


if __name__ == "__main__":
    sys.exit(main())

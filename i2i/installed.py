"""Which plugins are installed, without importing any: the standard library only, for the help must be quick.

Entry points of the group ``i2i``: one for each task, whose name is the command. Of the group ``i2i.extensions``: modules that
give only models, formats or exporters.
"""

from __future__ import annotations

import ast
import importlib.machinery
import importlib.util
import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

TASKS = "i2i"
EXTENSIONS = "i2i.extensions"
RESERVED = ("completion", "demo", "doctor", "eval", "info", "models", "plugins", "train")
"""The commands of i2i itself: no task can have one of these names."""
_OWN = "i2i-engine"


@dataclass(frozen=True)
class BrokenPlugin:
    """A plugin that cannot be used, and why, in one line."""

    name: str
    distribution: str
    reason: str


def distribution(entry: EntryPoint) -> str:
    return (entry.dist and entry.dist.name) or "unknown"


def _disabled() -> Callable[[EntryPoint], bool]:
    """``I2I_DISABLE_PLUGINS``: ``1`` or ``all`` disables those of other distributions; names of plugins of other distributions,
    or of any distribution, separated by commas, disable those."""
    setting = os.environ.get("I2I_DISABLE_PLUGINS", "")
    names = {name.strip() for name in setting.split(",")}

    def disabled(entry: EntryPoint) -> bool:
        owner = distribution(entry)
        return owner in names or (owner != _OWN and not names.isdisjoint({"1", "all", entry.name}))

    return disabled


def found(group: str) -> list[EntryPoint]:
    """The entry points of a group, i2i's own first, without those disabled."""
    disabled = _disabled()
    entries = sorted(entry_points(group=group), key=lambda e: (distribution(e) != _OWN, distribution(e), e.name))
    return [entry for entry in entries if not disabled(entry)]


def task_entries() -> tuple[dict[str, EntryPoint], list[BrokenPlugin]]:
    """The entry point of each task's command, and those whose name another has taken."""
    chosen: dict[str, EntryPoint] = {}
    refused = []
    for entry in found(TASKS):
        if entry.name in RESERVED:
            refused.append(BrokenPlugin(entry.name, distribution(entry), f"the command {entry.name!r} is one of i2i itself"))
        elif entry.name in chosen:
            owner = distribution(chosen[entry.name])
            reason = f"the command {entry.name!r} is taken by {owner}; uninstall one of the two"
            refused.append(BrokenPlugin(entry.name, distribution(entry), reason))
        else:
            chosen[entry.name] = entry
    return chosen, refused


@dataclass(frozen=True)
class Command:
    """A task's command as the help lists it, without its plugin being imported."""

    name: str
    distribution: str
    summary: str


def _summary(entry: EntryPoint) -> str:
    """The first line of the module's docstring, read from its source; the distribution's name where there is none."""
    try:
        path = _source_path(entry.module)
        text = ast.get_docstring(ast.parse(path.read_text("utf-8"))) if path else None
    except (OSError, SyntaxError, ImportError, ValueError, AttributeError, RecursionError):  # AttributeError: no module's name
        text = None
    return text.splitlines()[0].rstrip(".") if text else f"from {distribution(entry)}"


def _source_path(module: str) -> Path | None:
    """Where a module's source lies; none of its packages is imported."""
    first, *rest = module.split(".")
    spec = importlib.util.find_spec(first)
    for depth in range(len(rest)):
        name = ".".join([first, *rest[: depth + 1]])
        spec = spec and importlib.machinery.PathFinder.find_spec(name, spec.submodule_search_locations)
    return Path(spec.origin) if spec and spec.origin and spec.origin.endswith(".py") else None


def commands() -> list[Command]:
    """Every task's command, by name."""
    chosen, _ = task_entries()
    return [Command(name, distribution(entry), _summary(entry)) for name, entry in sorted(chosen.items())]

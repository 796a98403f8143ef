"""The plugins, loaded: each is imported and called on its own, and one that fails in any way becomes a
:class:`~i2i.installed.BrokenPlugin` while the others go on.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import traceback
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cached_property
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pluggy

from i2i import hookspecs, installed
from i2i.contracts import I2I_API, Exporter, Format, ModelCard, Task
from i2i.errors import PluginError, UsageError
from i2i.exporters import builtin_exporters
from i2i.formats import builtin_formats
from i2i.installed import BrokenPlugin
from i2i.options import RunOptions, flag_of

_KINDS: Mapping[str, type] = {"tasks": Task, "models": ModelCard, "formats": Format, "exporters": Exporter}
_OWN_NAMES = {item.name for item in fields(RunOptions)} | {
    "inputs", "inputs_from", "output", "json_", "config", "quiet", "verbose",
}  # fmt: skip
_OWN_FLAGS = {flag_of(item) for item in fields(RunOptions)} | {
    "--inputs-from", "--output", "--json", "--config", "--quiet", "--verbose", "--help",
}  # fmt: skip


_NOT_ITS_OWN = ("<frozen ", *(str(Path(str(module.__file__)).parent) + os.sep for module in (hookspecs, importlib, pluggy)))
"""How the names of files begin that are in each traceback of a plugin."""


@dataclass(frozen=True)
class Plugin:
    """A plugin that was loaded, and all that it gives."""

    name: str
    distribution: str
    tasks: tuple[Task, ...] = ()
    models: tuple[ModelCard, ...] = ()
    formats: tuple[Format, ...] = ()
    exporters: tuple[Exporter, ...] = ()


def load_plugin(entry: EntryPoint) -> Plugin | BrokenPlugin:
    """Import a plugin's module and call its hooks, apart from all others. Whatever it raises becomes the reason, and what
    it prints goes to stderr: stdout is for results."""
    try:
        with contextlib.redirect_stdout(sys.stderr):
            return _load(entry)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a plugin may raise anything (SystemExit, a panic of Rust code), and must stop nothing
        return BrokenPlugin(entry.name, installed.distribution(entry), _reason(error))


def _reason(error: BaseException) -> str:
    """One line: what was raised, and where in the plugin's own code. What i2i says of a plugin is said as it is."""
    told = " ".join(str(error).split()) or "no message"
    if isinstance(error, PluginError):
        return told
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not frame.filename.startswith(_NOT_ITS_OWN)]
    place = f" ({Path(own[-1].filename).name}, line {own[-1].lineno})" if own else ""
    return f"{type(error).__name__}: {told}{place}"


def _load(entry: EntryPoint) -> Plugin:
    module = entry.load()
    stated = getattr(module, "I2I_API", None)
    if stated != I2I_API:
        raise PluginError(f"states I2I_API = {stated}, this i2i has {I2I_API}; install a matching version of it")
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    manager.register(module, entry.name)
    _refuse_unknown(manager)
    given = {kind: _call(manager, f"i2i_{kind}", value) for kind, value in _KINDS.items()}
    _check_tasks(entry, given["tasks"])
    return Plugin(entry.name, installed.distribution(entry), **given)


def _refuse_unknown(manager: pluggy.PluginManager) -> None:
    """Raises ``PluginError`` for a hook that there is not: most likely it is misspelt."""
    try:
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        told = str(error).partition(" in plugin")[0]
        raise PluginError(f"{told}; there are: {', '.join(f'i2i_{kind}' for kind in _KINDS)}") from error


def _call(manager: pluggy.PluginManager, hook: str, kind: type) -> tuple[Any, ...]:
    caller = getattr(manager.hook, hook)
    results = caller()
    if len(results) < len(caller.get_hookimpls()) or not all(isinstance(result, list | tuple) for result in results):
        raise PluginError(f"{hook} gave no list")  # pluggy leaves out a result that is None
    values = tuple(value for result in results for value in result)
    for value in values:
        if not isinstance(value, kind):
            raise PluginError(f"{hook} gave a {type(value).__name__} where a {kind.__name__} is due")
    return values


def _check_tasks(entry: EntryPoint, tasks: Iterable[Task]) -> None:
    """Raises ``PluginError`` for tasks of which no command can be made."""
    names = [task.name for task in tasks]
    if entry.group == installed.TASKS and entry.name not in names:
        raise PluginError(f"gives no task {entry.name!r}: the entry point's name must be the task's")
    if entry.group == installed.EXTENSIONS and names:
        raise PluginError(f"gives the task {names[0]!r}: a task needs an entry point of the group {installed.TASKS!r}")
    for task in tasks:
        _check_options(task)


def _check_options(task: Task) -> None:
    if not is_dataclass(task.options):
        raise PluginError(f"the options of {task.name} are no dataclass")
    for item in fields(task.options):
        if "help" not in item.metadata:
            raise PluginError(f"the option {item.name} of {task.name} was not made by i2i.options.option")
        if item.name in _OWN_NAMES or flag_of(item) in _OWN_FLAGS:
            raise PluginError(f"the option {flag_of(item)} of {task.name} is one that every image command has; rename it")


@dataclass
class Registry:
    """What is installed. Nothing is imported before it is asked for; ``broken`` grows as plugins are loaded."""

    broken: list[BrokenPlugin] = field(default_factory=list)
    _loaded: dict[tuple[str, str, str], Plugin | None] = field(default_factory=dict)

    @cached_property
    def _tasks(self) -> dict[str, EntryPoint]:
        chosen, refused = installed.task_entries()
        self.broken += refused
        return chosen

    @property
    def tasks(self) -> list[str]:
        """The names of the tasks that are installed, whether or not their plugins work."""
        return sorted(self._tasks)

    def _plugin(self, entry: EntryPoint) -> Plugin | None:
        key = (entry.group, entry.name, installed.distribution(entry))
        if key not in self._loaded:
            result = load_plugin(entry)
            if isinstance(result, BrokenPlugin):
                self.broken.append(result)
            self._loaded[key] = result if isinstance(result, Plugin) else None
        return self._loaded[key]

    def task(self, name: str) -> Task:
        """The task of that command. Raises ``UsageError`` when there is none, ``PluginError`` when its plugin is broken."""
        if name not in self._tasks:
            raise UsageError(f"no task {name!r}; there are: {', '.join(sorted(self._tasks)) or 'none'}")
        entry = self._tasks[name]
        plugin = self._plugin(entry)
        if plugin is None:
            broken = next(b for b in self.broken if b.name == name and b.distribution == installed.distribution(entry))
            raise PluginError(f"the plugin {name} of {broken.distribution} is broken: {broken.reason}")
        return next(task for task in plugin.tasks if task.name == name)

    @cached_property
    def _extensions(self) -> list[EntryPoint]:
        return installed.found(installed.EXTENSIONS)

    def extensions(self) -> list[Plugin]:
        """The extensions that work."""
        return [plugin for entry in self._extensions if (plugin := self._plugin(entry))]

    def all(self) -> list[Plugin]:
        """Every plugin that works, tasks first: imports them all."""
        tasks = [plugin for entry in self._tasks.values() if (plugin := self._plugin(entry))]
        return tasks + self.extensions()

    def _for_task(self, name: str) -> Iterable[Plugin]:
        own = self._plugin(self._tasks[name]) if name in self._tasks else None
        return [*([own] if own else []), *self.extensions()]

    def models(self, task: str) -> list[ModelCard]:
        """The models of a task: its own plugin's, then the extensions'; the first of a name counts."""
        cards: dict[str, ModelCard] = {}
        for plugin in self._for_task(task):
            for card in plugin.models:
                if card.task == task:
                    cards.setdefault(card.name, card)
        return list(cards.values())

    def formats(self) -> tuple[Format, ...]:
        """The built-in formats, then the extensions'."""
        return (*builtin_formats(), *(form for plugin in self.extensions() for form in plugin.formats))

    def exporters(self, task: str) -> list[Exporter]:
        """The built-in exporters, then those of a task's own plugin and of the extensions, that take what the task gives."""
        given = self.task(task).meanings if task in self._tasks else ()
        found = [*builtin_exporters(), *(exporter for plugin in self._for_task(task) for exporter in plugin.exporters)]
        return [exporter for exporter in found if not given or set(given) & set(exporter.meanings)]

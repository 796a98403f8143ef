"""What a plugin can give. Each hook takes nothing and returns a list of frozen values; implement those you need::

import i2i

I2I_API = 1

@i2i.hookimpl
def i2i_tasks():
    return [Task(...)]
"""

from __future__ import annotations

import pluggy

from i2i.contracts import Exporter, Format, ModelCard, Task

PROJECT = "i2i"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def i2i_tasks() -> list[Task]:  # type: ignore[empty-body]
    """Tasks, each a command."""


@hookspec
def i2i_models() -> list[ModelCard]:  # type: ignore[empty-body]
    """Models for tasks that exist, one's own or others'."""


@hookspec
def i2i_formats() -> list[Format]:  # type: ignore[empty-body]
    """File formats to read or write."""


@hookspec
def i2i_exporters() -> list[Exporter]:  # type: ignore[empty-body]
    """Further files that a run can write, each an option of the image commands."""

"""Commands from options dataclasses: each field becomes an option of the command line."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, get_type_hints

import typer

from i2i.options import flag_of


def parameter(item: dataclasses.Field[Any], hint: Any) -> inspect.Parameter:
    """The option of one field, as typer reads it from a function's signature."""
    metadata = item.metadata
    help_text = metadata["help"] + (f" ({'|'.join(metadata['choices'])})" if metadata["choices"] else "")
    required = item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING
    default: Any = ... if required else item.default
    if item.default_factory is not dataclasses.MISSING:
        default = item.default_factory()
    flag = flag_of(item)
    names = [f"{flag}/--no-{flag[2:]}"] if hint is bool and default is True else [flag]
    shown = default not in ("", [], False, None) and "(default" not in metadata["help"]
    info = typer.Option(
        *names,
        help=help_text,
        rich_help_panel=metadata["panel"],
        show_default=False if required else shown,
        metavar=metadata["metavar"] or None,
    )
    kind = inspect.Parameter.KEYWORD_ONLY
    if required:
        return inspect.Parameter(item.name, kind, annotation=Annotated[hint, info])
    return inspect.Parameter(item.name, kind, default=default, annotation=Annotated[hint, info])


def parameters(options: type) -> list[inspect.Parameter]:
    """The options of all fields of a dataclass, in order."""
    hints = get_type_hints(options)
    return [parameter(item, hints[item.name]) for item in dataclasses.fields(options)]


def command(
    name: str, summary: str, parts: Sequence[inspect.Parameter], body: Callable[[Mapping[str, Any]], None]
) -> typer.core.TyperCommand:
    """A command whose parameters are ``parts`` and which calls ``body`` with their values by name."""

    def called(**values: Any) -> None:
        body(values)

    called.__doc__ = summary
    called.__signature__ = inspect.Signature(sorted(parts, key=_required_first))  # type: ignore[attr-defined]
    called.__annotations__ = {part.name: part.annotation for part in parts}
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich")
    app.command(name, help=summary, no_args_is_help=True, context_settings={"help_option_names": ["-h", "--help"]})(called)
    built = typer.main.get_command(app)
    assert isinstance(built, typer.core.TyperCommand)
    return built


def _required_first(part: inspect.Parameter) -> bool:
    return part.default is not inspect.Parameter.empty


def positional(name: str, kind: Any, help: str, metavar: str) -> inspect.Parameter:
    """A positional argument."""
    info = typer.Argument(help=help, metavar=metavar, show_default=False)
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=Annotated[kind, info])


def named(name: str, flags: Sequence[str], kind: Any, default: Any, help: str, panel: str, metavar: str = "") -> inspect.Parameter:
    """An option that is no field of a dataclass."""
    info = typer.Option(*flags, help=help, rich_help_panel=panel, show_default=False, metavar=metavar or None)
    if default is ...:
        return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=Annotated[kind, info])
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, info])

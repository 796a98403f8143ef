"""Commands from options dataclasses: each field becomes an option of the command line."""

from __future__ import annotations

import dataclasses
import inspect
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer
from rich.markup import escape

from i2i.errors import UsageError
from i2i.options import ADVANCED, INPUT, flag_of

_HELP = {"help_option_names": ["-h", "--help"]}
_METAVARS = {bool: "", int: "N", float: "NUMBER", str: "TEXT"}


Words = Callable[[], Iterable[str]]


def parameter(item: dataclasses.Field[Any], hint: Any, words: Words | None = None) -> inspect.Parameter:
    """The option of one field, as typer reads it from a function's signature. ``words``: what a shell completes its value with;
    without them the choices, if it has any."""
    metadata = item.metadata
    required = item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING
    default: Any = ... if required else item.default
    if item.default_factory is not dataclasses.MISSING:
        default = item.default_factory()
    flag = flag_of(item)
    names = [f"{flag}/--no-{flag[2:]}"] if hint is bool and default is True else [flag]
    shown = default not in ("", [], False, None) and "(default" not in metadata["help"]
    info = typer.Option(
        *names,
        help=escape(metadata["help"]),
        rich_help_panel=metadata["panel"],
        show_default=False if required else shown,
        metavar=metadata["metavar"] or "|".join(metadata["choices"]) or _METAVARS.get(hint),
        autocompletion=_completing(words or (lambda: metadata["choices"])) if words or metadata["choices"] else None,
    )
    kind = inspect.Parameter.KEYWORD_ONLY
    if required:
        return inspect.Parameter(item.name, kind, annotation=Annotated[hint, info])
    return inspect.Parameter(item.name, kind, default=default, annotation=Annotated[hint, info])


def _completing(words: Words) -> Callable[[str], list[str]]:
    def fitting(incomplete: str) -> list[str]:
        return [word for word in words() if word.startswith(incomplete)]

    return fitting


def parameters(options: type, **words: Words) -> list[inspect.Parameter]:
    """The options of all fields of a dataclass, in order. ``words``: by the field's name, what a shell completes it with."""
    hints = get_type_hints(options)
    return [parameter(item, hints[item.name], words.get(item.name)) for item in dataclasses.fields(options)]


class Command(typer.core.TyperCommand):
    """A command whose help ends with ``--help``, and has no panel for that alone; and that takes no empty text, in which a path
    would mean the current folder, and any option its default. ``make_context`` raises ``UsageError`` for one."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        rest: list[str] = super().parse_args(ctx, args)
        if ctx.resilient_parsing:  # a shell completes words
            return rest
        for item in self.params:
            value = ctx.params.get(item.name)
            if "" in (value if isinstance(value, list | tuple) else [value]) and _is_given(ctx, item):
                name = item.opts[0] if isinstance(item, typer.core.TyperOption) else item.metavar
                raise UsageError(f"{name}: is empty (an unset variable?)")
        return rest

    def get_help_option(self, ctx: Any) -> Any:
        found = super().get_help_option(ctx)
        panels = {item.rich_help_panel for item in self.params if isinstance(item, typer.core.TyperOption)}
        if isinstance(found, typer.core.TyperOption) and panels and None not in panels:
            found.rich_help_panel = ADVANCED if ADVANCED in panels else INPUT
        return found


def _is_given(ctx: Any, item: Any) -> bool:
    """Whether a parameter has its value from the command line or from ``--config``."""
    return ctx.get_parameter_source(item.name).name in ("COMMANDLINE", "DEFAULT_MAP")


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
    app.command(name, help=escape(summary), cls=Command, context_settings=_HELP)(called)
    built = typer.main.get_command(app)
    assert isinstance(built, typer.core.TyperCommand)
    return built


def _required_first(part: inspect.Parameter) -> bool:
    return part.default is not inspect.Parameter.empty


def positional(name: str, kind: Any, help: str, metavar: str, default: Any = inspect.Parameter.empty) -> inspect.Parameter:
    """A positional argument; with a default it may be left out."""
    info = typer.Argument(help=help, metavar=metavar, show_default=False)
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, info])


def named(
    name: str, flags: Sequence[str], kind: Any, default: Any, help: str, panel: str, metavar: str = ""
) -> inspect.Parameter:
    """An option that is no field of a dataclass."""
    info = typer.Option(*flags, help=help, rich_help_panel=panel, show_default=False, metavar=metavar or _METAVARS.get(kind))
    if default is ...:
        return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=Annotated[kind, info])
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, info])


def config_option() -> inspect.Parameter:
    """``--config FILE.toml``: options from a file, for those that the command line does not give."""
    help_text = "options from a TOML file; those given here come first"
    info = typer.Option(
        "--config", help=help_text, rich_help_panel=INPUT, show_default=False, metavar="FILE", is_eager=True, callback=_configure
    )
    return inspect.Parameter("config", inspect.Parameter.KEYWORD_ONLY, default="", annotation=Annotated[str, info])


def _configure(context: typer.Context, value: str) -> str:
    if value:
        context.default_map = _config_values(Path(value), context.command)
    return value


def _config_values(path: Path, built: Any) -> dict[str, Any]:
    """The values of a TOML file by the parameter's name, numbers as text. Raises ``UsageError``."""
    options = {name: item for item in built.params for name in item.opts if name.startswith("--") and item.name != "config"}
    try:
        given = tomllib.loads(path.read_text("utf-8-sig"))  # Windows' editors begin it with a mark
    except OSError as error:
        raise UsageError(f"--config {path}: {(error.strerror or str(error)).lower()}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"--config {path}: not a TOML file: {error}") from error
    values = {}
    for key, value in given.items():
        flag = "--" + key.replace("_", "-")
        if flag not in options:
            raise UsageError(f"--config {path}: {built.name} has no option {flag}")
        words = _as_words(value, f"--config {path}: {key}")
        values[options[flag].name] = [words] if options[flag].multiple and not isinstance(words, list) else words
    return values


def _as_words(value: Any, place: str) -> Any:
    """What the command line would give for a value of a TOML file."""
    if isinstance(value, list):
        return [_as_words(one, place) for one in value]
    if isinstance(value, bool):
        return value
    if isinstance(value, int | float | str):
        return str(value)
    raise UsageError(f"{place} is neither text, number, truth value nor list")

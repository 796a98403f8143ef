"""The program: its groups of commands, and how errors end it."""

from __future__ import annotations

import logging
import os
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import Annotated, Any

import typer
from rich.markup import escape
from typer.core import TyperCommand, TyperGroup

from i2i.cli import console, interrupt
from i2i.errors import I2IError, unforeseen
from i2i.installed import commands
from i2i.version import __version__

Make = Callable[[], TyperCommand]


class LazyCommand(TyperCommand):
    """A command that is known by name and summary, and made when it is called: a plugin is not imported to be listed."""

    def __init__(self, name: str, summary: str, make: Make, panel: str) -> None:
        super().__init__(name, help=escape(summary), rich_help_panel=panel)
        self._make = make

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        with console.data_only():  # plugins are imported, and may print
            made = self._make()
        return made.make_context(info_name, args, parent, **extra)


class LazyGroup(TyperGroup):
    """A group whose commands are made when they are first asked for, in the order given."""

    def __init__(self, name: str, help: str, lazy: Callable[[], dict[str, Any]], **settings: Any) -> None:
        super().__init__(name=name, help=help, no_args_is_help=True, rich_markup_mode="rich", **settings)
        self.context_settings["help_option_names"] = ["-h", "--help"]
        self._lazy = lazy

    def _all(self) -> dict[str, Any]:
        if not self.commands:
            self.commands = self._lazy()
        return self.commands  # type: ignore[return-value]

    def list_commands(self, ctx: Any) -> list[str]:
        return list(self._all())

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        return self._all().get(cmd_name)


def _tasks(make: Callable[[str], Make], prefix: str = "") -> dict[str, Any]:
    """A lazy command for each task."""
    return {found.name: LazyCommand(found.name, prefix + found.summary, make(found.name), "Tasks") for found in commands()}


def _image(name: str) -> Make:
    def make() -> TyperCommand:
        from i2i.cli.manage import tell_broken
        from i2i.cli.run import image_command
        from i2i.registry import Registry

        registry = Registry()
        made = image_command(registry.task(name), registry)
        tell_broken(registry)
        return made

    return make


def _train(name: str) -> Make:
    def make() -> TyperCommand:
        from i2i.cli.learn import train_command
        from i2i.registry import Registry

        registry = Registry()
        return train_command(registry.task(name), registry)

    return make


def _eval(name: str) -> Make:
    def make() -> TyperCommand:
        from i2i.cli.learn import eval_command
        from i2i.registry import Registry

        registry = Registry()
        return eval_command(registry.task(name), registry)

    return make


def _manage(name: str) -> Make:
    def make() -> TyperCommand:
        from i2i.cli import manage
        from i2i.registry import Registry

        return manage.make(name, Registry())

    return make


def _group(name: str, help: str, members: dict[str, str]) -> LazyGroup:
    def commands() -> dict[str, Any]:
        return {key: LazyCommand(key, text, _manage(f"{name} {key}"), "Commands") for key, text in members.items()}

    return LazyGroup(name, help, commands, rich_help_panel=_CHECK)


_OWN, _CHECK = "Models of your own", "Look and check"
_MODELS = {
    "list": "The models by task",
    "info": "The card of a model, or what a model file says of itself",
    "get": "Fetch a model into the cache, for use offline",
    "export": "A model's network as an ONNX or TorchScript file, for other programs",
}
_PLUGINS = {"list": "The plugins and what each gives", "check": "Load every plugin; name those that are broken"}
_SINGLE = {
    "info": "What i2i sees in an image: size, channels, planes, levels",
    "demo": "Every task on bundled real input, with a page that shows it",
    "doctor": "What this machine has, and what would help",
    "completion": "Complete i2i's words in a shell: bash, zsh, fish, powershell",
}


def _commands() -> dict[str, Any]:
    train, judge = "Train a model of a task", "Metrics of results against the truth"
    return {
        **_tasks(_image),
        "train": LazyGroup("train", train, lambda: _tasks(_train, "Train: "), rich_help_panel=_OWN),
        "eval": LazyGroup("eval", judge, lambda: _tasks(_eval, "Evaluate: "), rich_help_panel=_OWN),
        "models": _group("models", "Bundled, cached and downloadable models", _MODELS),
        "plugins": _group("plugins", "What is installed, and what is broken", _PLUGINS),
        **{name: LazyCommand(name, text, _manage(name), _CHECK) for name, text in _SINGLE.items()},
    }


def build() -> LazyGroup:
    """The whole command line. Imports no plugin."""
    help_text = "One command line for every image-to-image task, on images of any size."
    return LazyGroup("i2i", help_text, _commands, params=_root_parameters())


def _print_version(value: bool) -> None:
    if value:
        console.put(f"i2i {__version__}")
        raise typer.Exit(0)


def _root_parameters() -> list[Any]:
    """``--version``, made by typer from a signature."""
    app = typer.Typer(add_completion=False)

    @app.callback()
    def root(
        version: Annotated[
            bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
        ] = False,
    ) -> None:
        """Nothing: the commands do the work."""

    return list(typer.main.get_group(app).params)


def main(arguments: list[str] | None = None) -> None:
    """Run the program on ``arguments`` (those of the process by default) and exit."""
    logging.getLogger("asyncio").addHandler(logging.NullHandler())  # what Zarr leaves of a failed write: its error says it
    interrupt.listen()
    words = sys.argv[1:] if arguments is None else arguments
    verbose = "-v" in words or "--verbose" in words
    if verbose:
        logging.basicConfig(format="%(name)s: %(message)s")
        logging.getLogger("i2i").setLevel(logging.DEBUG)
    code = _run(words, verbose)
    if (code and os.environ.get("WORLD_SIZE", "1") != "1") or (code == 130 and arguments is None):
        _leave(code)
    sys.exit(code)


def _leave(code: int) -> None:
    """End the process at once. For one of several that train together: torch's teardown, where another is gone, may abort it. And
    for one that was interrupted: an interrupt within ``exec`` makes Python end itself by SIGINT, whatever the exit code."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def _run(words: list[str], verbose: bool) -> int:
    """The exit code. Errors are one line on stderr; ``verbose`` shows where they came from as well."""
    try:
        return _start(words)
    except (KeyboardInterrupt, typer.Abort):
        return _fail("interrupted", 130)
    except BrokenPipeError:
        console.drop_stdout()
        return 0
    except SystemExit as stop:
        if isinstance(stop.__context__, BrokenPipeError):  # rich's word for it, of a help text
            return 0
        raise
    except typer.Exit as stop:
        return stop.exit_code
    except Exception as error:
        if verbose and not _of_usage(error):
            traceback.print_exc()
        return _fail(*_told(error))


def _told(error: Exception) -> tuple[str, int]:
    """The line for an error, and the exit code."""
    if isinstance(error, I2IError):
        return f"error: {error}", error.exit_code
    return (_one_line(error), 2) if _of_usage(error) else (f"error: {unforeseen(error, 'i2i')}", 1)


def _of_usage(error: Exception) -> bool:
    """Whether it is one of typer's own errors, whose class it does not name."""
    return hasattr(error, "format_message")


def _start(words: list[str]) -> int:
    program = build()
    if asked := os.environ.get("_I2I_COMPLETE"):
        from i2i.cli.completion import answer

        return answer(program, asked)
    with program.make_context("i2i", list(words)) as context:
        program.invoke(context)
    return 0


def _fail(line: str, code: int) -> int:
    if line:
        console.say(line)
    return code


def _one_line(error: Any) -> str:
    """Typer's message and where to look; nothing when it has none, having shown the help."""
    text = " ".join(str(error.format_message()).split())
    context = getattr(error, "ctx", None)
    if not text:
        return ""
    end = "" if text.endswith(("?", "!", ".")) else "."
    return f"error: {text}{end}" + (f" See {context.command_path} --help." if context else "")

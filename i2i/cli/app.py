"""The program: its groups of commands, and how errors end it."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from i2i.errors import I2IError
from i2i.installed import commands
from i2i.version import __version__

Make = Callable[[], TyperCommand]


class LazyCommand(TyperCommand):
    """A command that is known by name and summary, and made when it is called: a plugin is not imported to be listed."""

    def __init__(self, name: str, summary: str, make: Make, panel: str = "Commands") -> None:
        super().__init__(name, help=summary, rich_help_panel=panel)
        self._make = make

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        return self._make().make_context(info_name, args, parent, **extra)


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
        from i2i.cli.run import image_command
        from i2i.registry import Registry

        registry = Registry()
        return image_command(registry.task(name), registry)

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
    return LazyGroup(name, help, lambda: {key: LazyCommand(key, text, _manage(f"{name} {key}")) for key, text in members.items()})


def _commands() -> dict[str, Any]:
    single = {
        "info": "What i2i sees in an image: size, channels, planes, levels",
        "demo": "Every task on bundled real input, with a page that shows it",
        "doctor": "What this machine has, and what would help",
    }
    return {
        **_tasks(_image),
        "train": LazyGroup("train", "Train a model of a task", lambda: _tasks(_train, "Train: ")),
        "eval": LazyGroup("eval", "Metrics of results against the truth", lambda: _tasks(_eval, "Evaluate: ")),
        "models": _group(
            "models",
            "Bundled, cached and downloadable models",
            {"list": "The models by task", "info": "The card of a model", "get": "Fetch a model into the cache, for use offline"},
        ),
        "plugins": _group(
            "plugins",
            "What is installed, and what is broken",
            {"list": "The plugins and what each gives", "check": "Load every plugin; name those that are broken"},
        ),
        **{name: LazyCommand(name, text, _manage(name)) for name, text in single.items()},
    }


def build() -> LazyGroup:
    """The whole command line. Imports no plugin."""
    help_text = "One command line for every image-to-image task, on images of any size."
    return LazyGroup("i2i", help_text, _commands, params=_root_parameters())


def _print_version(value: bool) -> None:
    if value:
        sys.stdout.write(f"i2i {__version__}\n")
        raise typer.Exit(0)


def _root_parameters() -> list[Any]:
    """``--version``, made by typer from a signature."""
    app = typer.Typer(add_completion=False)

    @app.callback()
    def root(
        version: Annotated[bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")] = False,
    ) -> None:
        """Nothing: the commands do the work."""

    return list(typer.main.get_group(app).params)


def _terminated(*_: object) -> None:
    raise KeyboardInterrupt


def main(arguments: list[str] | None = None) -> None:
    """Run the program on ``arguments`` (those of the process by default) and exit."""
    signal.signal(signal.SIGTERM, _terminated)
    words = sys.argv[1:] if arguments is None else arguments
    sys.exit(_run(words, "-v" in words or "--verbose" in words))


def _run(words: list[str], verbose: bool) -> int:
    try:
        result = build().main(args=words, prog_name="i2i", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except I2IError as error:
        if verbose:
            raise
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        sys.stderr.write("interrupted\n")
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except typer.Exit as stop:
        return int(stop.exit_code)
    except Exception as error:
        if hasattr(error, "exit_code") and hasattr(error, "show"):  # typer's own errors of usage
            sys.stderr.write(f"error: {_one_line(error)}\n")
            return 2
        raise


def _one_line(error: Any) -> str:
    text = " ".join(str(error.format_message()).split())
    context = getattr(error, "ctx", None)
    return f"{text} See {context.command_path} --help." if context else text

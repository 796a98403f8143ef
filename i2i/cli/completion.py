"""Completion of words in shells: the script that a shell reads once, and the answers that it asks for at each TAB."""

from __future__ import annotations

import contextlib
import io

from typer.completion import completion_init, shell_complete  # type: ignore[attr-defined]
from typer.core import TyperGroup

from i2i.errors import UsageError

SHELLS = ("bash", "zsh", "fish", "powershell")
VARIABLE = "_I2I_COMPLETE"
"""Of the environment: set where a shell asks for words, or for the script."""


def script(shell: str) -> str:
    """What the shell is to read. Raises ``UsageError`` for a shell that is not known."""
    if shell not in SHELLS:
        raise UsageError(f"{shell}: no shell whose words i2i completes; choose one of {', '.join(SHELLS)}")
    with contextlib.redirect_stdout(io.StringIO()) as told:
        answer(TyperGroup(name="i2i"), f"source_{shell}")
    return told.getvalue().strip()


def answer(program: TyperGroup, instruction: str) -> int:
    """What the shell asks for, printed; the exit code."""
    completion_init()
    return shell_complete(program, {}, "i2i", VARIABLE, instruction)

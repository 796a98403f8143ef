"""Whether an input ended as every input has to: read, with a complete output, or refused in one line, with nothing left."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

READ, REFUSED, PLANNED = "read", "refused", "too large to be run"
KINDS = (
    "crash", "hang", "memory", "traceback", "internal error", "exit code", "message", "noise", "partial output", "torch imported",
    "disagreement",
)  # fmt: skip
"""What a fuzzer finds."""
PYTHON = re.compile(
    r"instances? of '|object (is not|has no|does not)|NoneType|division (or modulo )?by zero|index out of range|"
    r"unpack(_from)? requires|truth value of an array|invalid literal for|takes \d+ positional|unexpected keyword"
)
"""What Python and numpy say of code, and not of a file."""


@dataclass(frozen=True)
class Finding:
    """``kind``: one of ``KINDS``; ``key``: the same for all of one cause, as far as can be told; ``detail``: for a reader."""

    kind: str
    key: str
    detail: str


def judge(answer: dict[str, Any], command: str, path: Path, output: Path | None, memory: int) -> list[Finding]:
    """What is wrong with the answer of a worker to ``command`` (its first word) on the file ``path``."""
    if "died" in answer:
        trace = _innermost(answer["stderr"])
        return [Finding(answer["why"], f"{command}: {trace}", f"signal {-answer['died']}\n{answer['stderr'][-3000:]}")]
    found = []
    if answer["raised"]:
        found.append(("traceback", _place(answer), answer["error"]["trace"]))
    elif answer["code"] not in (0, 1):
        found.append(("exit code", f"{answer['code']} {_shape(answer['stderr'], path)}", answer["stderr"]))
    if ": a bug in " in answer["stderr"]:
        found.append(("internal error", _place(answer), (answer["error"] or {"trace": answer["stderr"]})["trace"]))
    elif not answer["raised"]:
        found += _said(answer, command, path, output)
    if answer["peak"] > memory:
        found.append(("memory", _shape(answer["stderr"], path), f"{answer['peak'] / 1e6:.0f} MB"))
    if command == "info" and answer["torch"]:
        found.append(("torch imported", "info", ""))
    if answer["left"]:
        found.append(("partial output", "temporary files", ", ".join(answer["left"])))
    return [Finding(kind, f"{command}: {key}", detail) for kind, key, detail in found]


def _said(answer: dict[str, Any], command: str, path: Path, output: Path | None) -> list[tuple[str, str, str]]:
    """What is on stderr and stdout that should not be."""
    lines, failed = answer["stderr"].splitlines(), answer["code"] != 0
    if answer["stderr"] and not answer["stderr"].endswith("\n"):
        lines.append("")
    begins = ("error: ",) if failed else ("note: ",) if command == "info" else ("warning: ", "note: ", f"{path} -> ")
    other = [line for line in lines if not line.startswith(begins)]
    if other:
        return [("noise", _shape(other[0], path), answer["stderr"])]
    wrong = [line for line in lines if not _readable(line)]
    if failed:
        named = len(lines) == 1 and any(str(place) in lines[0] for place in (path, output) if place)
        wrong = lines if wrong or not named else []
        wrong = wrong or (["(nothing)"] if not lines else [])
    if wrong:
        return [("message", _shape(wrong[0], path), answer["stderr"])]
    if bool(answer["stdout"]) != (command == "info" and not failed) and command not in ("plan", "pieces"):
        return [("noise", f"stdout {_shape(answer['stdout'], path)}", answer["stdout"])]
    return []


def _readable(line: str) -> bool:
    """Whether a line is one for a person: not too long, nothing that moves a terminal's cursor, nothing said to programmers."""
    return len(line) < 600 and all(c.isprintable() for c in line) and not PYTHON.search(line)


def _shape(text: str, path: Path) -> str:
    """A message without what differs from file to file."""
    line = (text.strip().splitlines() or [""])[0].replace(str(path), "FILE")
    return re.sub(r"[-\d.,]*\d", "#", line)[:160]


def _place(answer: dict[str, Any]) -> str:
    error = answer["error"]
    if not error:
        return _shape(answer["stderr"], Path("-"))
    last = error["chain"][-1]
    return f"{last['type']} at {last['place']}"


def _innermost(trace: str) -> str:
    """The function that a thread was in, of what faulthandler writes: the main thread's, which is the last."""
    frames = re.findall(
        r'File "[^"]*?([^/"]+)", line (\d+) in (\w+)', trace.rsplit("Current thread", 1)[-1].rsplit("Thread 0x", 1)[-1]
    )
    return " < ".join(f"{file}:{name}:{line}" for file, line, name in frames[:2]) or "no trace"


# ------------------------------------------------------------------------------------------------------------ the output


def size_of(answer: dict[str, Any], as_json: bool) -> tuple[int, int, int] | None:
    """Height, width, and channels times planes, of what ``i2i info`` said; None where it refused the file."""
    if answer.get("code") != 0:
        return None
    if as_json:
        spec = json.loads(answer["stdout"])
        return spec["height"], spec["width"], spec["channels"] * math.prod(length for _, length in spec["planes"])
    said = dict(
        line.split(maxsplit=1) for line in answer["stdout"].splitlines() if line.startswith(("size ", "channels ", "planes "))
    )
    width, height = map(int, re.findall(r"\d+", said["size"])[:2])
    planes = re.match(r"\d+", said["planes"])
    return height, width, int(re.findall(r"\d+", said["channels"])[0]) * int(planes[0] if planes else 1)


def judge_output(folder: Path, output: Path, code: int | None, size: tuple[int, int, int] | None) -> list[Finding]:
    """Whether there is an output exactly where the run succeeded, whole, and of the size of the input."""
    there = sorted(path.name for path in folder.iterdir())
    if code != 0 and there:
        return [Finding("partial output", "after an error", ", ".join(there))]
    if code == 0 and there != [output.name]:
        return [Finding("partial output", "after success", ", ".join(there))]
    if code != 0:
        return []
    if size is None:
        return [Finding("disagreement", "info refused what was read", "")]
    return _judge_pixels(output, size)


def _judge_pixels(output: Path, size: tuple[int, int, int]) -> list[Finding]:
    from i2i.errors import I2IError
    from i2i.formats import open_image

    try:
        source = open_image(output)
        try:
            pixels = [source.read(source.spec.region, plane).shape[:2] for plane in range(source.spec.plane_count)]
        finally:
            source.close()
    except I2IError as error:
        return [Finding("partial output", "does not open", str(error))]
    return [] if set(pixels) == {size[:2]} else [Finding("disagreement", "another size", f"{pixels[:3]} instead of {size}")]

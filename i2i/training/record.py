"""What a training run writes beside its checkpoint: figures of each step as JSON lines, and TensorBoard's event files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from i2i.errors import UsageError


class Record:
    """The figures of a run: ``metrics.jsonl`` in ``work``, and with ``tensorboard`` event files in ``work/tensorboard``. Lines of
    steps after ``step``, which a resumed run takes again, are dropped. Raises ``UsageError`` without the package."""

    def __init__(self, work: Path, step: int, tensorboard: bool = False) -> None:
        self._path = work / "metrics.jsonl"
        _forget_after(self._path, step)
        self._board = board_writer()(str(work / "tensorboard"), purge_step=step + 1) if tensorboard else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._board:
            self._board.close()

    def add(self, values: Mapping[str, float]) -> None:
        """A line; ``values`` has ``step`` and ``seconds`` among its figures."""
        with self._path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(values) + "\n")
        if self._board:
            for name, value in values.items():
                if name != "step":
                    self._board.add_scalar(name, value, int(values["step"]))


def _forget_after(path: Path, step: int) -> None:
    """Drop the lines of steps that a resumed run takes again."""
    if not path.exists():
        return
    lines = path.read_text("utf-8").splitlines()
    kept = [line for line in lines if line.endswith("}") and json.loads(line)["step"] <= step]  # a kill may tear the last
    path.write_text("".join(line + "\n" for line in kept), encoding="utf-8")


def board_writer() -> Any:
    """TensorBoard's writer. Raises ``UsageError`` without the package."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise UsageError("--tensorboard needs the package tensorboard: pip install 'i2i-engine[tensorboard]'") from error
    return SummaryWriter

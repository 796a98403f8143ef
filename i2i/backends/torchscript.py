"""Networks as TorchScript files, for programs in C++, Java or Python that have PyTorch and not i2i. Imported only where it is
used, for it imports torch. i2i itself writes such files and loads none: they can execute code."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from i2i.backends.turns import torch_turns
from i2i.errors import PluginError

_RECORD = "i2i.json"


def write_torchscript(network: nn.Module, channels: int, multiple_of: int, path: Path, record: Mapping[str, str]) -> None:
    """A file whose ``forward`` takes (N, channels, H, W) float32, H and W multiples of ``multiple_of``. ``record``: texts that
    are kept in it as JSON, in the file ``i2i.json``. Raises ``PluginError`` for a network that cannot be traced."""
    try:
        with torch_turns.alone(), torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            example = torch.zeros((2, channels, 2 * multiple_of, 3 * multiple_of))
            traced = torch.jit.trace(network.eval(), example, check_trace=False)  # type: ignore[no-untyped-call]
            torch.jit.freeze(traced).save(str(path), _extra_files={_RECORD: json.dumps(dict(record))})
    except (RuntimeError, torch.jit.Error) as error:
        raise PluginError(f"the network cannot be written as TorchScript: {str(error).strip().splitlines()[0]}") from error


def torchscript_answers(path: Path) -> Callable[[Tensor], Tensor]:
    """What the file, which this process has just written, computes."""

    def answers(pixels: Tensor) -> Tensor:
        with torch_turns.alone(), torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            answer: Tensor = torch.jit.load(str(path))(pixels)  # type: ignore[no-untyped-call]
        return answer

    return answers

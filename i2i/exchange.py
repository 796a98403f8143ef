"""Models as files for other programs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from i2i import options as option_types
from i2i.backends import start_torch
from i2i.backends.turns import torch_turns
from i2i.contracts import DensePredictor, Footprint, Model, Runtime
from i2i.errors import ModelError, OutputError, PluginError, UsageError
from i2i.models import find_model, open_model
from i2i.publish import write_all
from i2i.registry import Registry
from i2i.version import __version__

if TYPE_CHECKING:
    from torch import Tensor, nn

FORMATS = {"onnx": (".onnx",), "torchscript": (".pt", ".ts")}
"""Suffixes by the name of the format."""
_TOLERANCE = 1e-3
_HOLDS = "a file for other programs holds one network, of one image in and one answer out"
Answers = Callable[["Tensor"], "Tensor"]


def export_model(
    name: str, output: str | Path, *, format: str = "", overwrite: bool = False, registry: Registry | None = None
) -> dict[str, Any]:
    """The network of a model, by name or file, as ONNX or TorchScript: normalised pixels in, what the network says of them out.
    What i2i does before and after it (normalisation, tiles, classes from logits) is not in the file; the model's own header,
    which says what that is, is in its metadata. ``format``: a name of ``FORMATS``; without one, that of ``output``'s suffix.

    Returns what was written, and the largest difference to the model, as a share of the range of its answers; for ONNX only where
    onnxruntime is there to tell. Raises ``I2IError``."""
    registry, path = registry or Registry(), Path(output)
    format = _format_of(path, format)
    if path.exists() and not overwrite:
        raise OutputError(f"{path}: exists; --overwrite replaces it")
    task = registry.task(_task_of(name, registry))
    if any(card.part and card.name == name for card in registry.models(task.name)):
        raise ModelError(f"{name}: is a part of what {task.name} does, and {_HOLDS}")
    model = find_model(name, task.name, registry.models(task.name))
    start_torch()
    try:
        predictor = task.load(option_types.make(task.options, {}), model, Runtime())
    except UsageError as error:
        raise ModelError(f"{model.name}: cannot be exported, for it does not run alone: {error}") from error
    if not isinstance(predictor, DensePredictor):
        raise ModelError(f"{model.name}: {task.name} is more than a network, and {_HOLDS}")
    network, footprint = predictor.exportable(), predictor.footprint
    found: dict[str, Any] = {}

    def write(temporary: Path) -> None:
        answers = _written(format, network, footprint, temporary, _record(model, footprint.multiple_of))
        found["difference"] = answers and _difference(network, answers, footprint, format)

    write_all({path: write})
    sizes = {"channels_in": footprint.channels_in, "channels_out": footprint.channels_out, "multiple_of": footprint.multiple_of}
    return {"model": model.name, "output": str(path), "format": format} | sizes | found


def _format_of(path: Path, asked: str) -> str:
    """Raises ``UsageError``."""
    if asked and asked not in FORMATS:
        raise UsageError(f"--format {asked}: choose one of {', '.join(FORMATS)}")
    fitting = [name for name, suffixes in FORMATS.items() if path.suffix in suffixes and asked in ("", name)]
    if not fitting:
        wanted = [suffix for name, suffixes in FORMATS.items() for suffix in suffixes if asked in ("", name)]
        raise UsageError(f"-o {path}: the name of a file of {asked or 'a network'} ends in {' or '.join(wanted)}")
    return fitting[0]


def _written(format: str, network: nn.Module, footprint: Footprint, path: Path, record: dict[str, str]) -> Answers | None:
    """Write the file; what computes by it, where there is such a thing."""
    if format == "onnx":
        from i2i.backends.onnx import onnx_answers, write_onnx

        write_onnx(network, footprint.channels_in, footprint.multiple_of, path, record)
        return onnx_answers(path)
    from i2i.backends.torchscript import torchscript_answers, write_torchscript

    write_torchscript(network, footprint.channels_in, footprint.multiple_of, path, record)
    return torchscript_answers(path)


def _difference(network: nn.Module, answers: Answers, footprint: Footprint, format: str) -> float:
    """The largest difference of the file's answers to the network's, for noise of two sizes, as a share of their range. Raises
    ``PluginError`` when it is above 1e-3."""
    import torch

    worst, step = 0.0, footprint.multiple_of
    least = -(-64 // step)  # times: sides of 64 pixels at least, not equal
    for count in (1, 2):
        shape = (count, footprint.channels_in, (least + count) * step, (least + 2 * count) * step)
        seen = torch.randn(shape, generator=torch.Generator().manual_seed(count))
        with torch_turns.shared(), torch.no_grad():
            own = network.eval()(seen)
        span = max(float(own.max() - own.min()), 1e-6)
        worst = max(worst, float((own - answers(seen)).abs().max()) / span)
    if not worst <= _TOLERANCE:
        raise PluginError(
            f"the answers of the file of {format} differ by {worst:.1e} of their range from the network's: not written"
        )
    return worst


def _task_of(name: str, registry: Registry) -> str:
    """The task of a model by name or file. Raises ``ModelError``."""
    cards = [card for plugin in registry.all() for card in plugin.models if card.name == name]
    if cards:
        return cards[0].task
    if Path(name).suffix != ".safetensors" and not Path(name).exists():
        raise ModelError(f"no model is named {name!r}, nor a file; i2i models list shows those that there are")
    task = open_model(Path(name)).config.get("task")
    if not isinstance(task, str):
        raise ModelError(f"{name}: does not say of which task it is; give a model of i2i, such as `i2i models list` shows")
    return task


def _record(model: Model, multiple_of: int) -> dict[str, str]:
    """What the file says of itself."""
    told = {"program": f"i2i {__version__}", "model": model.name, "sha256": model.sha256, "multiple_of": str(multiple_of)}
    return told | {"i2i": json.dumps(dict(model.config), sort_keys=True)}

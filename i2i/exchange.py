"""Models as files for other programs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from i2i import options as option_types
from i2i.backends import start_torch
from i2i.contracts import DensePredictor, Model, Runtime
from i2i.errors import ModelError, OutputError, UsageError
from i2i.models import find_model, open_model
from i2i.publish import write_all
from i2i.registry import Registry
from i2i.version import __version__

_SUFFIX = ".onnx"


def export_model(name: str, output: str | Path, *, overwrite: bool = False, registry: Registry | None = None) -> dict[str, Any]:
    """The network of a model, by name or file, as ONNX: normalised pixels in, what the network says of them out. What i2i does
    before and after it (normalisation, tiles, classes from logits) is not in the file; the model's own header, which says what
    that is, is in its metadata.

    Returns what was written, and the largest difference to the model, as a share of the range of its answers, where onnxruntime
    is there to tell. Raises ``I2IError``."""
    registry, path = registry or Registry(), Path(output)
    if path.suffix != _SUFFIX:
        raise UsageError(f"-o {output}: an ONNX file's name ends in {_SUFFIX}")
    if path.exists() and not overwrite:
        raise OutputError(f"{path}: exists; --overwrite replaces it")
    task = registry.task(_task_of(name, registry))
    model = find_model(name, task.name, registry.models(task.name))
    start_torch()
    from i2i.backends.onnx import onnx_difference, write_onnx

    try:
        predictor = task.load(option_types.make(task.options, {}), model, Runtime())
    except UsageError as error:
        raise ModelError(f"{model.name}: has no ONNX file, for it does not run alone: {error}") from error
    if not isinstance(predictor, DensePredictor):
        raise ModelError(f"{model.name}: {task.name} is more than a network of one input and one answer, and has no ONNX file")
    network, footprint = predictor.exportable(), predictor.footprint
    found: dict[str, Any] = {}

    def write(temporary: Path) -> None:
        write_onnx(network, footprint.channels_in, footprint.multiple_of, temporary, _record(model, footprint.multiple_of))
        found["difference"] = onnx_difference(network, footprint.channels_in, footprint.multiple_of, temporary)

    write_all({path: write})
    sizes = {"channels_in": footprint.channels_in, "channels_out": footprint.channels_out, "multiple_of": footprint.multiple_of}
    return {"model": model.name, "output": str(path)} | sizes | found


def _task_of(name: str, registry: Registry) -> str:
    """The task of a model by name or file. Raises ``ModelError``."""
    cards = [card for plugin in registry.all() for card in plugin.models if card.name == name]
    if cards:
        return cards[0].task
    if Path(name).suffix != ".safetensors" and not Path(name).exists():
        raise ModelError(f"no model is named {name!r}, nor a file; i2i models list shows those that there are")
    task = open_model(Path(name)).config.get("task")
    if not isinstance(task, str):
        raise ModelError(f"{name}: does not say of which task it is, so its network is not known")
    return task


def _record(model: Model, multiple_of: int) -> dict[str, str]:
    """What the file says of itself."""
    told = {"program": f"i2i {__version__}", "model": model.name, "sha256": model.sha256, "multiple_of": str(multiple_of)}
    return told | {"i2i": json.dumps(dict(model.config), sort_keys=True)}

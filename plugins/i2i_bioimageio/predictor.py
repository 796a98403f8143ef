"""A model folder as the engine runs it."""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from i2i.backends import available_cores
from i2i.contracts import Array, DensePredictor, Footprint, ImageSpec, Output, Runtime, Source
from i2i.errors import ModelError, UsageError
from i2i.models.state_dicts import load_state_dict
from i2i.normalize import sample_pixels
from i2i_bioimageio import BioimageOptions
from i2i_bioimageio.description import CURE, Description, Weights, check_hash, read
from i2i_bioimageio.steps import Step

Network = Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float32]]
_BYTES = 2048
"""A guess of what such a network takes for each pixel: descriptions do not say."""


class BioimagePredictor(DensePredictor):
    """``network``: the weights, from an array in the order of the description's axes to one of its answer."""

    window_bytes = _BYTES

    def __init__(self, description: Description, network: Network, channels_out: int) -> None:
        self.description, self.network = description, network
        rows, answer = description.input.of("y"), description.output
        assert rows is not None
        halo = max(axis.halo for axis in answer.axes)
        self.footprint = Footprint(
            halo=halo,
            multiple_of=rows.size or rows.step,
            pad="mirror",
            channels_in=description.input.channels,
            channels_out=channels_out,
            merge="crop" if halo else "blend",
            fixed_tile=rows.size or None,
        )
        names = axis.names if (axis := answer.of("c")) else ()
        dtype = "uint8" if answer.dtype == "bool" else answer.dtype
        self.outputs = (Output("image", channels_out, dtype, "image", names if len(names) == channels_out else ()),)
        self.steps = description.input.steps
        self.remarks = () if halo else ("the model names no halo, so windows are blended",)

    def fitted(self, spec: ImageSpec) -> Self:
        """An image smaller than the least that the network takes is padded up to that."""
        rows = self.description.input.of("y")
        assert rows is not None
        if rows.size or min(spec.height, spec.width) >= rows.least:
            return self
        result = copy.copy(self)
        result.footprint = replace(self.footprint, multiple_of=rows.least)
        return result

    def prepare(self, source: Source, seed: int) -> Self:
        """With the statistics of the whole image; above 4 megapixels, of windows at seeded places."""
        if not any(step.measures for step in self.steps):
            return copy.copy(self)
        pixels, steps = sample_pixels(source, seed).astype(np.float32), []
        for step in self.steps:
            steps.append(step.frozen(pixels) if step.measures else step)
            pixels = steps[-1].apply(pixels)
        return self._with(steps)

    def statistics(self) -> dict[str, Any]:
        return {"steps": [{"gain": list(step.gain), "offset": list(step.offset)} for step in self.steps]}

    def with_statistics(self, statistics: Mapping[str, Any]) -> Self:
        known = statistics["steps"]
        return self._with(
            [replace(step, gain=tuple(k["gain"]), offset=tuple(k["offset"])) for step, k in zip(self.steps, known, strict=True)]
        )

    def _with(self, steps: list[Step]) -> Self:
        prepared = copy.copy(self)
        prepared.steps = tuple(steps)
        return prepared

    def normalize(self, pixels: Array) -> npt.NDArray[np.float32]:
        numbers: npt.NDArray[np.float32] = pixels.astype(np.float32)
        for step in self.steps:
            numbers = step.apply(numbers)
        return numbers

    def __call__(self, batch: Tensor) -> Tensor:
        return torch.from_numpy(ordered_call(self.description, self.network, batch.detach().cpu().numpy())).to(batch.device)

    def convert(self, raw: npt.NDArray[np.float32], output: Output) -> Array:
        numbers = raw
        for step in self.description.output.steps:
            numbers = step.apply(numbers)
        return super().convert(numbers, output)


def ordered_call(description: Description, network: Network, batch: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """(N, C, H, W) -> (N, C', H', W') by a network whose axes lie otherwise, one image at a time where it takes no batch."""
    order, answer = description.input.order, description.output.order

    def turned(pixels: npt.NDArray[np.float32], have: str) -> npt.NDArray[np.float32]:
        """From the order of ``have`` to the network's, without channels where that has none."""
        if "c" not in order:
            pixels, have = np.asarray(np.take(pixels, 0, axis=have.index("c"))), have.replace("c", "")
        return np.ascontiguousarray(np.transpose(pixels, [have.index(kind) for kind in order]))

    if "b" in order:
        made = network(turned(batch, "bcyx"))
    else:
        made = np.stack([network(turned(one, "cyx")) for one in batch])
        answer = f"b{answer}"
    made = np.transpose(made, [answer.index(kind) for kind in "bcyx" if kind in answer])
    return np.ascontiguousarray(made if "c" in answer else made[:, None], dtype=np.float32)


# ---------------------------------------------------------------------------------------------------------------- weights


def load(options: BioimageOptions, runtime: Runtime) -> BioimagePredictor:
    """Raises ``ModelError``, and ``UsageError`` for a precision or device that such weights do not run in."""
    if runtime.precision != "fp32" or runtime.device != "cpu":
        raise UsageError("bioimage computes in fp32 on the CPU; leave --precision and --device out")
    description = read(Path(options.package))
    wanted = [name for name in ("onnx", "pytorch") if options.weights in ("auto", name) and name in description.weights]
    if not wanted:
        raise ModelError(f"{description.path}: has no weights of {options.weights}; there are {', '.join(description.weights)}")
    weights = description.weights[wanted[0]]
    for path, sha256 in ((weights.file, weights.sha256), *weights.parts):
        check_hash(path, sha256)
    network = _onnx(weights) if wanted[0] == "onnx" else _pytorch(weights, options.allow_code)
    return BioimagePredictor(description, network, _channels(description, network))


def _channels(description: Description, network: Network) -> int:
    """Of the answer, by a small try: not every description says so."""
    rows, given = description.input.of("y"), description.input
    assert rows is not None
    side = rows.size or max(rows.least, rows.step)
    try:
        return ordered_call(description, network, np.zeros((1, given.channels, side, side), np.float32)).shape[1]
    except Exception as error:  # of onnxruntime, or of the code of others
        raise ModelError(f"{description.path}: the network does not take what its description says: {_line(error)}") from error


def _line(error: Exception) -> str:
    told = str(error).strip().splitlines()
    return f"{type(error).__name__}: {told[0]}" if told else type(error).__name__


def _onnx(weights: Weights) -> Network:
    if find_spec("onnxruntime") is None:
        raise ModelError(f"{weights.file}: ONNX weights need the package onnxruntime: {CURE}")
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = available_cores()
    settings.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(str(weights.file), settings, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors have no base of their own
        raise ModelError(f"{weights.file}: cannot be read as ONNX: {_line(error)}") from error
    name = session.get_inputs()[0].name

    def network(pixels: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        return np.asarray(session.run(None, {name: pixels})[0], np.float32)

    return network


def _pytorch(weights: Weights, allowed: bool) -> Network:
    if weights.code is None:
        raise ModelError(f"{weights.file}: its network is code that is not in the folder; ONNX weights could be run")
    path, name = weights.code
    if not allowed:
        raise ModelError(f"{path}: code that builds the network; read it, and run it with --allow-code, or ask for ONNX weights")
    check_hash(path, weights.code_sha256)
    tensors = load_state_dict(weights.file)
    spec = importlib.util.spec_from_file_location(f"i2i_bioimageio_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        network = getattr(module, name)(**dict(weights.arguments or {}))
        network.load_state_dict(tensors)
        network.eval()
    except Exception as error:  # the code of others may raise anything
        raise ModelError(f"{path}: {name} cannot be built: {_line(error)}") from error

    def called(pixels: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        with torch.inference_mode():
            answer: npt.NDArray[np.float32] = network(torch.from_numpy(pixels)).numpy()
        return answer

    return called

"""What a model folder of bioimage.io says of itself: model descriptions of the formats 0.4 and 0.5 (rdf.yaml, bioimageio.yaml),
as far as a network of one image in and one out needs it.

https://github.com/bioimage-io/spec-bioimage-io says what the fields mean.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from i2i.errors import ModelError
from i2i_bioimageio.external import external_names
from i2i_bioimageio.steps import Step

NAMES = ("rdf.yaml", "bioimageio.yaml", "model.yaml")
CURE = "pip install 'i2i-engine[bioimageio]'"
_SPACE = "yx"


@dataclass(frozen=True)
class Axis:
    """``kind``: b, c, y or x. A ``size`` of 0 is any that is ``least`` plus a multiple of ``step``. ``names``: of channels."""

    kind: str
    size: int = 0
    least: int = 1
    step: int = 1
    halo: int = 0
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Tensor:
    """The image that goes in, or what comes out, and what is done to it before or after."""

    axes: tuple[Axis, ...]
    dtype: str
    steps: tuple[Step, ...]

    def of(self, kind: str) -> Axis | None:
        return next((axis for axis in self.axes if axis.kind == kind), None)

    @property
    def order(self) -> str:
        return "".join(axis.kind for axis in self.axes)

    @property
    def channels(self) -> int:
        axis = self.of("c")
        return axis.size if axis else 1


@dataclass(frozen=True)
class Weights:
    """``file`` inside the folder. ``code``: of a state dict, the file and the name of what builds the network; ``arguments``:
    given to it. ``parts``: files beside an ONNX file that hold its tensors, with their sha256 where the description has it."""

    file: Path
    sha256: str = ""
    code: tuple[Path, str] | None = None
    arguments: Mapping[str, Any] | None = None
    code_sha256: str = ""
    parts: tuple[tuple[Path, str], ...] = ()


@dataclass(frozen=True)
class Description:
    """``weights``: by ``onnx`` and ``pytorch``. ``path``: of the description."""

    path: Path
    name: str
    input: Tensor
    output: Tensor
    weights: Mapping[str, Weights]

    @property
    def files(self) -> tuple[Path, ...]:
        """All that decides what the network is."""
        kinds = self.weights.values()
        codes = [weights.code[0] for weights in kinds if weights.code]
        parts = [part for weights in kinds for part, _ in weights.parts]
        return (self.path, *(weights.file for weights in kinds), *parts, *codes)


def read(place: Path) -> Description:
    """The description in a folder, or of a file. Raises ``ModelError`` that names it, and what it lacks or has that this plugin
    cannot run."""
    path = _found(place)
    if find_spec("yaml") is None:
        raise ModelError(f"{path}: model folders of bioimage.io need the package PyYAML: {CURE}")
    import yaml

    try:
        values = yaml.safe_load(path.read_text("utf-8"))
        if not isinstance(values, Mapping) or values.get("type", "model") != "model":
            raise ModelError("describes no model")
        old = str(values["format_version"]).startswith("0.4")
        if not old and not str(values["format_version"]).startswith("0.5"):
            raise ModelError(f"of format {values['format_version']}; 0.4 and 0.5 are known")
        if len(values["inputs"]) != 1 or len(values["outputs"]) != 1:
            raise ModelError(f"{len(values['inputs'])} inputs and {len(values['outputs'])} outputs; one of each can be run")
        tensor = _old_tensor if old else _tensor
        given, answer = tensor(values["inputs"][0], "preprocessing"), tensor(values["outputs"][0], "postprocessing")
        _check(given, answer)
        return Description(path, str(values["name"]), given, answer, _weights(path.parent, values["weights"], old))
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise ModelError(f"{path}: cannot be read: {str(error).splitlines()[0]}") from error
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, RecursionError) as error:
        raise ModelError(f"{path}: not a description that can be used: {type(error).__name__}: {error}") from error


def _found(place: Path) -> Path:
    if place.is_file() and place.suffix in (".yaml", ".yml"):
        return place
    if place.is_file():
        raise ModelError(f"--package {place}: a file; unpack it, and give the folder")
    paths = [place / name for name in NAMES if (place / name).is_file()]
    if not paths:
        raise ModelError(f"--package {place}: no folder with one of {', '.join(NAMES)}")
    return paths[0]


# ---------------------------------------------------------------------------------------------------------------- tensors


def _steps(values: Sequence[Mapping[str, Any]]) -> tuple[Step, ...]:
    return tuple(Step.of(str(value.get("id") or value["name"]), value.get("kwargs") or {}) for value in values)


def _old_tensor(values: Mapping[str, Any], steps: str) -> Tensor:
    """Of format 0.4: axes are letters, sizes and halos lists beside them."""
    kinds, shape = str(values["axes"]), values["shape"]
    halo = values.get("halo") or [0] * len(kinds)
    axes = []
    for place, kind in enumerate(kinds):
        if isinstance(shape, Mapping) and "min" in shape:
            least, step = int(shape["min"][place]), int(shape["step"][place])
            axis = Axis(kind, least, halo=halo[place]) if step == 0 else Axis(kind, 0, least, step, halo[place])
        elif isinstance(shape, Mapping):
            scale, offset = float(shape["scale"][place]), float(shape["offset"][place])
            if kind in _SPACE and (scale, offset) != (1.0, 0.0):
                raise ModelError(
                    f"an answer of {scale} times the input's size {2 * offset:+g} pixels; of equal sizes it could be run"
                )
            axis = Axis(kind, 0 if scale else round(2 * offset), halo=int(halo[place]))
        else:
            axis = Axis(kind, int(shape[place]), halo=int(halo[place]))
        axes.append(axis)
    return Tensor(tuple(axes), str(values["data_type"]), _steps(values.get(steps) or ()))


def _tensor(values: Mapping[str, Any], steps: str) -> Tensor:
    """Of format 0.5: each axis says all of itself."""
    axes = tuple(map(_axis, values["axes"]))
    data = values.get("data") or {}
    kind = "float32" if isinstance(data, list) else str(data.get("type", "float32"))
    return Tensor(axes, kind, _steps(values.get(steps) or ()))


def _axis(values: Mapping[str, Any]) -> Axis:
    kinds = {"batch": "b", "channel": "c", "time": "t", "index": "i"}
    kind = kinds.get(values["type"]) or str(values["id"])
    size, halo = values.get("size"), int(values.get("halo") or 0)
    if kind == "c":
        names = tuple(map(str, values["channel_names"]))
        return Axis(kind, len(names), names=names)
    if kind == "b" or size is None:
        return Axis(kind, 1)
    if isinstance(size, int):
        return Axis(kind, size, halo=halo)
    if "tensor_id" in size:
        if int(size.get("offset") or 0):
            raise ModelError(f"an answer of {size['offset']:+} pixels; of equal sizes it could be run")
        return Axis(kind, 0, halo=halo)
    return Axis(kind, 0, int(size["min"]), int(size["step"]), halo)


def _check(given: Tensor, answer: Tensor) -> None:
    for tensor in (given, answer):
        if {"y", "x"} - set(tensor.order) or set(tensor.order) - set("bcyx"):
            raise ModelError(f"axes {tensor.order}; b, c, y and x can be run: flat images")
    if measured := [step.name for step in answer.steps if step.measures]:
        raise ModelError(f"the step {measured[0]} measures the answer, which is never whole; before the network it could be run")
    rows, columns = given.of("y"), given.of("x")
    assert rows and columns
    if (rows.size, rows.least, rows.step) != (columns.size, columns.least, columns.step):
        raise ModelError("other sizes of rows than of columns; equal ones could be run")
    if not rows.size and rows.least % rows.step:
        raise ModelError(f"sizes of {rows.least} plus multiples of {rows.step}; multiples of {rows.step} could be run")


# ---------------------------------------------------------------------------------------------------------------- weights


def _weights(folder: Path, values: Mapping[str, Any], old: bool) -> dict[str, Weights]:
    """Those that can be run. Raises ``ModelError`` where there are none."""
    found: dict[str, Weights] = {}
    if "onnx" in values:
        file, sha256 = _inside(folder, values["onnx"]["source"]), str(values["onnx"].get("sha256") or "")
        check_hash(file, sha256)  # before it is looked into
        found["onnx"] = Weights(file, sha256, parts=_parts(folder, file, values["onnx"].get("external_data")))
    state = values.get("pytorch_state_dict")
    if state:
        file, sha256 = _inside(folder, state["source"]), str(state.get("sha256") or "")
        code, arguments = _architecture(folder, state, old)
        written = state.get("architecture_sha256") if old else state["architecture"].get("sha256")
        found["pytorch"] = Weights(file, sha256, code, arguments, str(written or ""))
    if not found:
        raise ModelError(f"weights of {', '.join(values) or 'no kind'}; onnx and pytorch_state_dict can be run")
    return found


def _parts(folder: Path, file: Path, told: Any) -> tuple[tuple[Path, str], ...]:
    """The files in which an ONNX file keeps its tensors: those that it names, whose place is beside it, and what the description
    says of one of them."""
    beside = file.parent.relative_to(folder)
    parts = dict.fromkeys((_inside(folder, beside / name) for name in external_names(file)), "")
    if told:
        parts[_inside(folder, told["source"])] = str(told.get("sha256") or "")
    return tuple(parts.items())


def _architecture(folder: Path, state: Mapping[str, Any], old: bool) -> tuple[tuple[Path, str] | None, Mapping[str, Any]]:
    architecture = state["architecture"]
    if old:
        source, _, name = str(architecture).rpartition(":")
        arguments = state.get("kwargs") or {}
    else:
        source, name = str(architecture.get("source") or ""), str(architecture["callable"])
        arguments = architecture.get("kwargs") or {}
    return ((_inside(folder, source), name) if source.endswith(".py") else None), arguments


def _inside(folder: Path, source: Any) -> Path:
    """The path of a file of the folder. Raises ``ModelError`` for one elsewhere, and for one that is not there."""
    name = str(source.get("source") if isinstance(source, Mapping) else source)
    if "://" in name:
        raise ModelError(f"{name} is not in the folder; download the model's package, which has all its files")
    path = folder / name
    if Path(name).is_absolute() or not path.resolve().is_relative_to(folder.resolve()):
        raise ModelError(f"names {name}, which is not in its folder")
    if not path.is_file():
        raise ModelError(f"names {name}, which is not there")
    return path


def check_hash(path: Path, sha256: str) -> None:
    """Raises ``ModelError`` where the file is another than the description says, if it says."""
    if not sha256:
        return
    found = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(2**20):
            found.update(block)
    if found.hexdigest() != sha256:
        raise ModelError(f"{path}: not the file of the description (its sha256 differs); get the package again")

"""Run a model folder of bioimage.io: rdf.yaml with ONNX weights, or a state dict

It needs the packages of the extra bioimageio. A folder's own Python code is run only where --allow-code says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import i2i
from i2i.contracts import Model, Predictor, Runtime, Task
from i2i.options import option

I2I_API = 1
WEIGHTS = ("auto", "onnx", "pytorch")


@dataclass(frozen=True, kw_only=True)
class BioimageOptions:
    """``i2i bioimage``, beyond those of every image command."""

    package: str = option(help="the model's folder, unpacked, or its rdf.yaml", metavar="FOLDER")
    weights: str = option("auto", help="of those that the folder holds; auto: ONNX, else the state dict", choices=WEIGHTS)
    allow_code: bool = option(False, help="run the folder's Python code, which may do anything: a state dict needs it")


def _load(options: BioimageOptions, model: Model | None, runtime: Runtime) -> Predictor:
    from i2i_bioimageio.predictor import load

    return load(options, runtime)


def _files(options: BioimageOptions) -> Sequence[Path]:
    from i2i_bioimageio.description import read

    return read(Path(options.package)).files


@i2i.hookimpl
def i2i_tasks() -> list[Task]:
    return [
        Task(
            name="bioimage",
            summary="Run a model folder of bioimage.io: rdf.yaml with ONNX weights, or a state dict",
            options=BioimageOptions,
            load=_load,
            needs_model=False,
            files=_files,
            meanings=("image",),
        )
    ]

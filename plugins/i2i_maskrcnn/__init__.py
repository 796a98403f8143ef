"""Find and outline every object: instance masks (Mask R-CNN).

A plugin like anyone's: it is found by its entry point, and imports torch only when a network is built.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import i2i
from i2i.contracts import Compared, Demo, Evaluation, Model, ModelCard, Runtime, Task, Training, TrainingRun
from i2i.errors import ModelError
from i2i_maskrcnn.eval_options import HEADLINE, EvalOptions
from i2i_maskrcnn.options import InstancesOptions, TrainOptions

if TYPE_CHECKING:
    from i2i_maskrcnn.predictor import MaskRCNNPredictor

I2I_API = 1
_HERE = Path(__file__).parent


def _load(options: InstancesOptions, model: Model | None, runtime: Runtime) -> MaskRCNNPredictor:
    from i2i_maskrcnn import predictor

    if model is None:
        raise ModelError("instances needs a model: give one with --model")
    return predictor.load(model, runtime, options)


def _train(options: TrainOptions, run: TrainingRun) -> Mapping[str, Any]:
    from i2i_maskrcnn.train import train

    return train(options, run)


def _measure(case: Compared, options: EvalOptions) -> Mapping[str, float]:
    from i2i_maskrcnn.evaluate import measure

    return measure(case, options)


def _pool(figures: Sequence[Mapping[str, float]]) -> Mapping[str, float]:
    from i2i_maskrcnn.evaluate import pool

    return pool(figures)


def _files(prediction: Path, truth: Path, options: EvalOptions) -> Mapping[str, float] | None:
    from i2i_maskrcnn.evaluate import files

    return files(prediction, truth, options)


@i2i.hookimpl
def i2i_tasks() -> list[Task]:
    return [
        Task(
            name="instances",
            summary="Find and outline every object: instance masks (Mask R-CNN)",
            options=InstancesOptions,
            load=_load,
            train=Training(TrainOptions, _train),
            evaluate=Evaluation(EvalOptions, _measure, _pool, HEADLINE, _files),
            demos=(
                Demo("Many nuclei, each outlined", _HERE / "samples/nuclei-many.png"),
                Demo("Nuclei in rows, in stained tissue", _HERE / "samples/tissue-rows.png"),
            ),
        )
    ]


@i2i.hookimpl
def i2i_models() -> list[ModelCard]:
    return [ModelCard.from_toml(path) for path in sorted((_HERE / "models").glob("*.toml"))]

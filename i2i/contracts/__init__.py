"""The contracts between the engine and its plugins: plain frozen values and small base classes, numpy only.

A plugin returns :class:`Task`, :class:`ModelCard`, :class:`Format` and :class:`Exporter` values from its hooks. A task's
``load`` gives a predictor, which declares a :class:`Footprint`; from it the engine knows how to tile exactly.

Arrays outside a predictor are HWC in the image's dtype. Predictors are given torch tensors: NCHW, float32, on the device.
"""

from __future__ import annotations

from i2i.contracts.images import Array, Footprint, ImageSpec, Meaning, Output, Source
from i2i.contracts.plugins import (
    Compared,
    Demo,
    Evaluation,
    Exported,
    Exporter,
    Format,
    Metadata,
    Model,
    ModelCard,
    Objects,
    Runtime,
    Task,
    Training,
    TrainingRun,
)
from i2i.contracts.predictors import (
    Checkpoint,
    DensePredictor,
    ImagePredictor,
    ImageWork,
    InstancePredictor,
    Instances,
    LabelRule,
    ObjectFilter,
    Predictor,
    WritableSource,
    traced,
)

I2I_API = 1
"""The version of these contracts. A plugin module states the one it was written for: ``I2I_API = 1``."""

__all__ = [
    "I2I_API",
    "Array",
    "Checkpoint",
    "Compared",
    "Demo",
    "DensePredictor",
    "Evaluation",
    "Exported",
    "Exporter",
    "Footprint",
    "Format",
    "ImagePredictor",
    "ImageSpec",
    "ImageWork",
    "InstancePredictor",
    "Instances",
    "LabelRule",
    "Meaning",
    "Metadata",
    "Model",
    "ModelCard",
    "ObjectFilter",
    "Objects",
    "Output",
    "Predictor",
    "Runtime",
    "Source",
    "Task",
    "Training",
    "TrainingRun",
    "WritableSource",
    "traced",
]

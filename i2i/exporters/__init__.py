"""The exporters that come with i2i."""

from __future__ import annotations

from i2i.contracts import Exporter
from i2i.exporters.coco import COCO
from i2i.exporters.crops import CROPS
from i2i.exporters.geojson import GEOJSON
from i2i.exporters.overlay import OVERLAY
from i2i.exporters.table import TABLE

__all__ = ["builtin_exporters"]


def builtin_exporters() -> tuple[Exporter, ...]:
    return OVERLAY, TABLE, GEOJSON, COCO, CROPS

"""COCO JSON from a folder of label images and the list of what they hold, as the data set coco-sample has for its test images.

Usage:

    python benchmarks/coco_sample.py DATA_DIR OUT.json --category person

DATA_DIR holds ``instances.json``: a list with a record for each image, its objects by instance id with category, box and crowd;
and ``masks/NAME.png``: the instance id of each pixel, 0 for the background. ``i2i eval instances FOUND OUT.json`` reads OUT.json.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from i2i.formats import open_image
from i2i.metrics import code_of

Labels = npt.NDArray[Any]


def labels_of(path: Path) -> Labels:
    """(H, W) instance ids."""
    source = open_image(path)
    try:
        return source.read(source.spec.region)[..., 0]
    finally:
        source.close()


def annotation(record: dict[str, Any], labels: Labels) -> dict[str, Any]:
    """A record's object as COCO has it, but for the ids. Its pixels may be fewer than its area says, never none."""
    mask = labels == record["instance"]
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    top, left = int(rows[0]), int(columns[0])
    box = mask[top : rows[-1] + 1, left : columns[-1] + 1]
    code = code_of(box, top, left, (mask.shape[0], mask.shape[1]))
    return {
        "category_id": record["category_id"],
        "segmentation": {"size": code["size"], "counts": code["counts"].decode()},
        "area": int(box.sum()),
        "bbox": [left, top, box.shape[1], box.shape[0]],
        "iscrowd": record["iscrowd"],
    }


def converted(data: Path, wanted: Sequence[str] = ()) -> dict[str, Any]:
    """The COCO data set of a folder; of the categories ``wanted`` alone, where there are any. All images stay."""
    records = json.loads((data / "instances.json").read_text("utf-8"))
    names = {each["category_id"]: each["category"] for record in records for each in record["instances"]}
    chosen = {number: name for number, name in sorted(names.items()) if not wanted or name in wanted}
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, record in enumerate(records, 1):
        labels = labels_of(data / "masks" / Path(record["image"]).with_suffix(".png"))
        images.append({"id": number, "file_name": record["image"], "height": labels.shape[0], "width": labels.shape[1]})
        objects = [each for each in record["instances"] if each["category_id"] in chosen]
        made = [annotation(each, labels) for each in objects]
        annotations += [{"id": len(annotations) + place, "image_id": number} | each for place, each in enumerate(made, 1)]
    categories = [{"id": number, "name": name} for number, name in chosen.items()]
    return {"images": images, "annotations": annotations, "categories": categories}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="the folder with instances.json and masks")
    parser.add_argument("out", type=Path, help="the file to write")
    parser.add_argument("--category", action="append", default=[], help="only objects of this category (may be repeated)")
    arguments = parser.parse_args()
    if not (arguments.data / "instances.json").exists():
        sys.exit(f"{arguments.data}: holds no instances.json; give the folder with it and masks")
    made = converted(arguments.data, arguments.category)
    if not made["annotations"]:
        sys.exit(f"{arguments.data}: holds no object of {', '.join(arguments.category)}; leave --category out")
    arguments.out.write_text(json.dumps(made), "utf-8")
    print(f"{len(made['images'])} images, {len(made['annotations'])} objects, {len(made['categories'])} categories")


if __name__ == "__main__":
    main()

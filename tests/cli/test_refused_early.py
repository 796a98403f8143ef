"""What a format cannot hold is refused before anything is computed."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile

from i2i.contracts import Output
from i2i.formats import raster_write
from i2i.options import RunOptions
from i2i.registry import Registry
from i2i.session import Item, Session
from tests import toys


class Picture(toys.Mirrored):
    """A picture of as many channels as the image has; computing it fails."""

    def fitted(self, spec):
        self.footprint = toys.Footprint(halo=2, channels_in=spec.channels, channels_out=spec.channels)
        self.outputs = (Output("picture", spec.channels, "uint8", "image"),)
        return self

    def __call__(self, batch):
        raise AssertionError("computed")


def process(folder, image: np.ndarray, name: str, **options: object):
    axes = "QYXS" if image.ndim == 4 else "YXS"
    colour = "rgb" if image.shape[-1] == 3 else "minisblack"
    tifffile.imwrite(folder / "in.tif", image, photometric=colour, planarconfig="contig", metadata={"axes": axes})
    task = toys.Task("picture", "a picture", toys.NoOptions, lambda *_: Picture(), needs_model=False, lossy=True)
    session = Session(task, toys.NoOptions(), RunOptions(device="cpu", **options), Registry())
    return session.process(Item(folder / "in.tif", folder / name, "in.tif"))


@pytest.mark.parametrize(
    ("shape", "name", "options", "told"),
    [
        ((20, 90, 3), "out.jpg", {}, "at most 80 pixels a side; write a .tif"),
        ((20, 90, 3), "out.webp", {}, "at most 80 pixels a side; write a .tif"),
        ((20, 30, 5), "out.tif", {"compression": "jpeg"}, "JPEG holds 1 or 3 channels of uint8, and the image has 5"),
        ((2, 20, 30, 3), "out.zarr", {}, "OME-Zarr has no room for the axes"),
    ],
    ids=["jpeg", "webp", "jpeg in tiff", "zarr"],
)
def test_it_is_refused(tmp_path, monkeypatch, shape, name, options, told):
    monkeypatch.setattr(raster_write, "JPEG_SIDE", 80)
    monkeypatch.setattr(raster_write, "WEBP_SIDE", 80)
    with pytest.raises(Exception, match=told):
        process(tmp_path, np.zeros(shape, np.uint8), name, **options)
    assert [path.name for path in tmp_path.iterdir()] == ["in.tif"]


def test_what_fits_is_computed(tmp_path):
    with pytest.raises(AssertionError, match="computed"):
        process(tmp_path, np.zeros((20, 90, 3), np.uint8), "out.jpg")

"""What napari, QuPath and Fiji expect of files, checked by the readers that they use: labels as TIFF, as OME-Zarr, as GeoJSON."""

from __future__ import annotations

import json
import uuid
from xml.etree import ElementTree

import numpy as np
import pytest
import shapely.geometry
import tifffile
import zarr
from ome_zarr_models.v05.image_label import ImageLabel

from i2i.contracts import Metadata
from i2i.formats import ArraySource
from i2i.formats.tiff_write import write as write_tiff
from tests.cli.kit import done, load, picture, save

OME = {"ome": "http://www.openmicroscopy.org/Schemas/OME/2016-06"}
SIZE = {"PhysicalSizeX": 0.25, "PhysicalSizeY": 0.5, "PhysicalSizeXUnit": "µm", "PhysicalSizeYUnit": "µm"}
KINDS = ("labels", "classes")


@pytest.fixture
def image(folder):
    """One channel, 0.25 x 0.5 micrometres a pixel."""
    return save("in.ome.tif", picture(150, 200), metadata={"axes": "YX", **SIZE})


def pixels_of(file):
    """The attributes of the only image in a file's OME-XML."""
    (found,) = ElementTree.fromstring(file.ome_metadata).iterfind(".//ome:Pixels", OME)
    return found.attrib


# ----------------------------------------------------------------------------------------------------------------- TIFF


def test_a_label_tiff_is_whole_numbers_with_the_size_of_its_pixels(segment, image):
    """napari reads the array, Fiji and QuPath the OME-XML; what knows neither reads the resolution of plain TIFF."""
    count = done(segment(image, "-o", "labels.tif", "--json")).run["objects"]
    with tifffile.TiffFile("labels.tif") as file:
        (series,), page, pixels = file.series, file.pages[0], pixels_of(file)
        assert file.is_ome and (series.axes, series.shape, series.dtype) == ("YX", (150, 200), np.dtype("uint16"))
        assert page.photometric == tifffile.PHOTOMETRIC.MINISBLACK and page.colormap is None and page.samplesperpixel == 1
        assert (pixels["Type"], pixels["SizeX"], pixels["SizeY"], pixels["SizeC"]) == ("uint16", "200", "150", "1")
        assert (float(pixels["PhysicalSizeX"]), float(pixels["PhysicalSizeY"])) == (0.25, 0.5)
        assert {pixels.get("PhysicalSizeXUnit", "µm"), pixels.get("PhysicalSizeYUnit", "µm")} == {"µm"}
        across, down = (page.tags[name].value for name in ("XResolution", "YResolution"))
        unit = {2: 25_400, 3: 10_000}[page.tags["ResolutionUnit"].value]
        assert [unit * parts[1] / parts[0] for parts in (across, down)] == pytest.approx([0.25, 0.5])
        assert np.unique(series.asarray()).tolist() == list(range(count + 1)) and count > 3


@pytest.mark.parametrize(("most", "dtype"), [(65_535, "uint16"), (65_536, "uint32"), (2**32 - 1, "uint32")])
def test_ids_beyond_16_bits_are_whole_numbers_too(folder, most, dtype):
    labels = np.array([[0, 1], [most, 7]], dtype)
    write_tiff(folder / "a.tif", ArraySource(labels[..., None]), Metadata("labels", {}, "ab"))
    with tifffile.TiffFile("a.tif") as file:
        assert pixels_of(file)["Type"] == dtype and file.pages[0].sampleformat == tifffile.SAMPLEFORMAT.UINT
        np.testing.assert_array_equal(file.asarray(), labels)


# ------------------------------------------------------------------------------------------------------------- OME-Zarr


@pytest.mark.parametrize("kind", KINDS)
def test_an_ome_zarr_of_labels_says_that_it_is_one(segment, image, kind):
    """By ``image-label`` napari makes a layer of labels of it; without, one of a picture."""
    from ome_zarr.io import parse_url
    from ome_zarr.reader import Label, Reader

    done(segment(image, "-o", "out.ome.zarr", "--as", kind))
    done(segment(image, "-o", "out.tif", "--as", kind))
    group = zarr.open_group("out.ome.zarr", mode="r")
    attributes = ImageLabel.from_zarr(group).attributes.ome
    assert attributes.image_label is not None and attributes.version == attributes.image_label.version == "0.5"
    (multiscale,) = attributes.multiscales
    assert [(axis.name, axis.type, axis.unit) for axis in multiscale.axes[-2:]] == [
        ("y", "space", "micrometer"), ("x", "space", "micrometer"),
    ]  # fmt: skip
    (node,) = Reader(parse_url("out.ome.zarr", mode="r"))()
    assert node.load(Label) is not None and np.dtype(node.data[0].dtype).kind == "u"
    np.testing.assert_array_equal(np.asarray(node.data[0]).reshape(150, 200), load("out.tif"))
    (scaling,) = node.metadata["coordinateTransformations"][0]
    assert scaling["scale"][-2:] == [0.5, 0.25]


def test_an_ome_zarr_of_probabilities_is_none(segment, image):
    done(segment(image, "-o", "out.ome.zarr", "--as", "probabilities"))
    assert "image-label" not in zarr.open_group("out.ome.zarr", mode="r").attrs["ome"]


# -------------------------------------------------------------------------------------------------------------- GeoJSON


def ring_faults(ring, outer):
    """RFC 7946, section 3.1.6: closed, four positions or more, outer ones counter-clockwise, holes clockwise; and section 3.1.1:
    a position is two or three finite numbers."""
    points = np.array(ring, float)
    if points.ndim != 2 or points.shape[1] not in (2, 3) or not np.isfinite(points).all():
        return ["a position that is none"]
    x, y = points[:, 0], points[:, 1]
    turned = float((x[:-1] * y[1:] - x[1:] * y[:-1]).sum())
    return [
        *(["not closed"] if (points[0] != points[-1]).any() else []),
        *(["fewer than four positions"] if len(points) < 4 else []),
        *(["an outer ring that is clockwise"] if outer and turned <= 0 else []),
        *(["a hole that is counter-clockwise"] if not outer and turned >= 0 else []),
    ]


def feature_faults(feature):
    """What of RFC 7946 (sections 3.1 and 3.2) and of what QuPath imports a feature does not keep."""
    faults = [name for name in ("type", "properties", "geometry") if name not in feature]
    faults += ["a type other than Feature"] if feature.get("type") != "Feature" else []
    faults += [] if isinstance(feature.get("id"), str) and uuid.UUID(feature["id"]) else ["an id that QuPath does not keep"]
    geometry, properties = feature["geometry"], feature["properties"]
    faults += ["members that belong elsewhere"] if set(geometry) != {"type", "coordinates"} else []
    parts = {"Polygon": [geometry["coordinates"]], "MultiPolygon": geometry["coordinates"]}.get(geometry["type"], [])
    faults += [] if parts else [f"a geometry {geometry['type']}"]
    for part in parts:
        for number, ring in enumerate(part):
            faults += ring_faults(ring, outer=number == 0)
    shape = shapely.geometry.shape(geometry)
    faults += [] if shape.is_valid else [shapely.is_valid_reason(shape)]
    known = {"annotation", "detection", "cell", "tile", "root"}
    faults += [] if properties.get("objectType") in known else ["an objectType that QuPath does not know"]
    if "classification" in properties:
        named, colour = properties["classification"]["name"], properties["classification"]["color"]
        good = named and len(colour) == 3 and all(isinstance(one, int) and 0 <= one <= 255 for one in colour)
        faults += [] if good else ["a classification without a name and a colour"]
    measured = properties.get("measurements", {})
    faults += [name for name, value in measured.items() if not (name and isinstance(value, int | float))]
    return faults


@pytest.mark.parametrize("task", ["segment", "instances"])
def test_a_collection_keeps_rfc_7946_and_is_what_qupath_imports(i2i, segment, folder, task):
    """Coordinates are pixels, x first, of the image that the file is dropped on: RFC 7946 asks for degrees, QuPath for these."""
    if task == "segment":
        image = save("in.tif", picture(150, 200))
        done(segment(image, "-o", "labels.tif", "--geojson", "out.geojson"))
    else:
        image = save("in.tif", picture(120, 160))
        done(i2i("instances", image, "-o", "labels.tif", "--geojson", "out.geojson", "--precision", "fp32"))
    text = (folder / "out.geojson").read_text("utf-8")
    document = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert document["type"] == "FeatureCollection" and not {"crs", "coordinates", "geometry"} & set(document)
    features, labels = document["features"], load("labels.tif")
    assert [(feature["properties"]["label"], feature_faults(feature)) for feature in features] == [
        (number, []) for number in np.unique(labels[labels > 0]).tolist()
    ]
    assert len({feature["id"] for feature in features}) == len(features) > 3
    for feature in features:
        ys, xs = np.nonzero(labels == feature["properties"]["label"])
        bounds = shapely.geometry.shape(feature["geometry"]).bounds
        assert bounds == (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)
        assert ("classification" in feature["properties"]) == (task == "instances")


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (lambda ring: ring[::-1], "clockwise"),
        (lambda ring: ring[:-1], "not closed"),
        (lambda ring: [*ring[:1], *ring[:1]], "fewer than four"),
        (lambda ring: [[0, 0], [4, 0], [4, 4], [0, 4], [5, 2], [0, 0]], "Self-intersection"),
    ],
)
def test_the_check_finds_what_does_not_keep_it(wrong, told):
    ring = [[0, 0], [3, 0], [3, 2], [0, 2], [0, 0]]
    feature = {"type": "Feature", "id": str(uuid.uuid4()), "properties": {"objectType": "detection"}}

    def faults(ring):
        geometry = {"type": "Polygon", "coordinates": [ring]}
        return ring_faults(ring, outer=True) or feature_faults(feature | {"geometry": geometry})

    assert faults(ring) == [] and told in str(faults(wrong(ring)))

"""One image from file to file with toy tasks: channels, planes, statistics, formats that a plugin brings."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
from torch import Tensor

from i2i.contracts import Array, DensePredictor, Footprint, Format, ImageSpec, Metadata, Output, Source, Task
from i2i.errors import OutputError, UsageError
from i2i.formats import open_image
from i2i.formats.views import ArraySource
from i2i.options import RunOptions
from i2i.registry import Registry
from i2i.session import Item, Session
from tests.toys import FIND, SMOOTH, NoOptions


class Brighter(DensePredictor):
    """Adds one to any number of channels."""

    def __init__(self, keeps: bool) -> None:
        self.keeps = keeps

    def fitted(self, spec: ImageSpec) -> Brighter:
        fitted = copy.copy(self)
        fitted.footprint = Footprint(channels_in=spec.channels, channels_out=spec.channels)
        fitted.outputs = (Output("image", spec.channels, "uint16", "image", keeps_channels=self.keeps),)
        return fitted

    def __call__(self, batch: Tensor) -> Tensor:
        return batch + 1


def brighten(keeps: bool = True) -> Task:
    return Task("brighten", "Toy: adds one", NoOptions, lambda *_: Brighter(keeps), needs_model=False, lossy=True)


NPY = Format(
    name="NPY", suffixes=(".npy",), summary="one plane as numpy stores it", sniff=lambda head, path: head[:6] == b"\x93NUMPY",
    open=lambda path: ArraySource(np.load(path)), compressions=("zlib",),
    write=lambda path, source, metadata: np.save(path, source.read(source.spec.region)),
)  # fmt: skip


def _write_all_planes(path: Path, source: Source, metadata: Metadata) -> None:
    spec = source.spec
    planes = np.stack([source.read(spec.region, plane) for plane in range(spec.plane_count)])
    told = {"axes": spec.planes, "compression": metadata.compression, "threads": metadata.threads}
    with path.open("wb") as stream:
        np.savez(stream, planes=planes, told=json.dumps(told))


NPZ = Format(
    name="NPZ", suffixes=(".npz",), summary="all planes", sniff=lambda head, path: False,
    open=lambda path: ArraySource(np.zeros((1, 1))), write=_write_all_planes, planes=True, compressions=("none", "zstd"),
)  # fmt: skip


class Formats(Registry):
    """With the formats above."""

    def formats(self) -> tuple[Format, ...]:
        return (*super().formats(), NPY, NPZ)


def process(task: Task, path: Path, output: str, **options: object):
    session = Session(task, task.options(), RunOptions(**{"device": "cpu", **options}), Formats())
    return session.process(Item(path, path.with_name(output), path.name))


@pytest.fixture
def stack(tmp_path: Path) -> Path:
    """Planes z = 3 of two channels with names, 20 x 30 pixels."""
    pixels = np.random.default_rng(0).integers(0, 1000, (3, 2, 20, 30), np.uint16)
    names = {"Name": ["DAPI", "far red"]}
    tifffile.imwrite(tmp_path / "in.tif", pixels, ome=True, metadata={"axes": "ZCYX", "Channel": names})
    return tmp_path / "in.tif"


@pytest.mark.parametrize(
    ("channels", "keeps", "names"),
    [
        ("", True, ("DAPI", "far red")),
        ("far red,0", True, ("far red", "DAPI")),
        ("1", True, ("far red",)),
        ("", False, ()),
    ],
)
def test_channels_keep_their_names_where_the_result_is_made_of_them_one_by_one(stack, channels, keeps, names) -> None:
    process(brighten(keeps), stack, "out.tif", channels=channels)
    made, given = open_image(stack.with_name("out.tif")), open_image(stack)
    order = [("DAPI", "far red").index(name) for name in names] or [0, 1]
    assert made.spec.planes == (("z", 3),) and (made.spec.channel_names == names or not names)
    assert not {"DAPI", "far red"} & set(() if names else made.spec.channel_names)
    for plane in range(3):
        expected = given.read(given.spec.region, plane)[..., order] + 1
        np.testing.assert_array_equal(made.read(made.spec.region, plane), expected)
    made.close(), given.close()


def test_a_format_of_all_planes_is_given_them_with_the_compression_and_the_threads(stack) -> None:
    report = process(brighten(), stack, "out.npz", compression="zstd", channels="0")
    with np.load(stack.with_name("out.npz")) as stored:
        told, planes = json.loads(str(stored["told"])), stored["planes"]
    assert told == {"axes": [["z", 3]], "compression": "zstd", "threads": report.plan["threads"]}
    assert planes.shape == (3, 20, 30, 1) and report.planes == 3
    process(brighten(), stack, "auto.npz")
    with np.load(stack.with_name("auto.npz")) as stored:
        assert json.loads(str(stored["told"]))["compression"] == ""


def test_a_format_of_one_plane_is_refused_for_several_and_takes_one(stack) -> None:
    with pytest.raises(OutputError, match=r"out.npy: NPY holds one plane, and there are 3; choose one, such as --plane z=0, or"):
        process(brighten(), stack, "out.npy")
    process(brighten(), stack, "out.npy", plane="z=1")
    assert np.load(stack.with_name("out.npy")).shape == (20, 30, 2)
    assert sorted(path.name for path in stack.parent.iterdir()) == ["in.tif", "out.npy"]


@pytest.mark.parametrize(("output", "compression"), [("out.npz", "zlib"), ("out.npy", "zstd")])
def test_a_compression_is_one_of_the_formats(stack, output, compression) -> None:
    with pytest.raises(UsageError, match=f"--compression {compression}: .*{output}: .* knows (none, zstd|zlib)$"):
        process(brighten(), stack, output, compression=compression, plane="z=1")


@pytest.mark.parametrize("task", [FIND, SMOOTH])
def test_detectors_and_iterative_methods_do_planes_as_images_of_their_own(task: Task, stack: Path) -> None:
    options: dict[str, object] = {"channels": "0"}
    report = process(task, stack, "all.tif", **options)
    for plane in range(3):
        process(task, stack, f"{plane}.tif", plane=f"z={plane}", **options)
    alone = [tifffile.imread(stack.with_name(f"{plane}.tif")) for plane in range(3)]
    np.testing.assert_array_equal(tifffile.imread(stack.with_name("all.tif")), np.stack(alone))
    if task is FIND:
        assert report.objects == sum(int(labels.max()) for labels in alone) >= 3


def test_warnings_of_a_plane_name_it(stack, monkeypatch) -> None:
    from i2i import planes

    run = planes.run_job

    def warned(job):
        return replace(run(job), warnings=["odd"])

    monkeypatch.setattr(planes, "run_job", warned)
    assert process(brighten(), stack, "a.tif").warnings == ["z=0: odd", "z=1: odd", "z=2: odd"]
    assert process(brighten(), stack, "b.tif", plane="z=1").warnings == ["odd"]


def test_what_is_done_is_told_by_plane(stack) -> None:
    told: list[str] = []
    session = Session(brighten(), NoOptions(), RunOptions(device="cpu"), Registry())
    session.process(Item(stack, stack.with_name("out.tif"), "in.tif"), lambda stage, share: told.append(stage))
    assert [stage for stage in dict.fromkeys(told) if "infer" in stage] == ["z=0 infer", "z=1 infer", "z=2 infer"]


def test_labels_are_narrowed_by_the_fullest_plane_not_by_their_sum() -> None:
    from i2i.planes import PlaneResults
    from i2i.publish import narrow_labels

    def plane(number: int) -> Array:
        return np.full((2, 2), number, np.uint32)

    few = PlaneResults([ArraySource(plane(40_000)), ArraySource(plane(65_535))], (("z", 2),))
    narrowed = narrow_labels(few, 65_535)
    assert (narrowed.spec.dtype, narrowed.spec.planes) == ("uint16", (("z", 2),))
    assert narrowed.read(narrowed.spec.region, 1).max() == 65_535 and narrowed.read(narrowed.spec.region).max() == 40_000
    assert narrow_labels(few, 65_536).spec.dtype == narrow_labels(few, None).spec.dtype == "uint32"

"""Model folders of bioimage.io: what they describe is what is run, and their code is run by nobody's mistake."""

from __future__ import annotations

import copy
import hashlib
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
import yaml
from PIL import Image

import i2i
from i2i.contracts import ImageSpec, Runtime
from i2i.errors import I2IError, ModelError, UsageError
from i2i.exchange import export_model
from i2i.testing import assert_predictor_contract, blobs
from i2i_bioimageio import BioimageOptions, i2i_tasks
from i2i_bioimageio.description import read
from i2i_bioimageio.external import external_names
from i2i_bioimageio.predictor import load
from i2i_bioimageio.steps import Step

SAMPLE = Path(__file__).parents[2] / "plugins/i2i_unet/samples/nuclei.png"
OLD = {
    "format_version": "0.4.9",
    "type": "model",
    "name": "nuclei",
    "inputs": [
        {
            "name": "raw", "axes": "bcyx", "data_type": "float32",
            "shape": {"min": [1, 1, 64, 64], "step": [0, 0, 16, 16]},
            "preprocessing": [
                {
                    "name": "scale_range",
                    "kwargs": {"axes": "yx", "min_percentile": 1.0, "max_percentile": 99.8, "mode": "per_sample", "eps": 1e-9},
                }
            ],
        }
    ],
    "outputs": [
        {
            "name": "found", "axes": "bcyx", "data_type": "float32", "halo": [0, 0, 96, 96],
            "shape": {"reference_tensor": "raw", "scale": [1, 0, 1, 1], "offset": [0, 1.5, 0, 0]},
            "postprocessing": [{"name": "softmax", "kwargs": {}}],
        }
    ],
    "weights": {"onnx": {"source": "weights.onnx"}},
}  # fmt: skip
NEW = {
    "format_version": "0.5.3",
    "type": "model",
    "name": "sum",
    "inputs": [
        {
            "id": "raw",
            "axes": [
                {"type": "batch"},
                {"type": "channel", "channel_names": ["red", "green"]},
                {"type": "space", "id": "y", "size": {"min": 8, "step": 4}},
                {"type": "space", "id": "x", "size": {"min": 8, "step": 4}},
            ],
            "data": {"type": "float32"},
            "preprocessing": [{"id": "scale_linear", "kwargs": {"gain": [0.5, 2.0], "offset": [1.0, -1.0], "axis": "channel"}}],
        }
    ],
    "outputs": [
        {
            "id": "sum",
            "axes": [
                {"type": "batch"},
                {"type": "channel", "channel_names": ["sum"]},
                {"type": "space", "id": "y", "size": {"tensor_id": "raw", "axis_id": "y"}, "halo": 4},
                {"type": "space", "id": "x", "size": {"tensor_id": "raw", "axis_id": "x"}, "halo": 4},
            ],
            "data": {"type": "float32"},
        }
    ],
    "weights": {
        "pytorch_state_dict": {
            "source": "weights.pt",
            "architecture": {"callable": "Blur", "source": "network.py", "kwargs": {"width": 3}},
        }
    },
}
CODE = """
import pathlib
from torch import nn

pathlib.Path(__file__).with_name("ran").touch()


class Blur(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.layer = nn.Conv2d(2, 1, width, padding=width // 2)

    def forward(self, image):
        return self.layer(image)
"""


def folder_of(place: Path, description: dict) -> Path:
    place.mkdir(exist_ok=True)
    (place / "rdf.yaml").write_text(yaml.safe_dump(description), "utf-8")
    return place


@pytest.fixture(scope="module")
def nuclei(tmp_path_factory) -> Path:
    """The bundled network, as a folder of the format 0.4."""
    place = tmp_path_factory.mktemp("nuclei")
    export_model("nuclei-fluo", place / "weights.onnx")
    made = copy.deepcopy(OLD)
    made["weights"]["onnx"]["sha256"] = hashlib.sha256((place / "weights.onnx").read_bytes()).hexdigest()
    return folder_of(place, made)


@pytest.fixture
def blur(tmp_path) -> Path:
    """A convolution as a state dict with code, of the format 0.5."""
    place = folder_of(tmp_path / "blur", NEW)
    (place / "network.py").write_text(CODE, "utf-8")
    weights = {"layer.weight": torch.full((1, 2, 3, 3), 1 / 9), "layer.bias": torch.tensor([3.0])}
    torch.save(weights, place / "weights.pt")
    return place


def test_a_network_in_a_folder_gives_what_it_gives_as_a_model(nuclei, tmp_path):
    with Image.open(SAMPLE) as image:  # whole multiples: descriptions do not say what an image is padded with
        image.crop((0, 0, 352, 352)).save(tmp_path / "image.png")
    report = i2i.run("bioimage", tmp_path / "image.png", tmp_path / "a.tif", package=str(nuclei), tile=320, precision="fp32")
    i2i.run("segment", tmp_path / "image.png", tmp_path / "b.tif", as_="probabilities", float_=True, precision="fp32")
    found, expected = (tifffile.imread(tmp_path / f"{name}.tif") for name in "ab")
    assert found.shape == expected.shape and found.dtype == np.float32 and report.plan["exact"]
    assert np.abs(found - expected).max() < 2e-3 and np.ptp(expected) > 0.9


def test_the_contract_is_kept(blur, nuclei):
    predictor = load(BioimageOptions(package=str(blur), allow_code=True), Runtime())
    assert_predictor_contract(predictor, images=[blobs(50, 61, 2)])
    assert predictor.footprint.multiple_of == 4 and predictor.footprint.halo == 4


def test_code_is_run_where_that_is_asked_for_alone(blur, tmp_path):
    image = blobs(30, 41, 2)
    tifffile.imwrite(tmp_path / "image.tif", np.moveaxis(image, 2, 0), metadata={"axes": "CYX"}, photometric="minisblack")
    with pytest.raises(ModelError, match=r"network\.py: code that builds the network; .*--allow-code"):
        i2i.run("bioimage", tmp_path / "image.tif", tmp_path / "out.tif", package=str(blur))
    assert not (blur / "ran").exists() and not (tmp_path / "out.tif").exists()
    i2i.run("bioimage", tmp_path / "image.tif", tmp_path / "out.tif", package=str(blur), allow_code=True)
    assert (blur / "ran").exists()
    seen = image * np.array([0.5, 2.0]) + np.array([1.0, -1.0])
    middle = seen[9:12, 19:22].mean((0, 1)).sum() + 3
    assert tifffile.imread(tmp_path / "out.tif")[10, 20] == pytest.approx(middle, rel=1e-5)


def test_code_that_is_not_that_of_the_description_is_not_run(blur):
    made = copy.deepcopy(NEW)
    made["weights"]["pytorch_state_dict"]["architecture"]["sha256"] = "0" * 64
    with pytest.raises(ModelError, match=r"network\.py: .*sha256 differs"):
        load(BioimageOptions(package=str(folder_of(blur, made)), allow_code=True), Runtime())
    assert not (blur / "ran").exists()
    assert [path.name for path in read(blur).files] == ["rdf.yaml", "weights.pt", "network.py"]


def test_an_image_smaller_than_the_least_is_padded_up_to_that(nuclei, tmp_path):
    predictor = load(BioimageOptions(package=str(nuclei)), Runtime())
    assert [predictor.fitted(ImageSpec(side, 200)).footprint.multiple_of for side in (20, 64)] == [64, 16]
    Image.fromarray(blobs(20, 31, 1)[..., 0]).save(tmp_path / "small.png")
    i2i.run("bioimage", tmp_path / "small.png", tmp_path / "out.tif", package=str(nuclei))
    assert tifffile.imread(tmp_path / "out.tif").shape == (3, 20, 31)


def test_a_network_that_does_not_take_what_is_described_is_told_in_a_line(nuclei, tmp_path):
    place = folder_of(
        tmp_path / "wrong", changed(inputs=[OLD["inputs"][0] | {"shape": {"min": [1, 2, 64, 64], "step": [0, 0, 16, 16]}}])
    )
    (place / "weights.onnx").write_bytes((nuclei / "weights.onnx").read_bytes())
    with pytest.raises(ModelError, match="does not take what its description says") as caught:
        load(BioimageOptions(package=str(place)), Runtime())
    assert "\n" not in str(caught.value)


def test_a_pickle_that_runs_code_is_not_loaded(blur, tmp_path):
    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "evil",))

    torch.save({"layer.weight": Evil()}, blur / "weights.pt")
    with pytest.raises(ModelError, match=r"weights\.pt"):
        load(BioimageOptions(package=str(blur), allow_code=True), Runtime())
    assert not (tmp_path / "evil").exists()


def test_axes_in_another_order_are_put_right(tmp_path):
    place = tmp_path / "turned"
    place.mkdir()

    class Turned(torch.nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return image[..., :1] * 2 + image[..., 1:]

    program = torch.onnx.export(Turned().eval(), (torch.zeros(8, 8, 2),), dynamo=True, verbose=False)
    program.save(place / "weights.onnx")
    made = copy.deepcopy(OLD)
    made["inputs"][0] |= {"axes": "yxc", "shape": [8, 8, 2], "preprocessing": []}
    made["outputs"][0] |= {"axes": "yxc", "shape": [8, 8, 1], "postprocessing": [], "halo": [0, 0, 0]}
    predictor = load(BioimageOptions(package=str(folder_of(place, made))), Runtime())
    batch = torch.rand(3, 2, 8, 8)
    assert torch.allclose(predictor(batch), batch[:, :1] * 2 + batch[:, 1:])
    assert predictor.footprint.fixed_tile == 8 and predictor.footprint.merge == "blend" and predictor.remarks


@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        ("zero_mean_unit_variance", {"axes": "yx"}, lambda x: (x - x.mean(0)) / x.std(0)),
        ("zero_mean_unit_variance", {"axes": ["channel", "y", "x"]}, lambda x: (x - x.mean()) / x.std()),
        ("zero_mean_unit_variance", {"mode": "fixed", "mean": 2.0, "std": 4.0}, lambda x: (x - 2) / 4),
        ("fixed_zero_mean_unit_variance", {"mean": [1.0, 2.0], "std": [2.0, 4.0]}, lambda x: (x - [1, 2]) / [2, 4]),
        ("scale_range", {"axes": "yx"}, lambda x: (x - x.min(0)) / np.ptp(x, axis=0)),
        ("scale_linear", {"gain": 3.0}, lambda x: 3 * x),
        ("clip", {"min": 0.0, "max": 5.0}, lambda x: x.clip(0, 5)),
        ("clip", {"max": 5.0}, lambda x: np.minimum(x, 5)),
        ("binarize", {"threshold": 3.0}, lambda x: x > 3),
        ("sigmoid", {}, lambda x: 1 / (1 + np.exp(-x))),
        ("softmax", {"axis": "channel"}, lambda x: np.exp(x) / np.exp(x).sum(1, keepdims=True)),
        ("ensure_dtype", {"dtype": "float32"}, lambda x: x),
    ],
)
def test_steps_do_what_they_are_named_for(name, arguments, expected):
    numbers = np.random.default_rng(0).normal(3, 4, (500, 2)).astype(np.float32)
    step = Step.of(name, arguments)
    step = step.frozen(numbers) if step.measures else step
    assert np.allclose(step.apply(numbers), expected(numbers.astype(float)), atol=1e-4)


def changed(**changes: object) -> dict:
    made = copy.deepcopy(OLD)
    made.update(changes)
    return made


@pytest.mark.parametrize(
    ("description", "told"),
    [
        (changed(format_version="0.3.2"), "format 0.3.2; 0.4 and 0.5"),
        (changed(type="dataset"), "describes no model"),
        (changed(inputs=OLD["inputs"] * 2), "2 inputs and 1 outputs"),
        (changed(inputs=[OLD["inputs"][0] | {"axes": "bczyx", "shape": [1, 1, 8, 8, 8]}]), "axes bczyx"),
        (changed(inputs=[OLD["inputs"][0] | {"preprocessing": [{"name": "conjure"}]}]), "'conjure' is not known"),
        (changed(outputs=[OLD["outputs"][0] | {"postprocessing": [{"name": "scale_range"}]}]), "measures the answer"),
        (changed(weights={"onnx": {"source": "../weights.onnx"}}), "not in its folder"),
        (changed(weights={"onnx": {"source": "/etc/passwd"}}), "not in its folder"),
        (changed(weights={"onnx": {"source": "https://example.org/weights.onnx"}}), "download the model's package"),
        (changed(weights={"onnx": {"source": "gone.onnx"}}), "gone.onnx, which is not there"),
        (changed(weights={"torchscript": {"source": "weights.pt"}}), "weights of torchscript; onnx and pytorch_state_dict"),
        (changed(weights={"onnx": {"source": "weights.onnx", "sha256": "0" * 64}}), "sha256 differs"),
        (changed(weights={"onnx": {"source": "weights.onnx"}}), "cannot be read as ONNX"),
        ({"type": "model"}, "not a description that can be used: KeyError"),
        ("- just a list", "describes no model"),
    ],
)
def test_what_cannot_be_run_is_told_in_a_line(tmp_path, description, told):
    (tmp_path / "weights.onnx").write_bytes(b"no weights")
    (tmp_path / "rdf.yaml").write_text(description if isinstance(description, str) else yaml.safe_dump(description), "utf-8")
    with pytest.raises(ModelError) as caught:
        load(BioimageOptions(package=str(tmp_path)), Runtime())
    assert told in str(caught.value) and "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)


def test_what_is_no_folder_is_told_in_a_line(tmp_path):
    (tmp_path / "model.zip").write_bytes(b"PK")
    for place, told in ((tmp_path / "model.zip", "unpack it"), (tmp_path / "none", "rdf.yaml"), (tmp_path, "rdf.yaml")):
        with pytest.raises(ModelError, match=told):
            read(place)
    (tmp_path / "rdf.yaml").write_bytes(b"\xff\xfe: [")
    with pytest.raises(ModelError, match="cannot be read"):
        read(tmp_path)


def test_missing_packages_and_other_precisions_are_named(nuclei, monkeypatch):
    for runtime in (Runtime(precision="bf16"), Runtime(device="cuda")):
        with pytest.raises(UsageError, match="fp32 on the CPU"):
            load(BioimageOptions(package=str(nuclei)), runtime)
    for module in ("onnxruntime", "yaml"):
        with monkeypatch.context() as without:
            without.setitem(sys.modules, module, None)
            for place in ("i2i_bioimageio.predictor", "i2i_bioimageio.description"):
                without.setattr(f"{place}.find_spec", lambda name, module=module: None if name == module else True)
            with pytest.raises(I2IError, match=r"pip install 'i2i-engine\[bioimageio\]'"):
                load(BioimageOptions(package=str(nuclei)), Runtime())


def test_a_run_is_of_its_weights(nuclei):
    assert [path.name for path in read(nuclei).files] == ["rdf.yaml", "weights.onnx"]


# ----------------------------------------------------------------------------------------------------- tensors elsewhere


def _onnx(place, branch=False, **settings):
    """A network of a convolution, with another in a branch where that is asked for; tensors lie in files of their own."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    def constant(name, value):
        return numpy_helper.from_array(np.full((1, 1, 3, 3), value, np.float32), name)

    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 1, "h", "w"])
    answer = helper.make_tensor_value_info("answer", TensorProto.FLOAT, ["n", 1, "h", "w"])
    nodes = [helper.make_node("Conv", ["a" if branch else "image", "outer"], ["answer"], pads=[1, 1, 1, 1])]
    constants = [constant("outer", 2)]
    if branch:
        inner = [helper.make_node("Conv", ["image", "inner"], ["b"], pads=[1, 1, 1, 1])]
        given = [helper.make_tensor_value_info("b", TensorProto.FLOAT, None)]
        graph = helper.make_graph(inner, "then", [], given, [constant("inner", 1)])
        nodes.insert(0, helper.make_node("If", ["yes"], ["a"], then_branch=graph, else_branch=graph))
        constants.append(numpy_helper.from_array(np.array(True), "yes"))
    graph = helper.make_graph(nodes, "net", [image], [answer], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save_model(model, place, save_as_external_data=True, size_threshold=0, convert_attribute=True, **settings)


def _external(place, described=False):
    """A model folder whose tensors lie in a second file, of which the description has the sha256 or says nothing."""
    made = copy.deepcopy(OLD)
    made["outputs"][0]["postprocessing"] = []
    _onnx(folder_of(place, made) / "weights.onnx", location="tensors.bin")
    if described:
        sha256 = hashlib.sha256((place / "tensors.bin").read_bytes()).hexdigest()
        made["weights"]["onnx"]["external_data"] = {"source": "tensors.bin", "sha256": sha256}
    return folder_of(place, made)


def test_the_files_of_an_onnx_network_are_found_wherever_their_tensors_are(tmp_path, nuclei):
    _onnx(tmp_path / "one.onnx", branch=True, location="tensors.bin")
    assert external_names(tmp_path / "one.onnx") == ("tensors.bin",)
    _onnx(tmp_path / "many.onnx", branch=True, all_tensors_to_one_file=False)
    assert set(external_names(tmp_path / "many.onnx")) == {"inner", "outer", "yes"}
    assert external_names(nuclei / "weights.onnx") == ()


@pytest.mark.parametrize("content", [b"", b"not a network at all", b"\x3a\xff\xff\x03", b"\x3a" + b"\xff" * 11])
def test_what_is_no_onnx_file_is_told_in_a_line(tmp_path, content):
    (tmp_path / "a.onnx").write_bytes(content)
    with pytest.raises(ModelError, match=r"a\.onnx: cannot be read as ONNX"):
        external_names(tmp_path / "a.onnx")


def test_a_run_is_of_its_tensors_in_a_second_file_too(tmp_path):
    place = _external(tmp_path / "net")
    options = BioimageOptions(package=str(place))
    (task,) = i2i_tasks()
    assert place / "tensors.bin" in task.files(options)
    load(options, Runtime())
    (place / "tensors.bin").unlink()
    with pytest.raises(ModelError, match=r"names tensors\.bin, which is not there"):
        load(options, Runtime())


def test_a_second_file_that_is_not_that_of_the_description_is_not_run(tmp_path):
    place = _external(tmp_path / "net", described=True)
    options = BioimageOptions(package=str(place))
    load(options, Runtime())
    (place / "tensors.bin").write_bytes((place / "tensors.bin").read_bytes()[::-1])
    with pytest.raises(ModelError, match=r"tensors\.bin: not the file of the description"):
        load(options, Runtime())


def test_a_second_file_outside_the_folder_is_not_read(tmp_path):
    import onnx

    place = _external(tmp_path / "net")
    (tmp_path / "elsewhere.bin").write_bytes((place / "tensors.bin").read_bytes())
    model = onnx.load(place / "weights.onnx", load_external_data=False)
    for tensor in model.graph.initializer:
        next(entry for entry in tensor.external_data if entry.key == "location").value = "../elsewhere.bin"
    (place / "weights.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match=r"names \.\./elsewhere\.bin, which is not in its folder"):
        load(BioimageOptions(package=str(place)), Runtime())

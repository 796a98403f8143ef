"""The benchmarks can be started, and what they make of their measurements is right."""

from __future__ import annotations

import argparse
import importlib
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from scipy import ndimage

FOLDER = Path(__file__).parents[1] / "benchmarks"
SCRIPTS = sorted(path for path in FOLDER.rglob("*.py") if 'if __name__ == "__main__"' in path.read_text("utf-8"))
TRAINED = ["faster_rcnn_schemes", "mask_rcnn_heads", "pix2pix_loss", "pix2pix_generator", "pix2pix_patch"]


@pytest.fixture
def module(monkeypatch):
    """A benchmark by name, as a module."""
    for folder in (FOLDER, FOLDER / "papers"):
        monkeypatch.syspath_prepend(str(folder))
    return importlib.import_module


@pytest.fixture
def experiment(module):
    return module("experiment")


@pytest.fixture
def data(tmp_path):
    """Six sections in ``train``, two in ``test``, 40 x 48, the mask 0 and 255."""
    for split, count in (("train", 6), ("test", 2)):
        for kind in ("images", "masks"):
            (tmp_path / "set" / split / kind).mkdir(parents=True)
        for number in range(count):
            image = np.random.default_rng(number).integers(0, 255, (40, 48), np.uint8)
            tifffile.imwrite(tmp_path / "set" / split / f"images/{number}.tif", image)
            tifffile.imwrite(tmp_path / "set" / split / f"masks/{number}.tif", np.where(image > 100, 255, 0).astype(np.uint8))
    return tmp_path / "set"


# ------------------------------------------------------------------------------------------------------------ the scripts


def test_all_scripts_are_found():
    assert {"transfer", "training_speed", "segmentation_models", "unet_border_weight", "resume"} <= {
        path.stem for path in SCRIPTS
    }


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_help_says_how_to_start_a_script(script):
    done = subprocess.run([sys.executable, script, "--help"], capture_output=True, text=True, check=False, cwd="/")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"usage: {script.name}")
    usage = next(line for line in script.read_text("utf-8").splitlines() if line.strip().startswith("python benchmarks/"))
    assert all(f"\n  {word}" in done.stdout or f", {word}" in done.stdout for word in re.findall(r"--[a-z-]+", usage)), usage


@pytest.mark.parametrize(
    "name", ["unet_border_weight", "unet_augmentation", "unet_vs_patch", "training_speed", "transfer", *TRAINED]
)
def test_data_that_are_not_there_are_named(name, tmp_path):
    script = next(path for path in SCRIPTS if path.stem == name)
    words = ["--data", str(tmp_path), "--out", str(tmp_path / "out")]
    done = subprocess.run([sys.executable, script, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and done.stderr.startswith(str(tmp_path)) and "--data" in done.stderr


def test_every_script_is_in_the_table():
    text = (FOLDER / "README.md").read_text("utf-8")
    for script in SCRIPTS:
        assert f"`{script.relative_to(FOLDER)}`" in text, script


# ------------------------------------------------------------------------------------------------- what they have in common


def test_figures_are_kept_and_not_made_again(experiment, tmp_path):
    made = []

    def make():
        made.append(1)
        return {"ap": 0.5}

    settings = {"seed": 1, "parts": ("gray",)}
    assert experiment.kept(tmp_path / "out", "a", settings, make) == {"ap": 0.5}
    assert experiment.kept(tmp_path / "out", "a", settings, make) == {"ap": 0.5} and made == [1]
    assert json.loads((tmp_path / "out/a.json").read_text())["settings"] == {"seed": 1, "parts": ["gray"]}
    with pytest.raises(SystemExit, match=r"a.json: of other settings: seed was 1, is 2;"):
        experiment.kept(tmp_path / "out", "a", settings | {"seed": 2}, make)


def test_figures_of_a_run_that_fails_are_not_kept(experiment, tmp_path):
    def fail():
        raise SystemExit("no")

    with pytest.raises(SystemExit):
        experiment.kept(tmp_path, "a", {}, fail)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("first", "second", "way"),
    [
        ([0.1, 0.2], [0.5, 0.6], -1),
        ([0.5, 0.6], [0.1, 0.2], 1),
        ([0.1, 0.5], [0.5, 0.6], 0),  # apart, and no further than the first two
        ([0.1], [0.9], 0),  # nothing is known of the spread
        ([0.3, 0.3], [0.3, 0.3], 0),
        ([0.2, 0.2], [0.3, 0.3], -1),
    ],
)
def test_an_ordering_counts_beyond_the_spread_alone(experiment, first, second, way):
    assert experiment.ordering(first, second) == way


def test_a_lesson_says_what_holds_and_what_does_not(experiment):
    claims = [
        experiment.Claim("A is above B", "error", [3.0, 3.1], [1.0, 1.1]),
        experiment.Claim("C is above D", "error", [1.0, 1.1], [3.0, 3.1]),
        experiment.Claim("E is above F", "error", [1.0, 3.0], [2.0, 2.1]),
    ]
    lines = experiment.lesson(claims).splitlines()
    assert lines[0] == "- A is above B: so it is here; error 3.05 against 1.05, the seeds differ by 0.1."
    assert "the other way round here" in lines[1] and "undecided" in lines[2]
    assert lines[-1] == (
        "What holds here: A is above B. The other way round here: C is above D. "
        "Undecided: E is above F; it would need more steps, or more seeds."
    )


def test_means_are_shown_with_their_least_and_largest(experiment):
    assert experiment.shown([0.25]) == "0.250"
    assert experiment.shown([0.2, 0.3], 2) == "0.25 (0.20 to 0.30)"
    assert experiment.table(["a", "b"], [["1", "2"]]) == "| a | b |\n|---|---|\n| 1 | 2 |"
    assert experiment.numbers("0,10") == (0, 10)
    with pytest.raises(ValueError, match="x"):
        experiment.numbers("x")


@pytest.mark.parametrize(("count", "chosen"), [(1, [10]), (3, [3, 10, 17]), (21, list(range(21))), (99, list(range(21)))])
def test_chosen_sections_are_spread_over_the_stack(experiment, count, chosen):
    assert experiment.spread_out(range(21), count) == chosen


def test_copies_hold_the_chosen_images_and_their_masks_alone(experiment, data, tmp_path):
    files = experiment.files_of(data / "train/images")
    experiment.copied(data / "train", tmp_path / "part", files)
    folder = experiment.copied(data / "train", tmp_path / "part", files[1:3])
    assert [path.name for path in experiment.files_of(folder / "images")] == ["1.tif", "2.tif"]
    assert (folder / "masks/2.tif").read_bytes() == (data / "train/masks/2.tif").read_bytes()
    assert len(experiment.files_of(folder / "masks")) == 2


def test_the_budget_is_words_of_the_command(experiment):
    from i2i_unet.options import TrainOptions

    words = experiment.Budget(steps=900, crop=192).words()
    assert words[:2] == ["--steps", "900"] and words[-2:] == ["--validate-every", "300"]
    assert {word[2:].replace("-", "_") for word in words[::2]} <= set(TrainOptions.__dataclass_fields__)
    assert experiment.Budget(steps=2).words()[-1] == "1"


# ------------------------------------------------------------------------------------------------------------- each script


def test_the_verdict_on_border_weights_follows_the_figures(module):
    of_weights = module("unet_border_weight").of_weights
    assert of_weights({0: [0.5, 0.52], 10: [0.3, 0.31]}).startswith(
        "With a border weight of 10 fewer touching nuclei are merged than with 0"
    )
    assert "more touching nuclei" in of_weights({0: [0.3, 0.31], 10: [0.5, 0.52]})
    assert of_weights({0: [0.3, 0.6], 10: [0.4, 0.5]}).startswith("Undecided")
    assert of_weights({0: [0.3], 10: [0.1]}).startswith("Undecided")
    assert "nothing to compare" in of_weights({10: [0.3, 0.4]})


def test_three_classes_are_compared_with_two_of_the_same_weight(module):
    border = module("unet_border_weight")
    kinds = border.kinds_of((0, 10))
    assert [(kind.target, kind.weight) for kind in kinds] == [("foreground", 0), ("foreground", 10), ("border", 10)]
    ap50 = ([0.1, 0.1], [0.7, 0.72], [0.8, 0.82])
    found = {
        kind: [{"merged": 0.2, "ap50": value, "seconds": 90, "pairs": 7} for value in values]
        for kind, values in zip(kinds, ap50, strict=True)
    }
    assert border.conclusion(found).endswith(
        "With the third class AP at IoU 0.5 is higher by 0.100; the spread over the seeds is 0.020."
    )
    assert border.of_classes([0.7], [0.8]).startswith("Undecided whether a third class helps: it changes AP at IoU 0.5 by -0.100")
    shown = border.row(kinds[2], found[kinds[2]])
    assert shown == ["border: 3 classes", "10", "0.200 (0.200 to 0.200)", "0.810 (0.800 to 0.820)", "1.5 (1.5 to 1.5)"]
    assert len(shown) == len(border.HEAD)


def test_rows_of_augmentation_switch_their_parts_alone(module):
    augmentation = module("unet_augmentation")
    assert augmentation.title(()) == "none" and augmentation.title(augmentation.ALL) == "rotation, gray, elastic (all)"
    assert augmentation.title(("rotation", "gray")) == "rotation, gray (all but elastic)"
    words = augmentation.words_of(("gray",))
    assert words[:4] == ["--no-shift", "--no-flip", "--rotate", "0"] and words[4:8] == ["--gray", "0.15", "--elastic", "0"]
    assert augmentation.parts_of("none,rotation+gray") == ((), ("rotation", "gray"))
    with pytest.raises(ValueError, match="colour"):
        augmentation.parts_of("none,colour")
    assert augmentation.against([0.2, 0.21], [0.1, 0.11]) == "higher"


def test_rows_of_augmentation_are_compared_with_all(module):
    augmentation = module("unet_augmentation")
    runs = [{"pixel": value, "rand": 2 * value, "seconds": 60} for value in (0.2, 0.22)]
    full = [{"pixel": value, "rand": 0.1, "seconds": 60} for value in (0.1, 0.11)]
    assert augmentation.row((), 5, runs, full)[:4] == ["none", "5", "0.2100 (0.2000 to 0.2200)", "higher"]
    assert augmentation.row(augmentation.ALL, 5, full, full)[3] == "-"


def test_what_each_part_of_the_augmentation_adds_is_claimed(module):
    papers = module("unet_augmentation")
    runs = {key: [{"pixel": error}, {"pixel": error + 0.001}] for key, error in
            {(5, ()): 0.2, (5, ("rotation",)): 0.1, (5, papers.ALL): 0.05}.items()}  # fmt: skip
    told = ["of 5 images, rotation after nothing", "of 5 images, gray and elastic after rotation"]
    assert [str(claim).split(":")[0] for claim in papers.claims(runs)] == told
    assert papers.claims(runs)[0].way == 1


def test_cells_that_scripts_share_have_one_name(module):
    cells = [
        *module("pix2pix_loss").CELLS.values(),
        *module("pix2pix_generator").CELLS.values(),
        *module("pix2pix_patch").CELLS.values(),
    ]
    assert len({cell.name for cell in cells}) == 6 + 2 + 3 and len(cells) == 14


def test_claims_on_pix2pix_take_the_figures_of_their_cells(module):
    """Where each row is better than those before it, a claim on a later one holds."""
    figures = ("pixel_accuracy", "class_iou", "sharpness", "variety")
    for name, holds in (("pix2pix_loss", 9), ("pix2pix_generator", 4), ("pix2pix_patch", 3)):
        script = module(name)
        found = {title: [dict.fromkeys(figures, place + more) for more in (0, 0.1)] for place, title in enumerate(script.CELLS)}
        assert sum(claim.way == 1 for claim in script.claims(found)) == holds, name


def test_nuclei_become_coco_with_a_category_for_each_set(module, tmp_path, monkeypatch):
    cells = module("nuclei_cells")
    for name in cells.SETS:
        for kind in ("images", "masks"):
            (tmp_path / name / "train" / kind).mkdir(parents=True)
        mask = np.zeros((20, 30), np.uint8)
        mask[2:6, 3:9], mask[10:12, 20:25] = 1, 7
        tifffile.imwrite(tmp_path / name / f"train/images/{name}.tif", mask)
        tifffile.imwrite(tmp_path / name / f"train/masks/{name}.tif", mask)
    cells._gathered(tmp_path, list(cells.SETS), "train", tmp_path / "out")
    made = json.loads((tmp_path / "out/objects.json").read_text("utf-8"))
    assert [image["file_name"] for image in made["images"]] == [f"{name}.tif" for name in cells.SETS]
    assert [each["category_id"] for each in made["annotations"]] == [1, 1, 2, 2]
    assert made["annotations"][0]["bbox"] == [3, 2, 6, 4] and len({each["id"] for each in made["annotations"]}) == 4
    monkeypatch.setattr(cells, "LARGEST", 29)
    cells._gathered(tmp_path, list(cells.SETS), "train", tmp_path / "none")
    assert json.loads((tmp_path / "none/objects.json").read_text("utf-8"))["images"] == []


def test_schemes_learn_from_as_many_batches(module):
    schemes = module("faster_rcnn_schemes")
    cells = schemes.cells_of(argparse.Namespace(steps=50))
    steps = {title: words[words.index("--steps") + 1] for title, words in cells.items()}
    assert set(cells) > set(schemes.PAPER) and steps["approximate joint"] == "100" and steps["alternating"] == "50"
    first, second = module("nuclei_cells").stages_of(cells["approximate, then non-approximate joint"])
    assert "approximate-joint" in first and "non-approximate-joint" in second and len(first) == len(second)


@pytest.mark.parametrize("width", [2, 5, 9])
def test_the_size_of_structures_grows_with_them(module, width):
    """White noise blurred by a box: its autocorrelation is a triangle that falls to a half at half of the box."""
    noise = np.random.default_rng(0).normal(size=(256, 256))
    blurred = ndimage.uniform_filter(noise, width, mode="wrap")
    assert module("gatys_layers").structure(np.stack([blurred] * 3, -1)) == pytest.approx(width / 2, rel=0.15)


def test_the_pace_is_that_of_the_middle_steps(module):
    moments = [30.0, 40.0, 41.0, 42.0, 43.0, 99.0]  # the first steps start threads, the last validates
    assert module("unet_vs_patch").pace([{"seconds": seconds} for seconds in moments]) == 1.0
    assert module("training_speed").median_step(moments[:-1]) == 1.0


def test_centres_are_cut_from_images_and_masks_alike(module, data, tmp_path):
    folder = module("unet_vs_patch").centres(data / "test", tmp_path / "centres", 1, 20)
    (image,), (mask,) = (list((folder / kind).iterdir()) for kind in ("images", "masks"))
    whole = tifffile.imread(data / f"test/images/{image.name}")
    np.testing.assert_array_equal(tifffile.imread(image), whole[10:30, 14:34])
    np.testing.assert_array_equal(tifffile.imread(mask) > 0, whole[10:30, 14:34] > 100)


def test_the_conclusion_on_patches_is_that_of_the_figures(module):
    patches = module("unet_vs_patch")

    def runs(each, *errors):
        return [{"pixel": error, "rand": 0.2, "each": each, "seconds": 60, "steps": 100} for error in errors]

    found = {0: runs(0.5, 0.08, 0.081), 17: runs(10, 0.2, 0.21), 65: runs(100, 0.1, 0.101)}
    text = patches.conclusion(found)
    assert "patches of 17, 65 pixels a section takes 20, 200 times" in text
    assert "their pixel error depends on the size: 0.1005 with 65 pixels, 0.2050 with 17" in text and "0.0805, less than" in text
    single = patches.conclusion({size: some[:1] for size, some in found.items()})
    assert "not distinguishable" in single and "cannot be said, with these seeds, to depend on the size" in single
    assert patches.row(17, found[17], found[0])[3:5] == ["10.00", "20"]


@pytest.mark.parametrize(
    ("channels", "takes", "gray_as_rgb", "how"),
    [
        ([1, 1], 1, False, "unchanged"),
        ([3, 1], 1, False, "as luminance"),
        ([3, 3], 3, False, "unchanged"),
        ([3, 1], 3, False, None),
        ([1, 1], 3, True, "gray ones repeated"),
        ([4], 1, False, None),
    ],
)
def test_a_model_is_given_what_its_channels_allow(module, channels, takes, gray_as_rgb, how):
    assert module("transfer").given(channels, takes, gray_as_rgb) == how


def test_images_are_converted_without_a_change_of_dtype(module):
    converted = module("transfer").converted
    red = np.zeros((2, 2, 3), np.uint8)
    red[..., 0] = 200
    assert converted(red, True, False).tolist() == [[[60], [60]]] * 2
    assert converted(red, True, True)[0, 0, 0] == 195 and converted(red, False, True)[0, 0].tolist() == [55, 255, 255]
    deep = np.full((1, 1, 1), 33_000, np.uint16)
    assert converted(deep, True, True).dtype == np.uint16 and converted(deep, True, True)[0, 0, 0] == 65_535 - 33_000


def test_converted_images_are_read_as_they_were_meant(module, data, tmp_path):
    transfer = module("transfer")
    tifffile.imwrite(data / "test/images/7.tif", np.full((8, 9, 3), 100, np.uint8), photometric="rgb")
    assert transfer.channels_of(data / "test/images") == [1, 1, 3]
    folder = transfer.convert(data / "test/images", tmp_path / "gray", True, True)
    assert transfer.channels_of(folder) == [1, 1, 1]
    assert int(tifffile.imread(folder / "7.tif")[0, 0]) == 155


def test_equal_classes_are_counted_over_all_images(module, data, tmp_path):
    masks = data / "test/masks"
    same = module("segmentation_models").same_classes
    assert same(masks, masks) == 1
    first = tifffile.imread(masks / "0.tif")
    (tmp_path / "other").mkdir()
    tifffile.imwrite(tmp_path / "other/0.tif", 255 - first)
    tifffile.imwrite(tmp_path / "other/1.tif", tifffile.imread(masks / "1.tif"))
    assert same(masks, tmp_path / "other") == 0.5


# ------------------------------------------------------------------------------------------ training on photographs


def test_steps_are_as_many_as_fit_and_each_loss_is_compared_with_its_beginning(module):
    sample = module("instances_coco_sample")
    lines = [{"seconds": 5 + 0.5 * step} | dict.fromkeys(sample.TERMS, 2.0 - 0.05 * step) for step in range(21)]
    assert sample.steps_for(lines, 1) == 120 and sample.steps_for(lines, 0.01) == 21
    assert sample.falling(lines)[0] == ["rpn_objectness", "1.975", "1.025", "yes"]
    assert {row[-1] for row in sample.falling(lines[::-1])} == {"no"}


# -------------------------------------------------------------------------------------------------- kills and full disks


def test_kills_are_spread_over_the_phases_that_a_run_has(module):
    resume = module("resume")
    spans = {(resume.PREPARE, 0): 0.5, (resume.RUN, 1): 2.0, (resume.RUN, 2): 1.0, (resume.PUBLISH, 0): 0.1}
    whole = resume.Undisturbed({}, 2, 2, spans)
    drawn = list(resume.moments(whole, 20, seed=1))
    assert drawn == list(resume.moments(whole, 20, seed=1)) != list(resume.moments(whole, 20, seed=2))
    assert [sum(moment.phase == phase for moment in drawn) for phase in resume.PHASES] == [0, 2, 14, 4]
    assert all(0 <= moment.wait <= spans[moment.phase, moment.progress] for moment in drawn)
    unpublished = resume.Undisturbed({}, 2, 2, {(resume.RUN, 1): 2.0})
    assert {moment.phase for moment in resume.moments(unpublished, 10, seed=1)} == {resume.RUN}


def test_what_a_killed_run_is_judged_by_is_found(module, tmp_path):
    resume = module("resume")
    runs = resume.Runs(resume.CASES["segment"], tmp_path, 448)
    (tmp_path / "in.tif").write_bytes(b"input"), (tmp_path / "out.tif").write_bytes(b"result")
    (tmp_path / "calls").write_bytes(b"....")
    assert (list(runs.results()), runs.windows(), runs.windows(), runs.publishing()) == (["out.tif"], 4, 0, False)
    watch = resume.Watch(runs)
    assert watch.at() == (resume.START, 0)
    (runs.partial / "blocks").mkdir(parents=True)
    assert watch.at() == (resume.PREPARE, 0)
    (runs.partial / "journal.jsonl").write_bytes(b'{"stage": "infer"}\n{"torn')
    (runs.partial / "blocks/checkpoint-128-0.npz").touch()
    assert (runs.journal(), watch.at()) == (1, (resume.RUN, 2))
    (tmp_path / ".out.i2i-0-1-2.tif").touch()
    assert watch.at() == (resume.PUBLISH, 0)
    runs.clear()
    assert [path.name for path in tmp_path.iterdir()] == ["in.tif"]


def test_a_fault_of_the_output_is_told_from_one_that_is_as_promised(module, tmp_path):
    faults = module("output_faults")
    run = faults.Run(faults.CASES["segment"], (), tmp_path)
    run.output.write_bytes(faults.OLD)
    good = faults.End(1, ("error: out.tif: no room is left; --resume goes on",))
    assert faults.judged(run, good, 1, ("no room", "--resume")).faults == ()
    assert faults.judged(run, good, 2, ("no room",)).faults and faults.judged(run, good, 1, ("another run",)).faults
    assert faults.judged(run, faults.End(1, ("Traceback", *good.lines)), 1, ("no room",)).faults
    run.output.write_bytes(b"half of it")
    spoilt = faults.judged(run, good, 1, ("no room",))
    assert not spoilt.intact and spoilt.faults == ("the older file is gone",)


def test_small_images_are_crops_of_the_samples(module, tmp_path):
    module("small_images").crops(tmp_path / "crops", 3, 64)
    with_all = [np.asarray(image) for image in map(module("small_images").Image.open, sorted((tmp_path / "crops").iterdir()))]
    assert [image.shape for image in with_all] == [(64, 64)] * 3 and not np.array_equal(with_all[0], with_all[1])

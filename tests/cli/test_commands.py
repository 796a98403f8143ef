"""The commands beside the tasks: help, models, plugins, info, doctor, demo."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile

from i2i.version import __version__
from tests.cli.kit import done, files, load, picture, refused, save

# ---------------------------------------------------------------------------------------------------------------- help


def test_the_help_lists_the_tasks_first_and_imports_nothing_heavy(process):
    report = 'import atexit; atexit.register(lambda: sys.stderr.write(" ".join(sys.modules)))'
    with process("--help", before=report) as running:
        out, err = running.communicate(timeout=60)
    assert running.returncode == 0
    lines = out.decode().splitlines()
    places = {word: next(i for i, line in enumerate(lines) if f" {word} " in line) for word in ("segment", "train", "doctor")}
    assert places["segment"] < places["train"] < places["doctor"]
    assert not {"torch", "numpy", "scipy", "i2i_unet", "i2i.engine"} & set(err.decode().split())


def test_info_does_not_import_torch(process, folder):
    save("a.tif")
    report = 'import atexit; atexit.register(lambda: sys.stderr.write(" ".join(sys.modules)))'
    with process("info", "a.tif", before=report) as running:
        _, err = running.communicate(timeout=60)
    assert running.returncode == 0 and "torch" not in err.decode().split()


def test_the_version_is_one_line(i2i):
    assert done(i2i("--version")).out == f"i2i {__version__}\n"


@pytest.mark.parametrize("words", [[], ["models"], ["plugins"], ["train"], ["eval"]])
def test_a_group_alone_shows_its_commands(i2i, words):
    result = i2i(*words)
    assert result.code == 2 and result.err == ""
    assert "Usage: i2i" in result.out


@pytest.mark.parametrize("option", ["-h", "--help"])
@pytest.mark.parametrize(
    "words",
    [
        ["segment"], ["train", "segment"], ["eval", "segment"], ["models", "list"], ["models", "info"], ["models", "get"],
        ["plugins", "list"], ["plugins", "check"], ["info"], ["demo"], ["doctor"],
    ],
)  # fmt: skip
def test_every_command_has_a_help(i2i, words, option):
    result = done(i2i(*words, option))
    assert f"Usage: i2i {' '.join(words)} " in result.out and result.err == ""


def test_the_help_of_an_image_command_names_every_option_of_the_contract(i2i, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    text = done(i2i("segment", "--help")).out
    options = (
        "--output -o --as --format --model --device --precision --backend --tile --memory --batch --jobs --level --plane "
        "--channels --nan --strict --overlay --geojson --csv --verify --seed --overwrite --skip-existing --resume --dry-run "
        "--json --quiet -q --verbose -v --config"
    )
    assert [option for option in options.split() if not re.search(rf"{option}\b", text)] == []


# -------------------------------------------------------------------------------------------------------------- models


def test_the_models_are_listed_with_what_they_are_for(i2i):
    head, *rows = done(i2i("models", "list")).out.splitlines()
    assert head.split() == ["name", "task", "channels", "where", "licence", "summary"]
    assert any(row.split()[:5] == ["nuclei-fluo", "*", "segment", "1", "bundled"] for row in rows)


def test_a_card_tells_what_is_known_and_nothing_that_is_not(i2i):
    lines = done(i2i("models", "info", "nuclei-fluo")).out.splitlines()
    assert "name: nuclei-fluo" in lines and "default: yes" in lines and "where: bundled" in lines
    assert all(re.match(r"(\w+: \S|\w+:$|  \S)", line) for line in lines)
    card = done(i2i("models", "info", "nuclei-fluo", "--json")).json
    (listed,) = [one for one in done(i2i("models", "list", "--json")).json if one["name"] == "nuclei-fluo"]
    assert card == listed and card["task"] == "segment" and len(card["sha256"]) == 64


def test_get_prints_where_the_file_is(i2i):
    path = Path(done(i2i("models", "get", "nuclei-fluo")).out.strip())
    assert path.is_file() and path.suffix == ".safetensors"
    assert done(i2i("models", "get", "nuclei-fluo", "--json")).json["path"] == str(path)


@pytest.mark.parametrize("command", ["info", "get"])
@pytest.mark.parametrize("name", ["zebra", "../nuclei-fluo", "nuclei%2dfluo"])
def test_an_unknown_name_is_refused_with_those_that_there_are(i2i, command, name):
    refused(i2i("models", command, name), 1, repr(name), "nuclei-fluo")


# ------------------------------------------------------------------------------------------------------------- plugins


def test_the_plugins_are_listed_with_what_each_gives(i2i):
    rows = [line.split() for line in done(i2i("plugins", "list")).out.splitlines()]
    assert rows[0][:3] == ["plugin", "distribution", "tasks"]
    assert any(row[:3] == ["segment", "i2i-engine", "segment"] for row in rows[1:])
    given = done(i2i("plugins", "list", "--json")).json
    assert given["broken"] == [] and "nuclei-fluo" in next(p for p in given["plugins"] if p["name"] == "segment")["models"]


def test_a_sound_installation_passes_the_check(i2i):
    assert any(line.split()[:2] == ["good", "segment"] for line in done(i2i("plugins", "check")).out.splitlines())


def test_a_broken_plugin_is_named_with_its_reason_and_the_others_go_on(i2i, monkeypatch):
    from importlib.metadata import EntryPoint

    from i2i import installed

    found = installed.found
    bad = EntryPoint("zebra", "no_such_module_of_anyone", installed.EXTENSIONS)
    monkeypatch.setattr(installed, "found", lambda group: [*found(group), *([bad] if group == installed.EXTENSIONS else [])])
    result = i2i("plugins", "check")
    assert result.code == 1 and "broken  zebra" in result.out and "no_such_module_of_anyone" in result.out
    assert "zebra" in done(i2i("plugins", "list")).err
    told = done(i2i("doctor")).out
    assert "zebra" in told and "\nbackends    torch" in told
    save("a.png")
    done(i2i("segment", "a.png", "--dry-run"))


# ---------------------------------------------------------------------------------------------------------------- info


def test_info_tells_what_is_seen_in_an_image(i2i):
    save("a.png", picture(40, 1000))
    text = done(i2i("info", "a.png")).out
    heads = ["format", "size", "channels", "dtype", "pixel", "planes", "levels", "tiling"]
    assert [line.split()[0] for line in text.splitlines()] == heads
    assert "1000 x 40 pixels" in text and "40 kB" in text and "PNG" in text and "uint8" in text


def _stack(path):
    size = {"PhysicalSizeX": 0.5, "PhysicalSizeY": 0.25, "PhysicalSizeXUnit": "µm", "PhysicalSizeYUnit": "µm"}
    names = {"Channel": {"Name": ["DAPI", "GFP"]}}
    pixels = np.zeros((3, 2, 30, 40), np.uint16)
    tifffile.imwrite(path, pixels, ome=True, metadata={"axes": "ZCYX"} | size | names)


def test_info_as_json_has_planes_channels_and_pixel_size(i2i, folder):
    _stack(folder / "z.ome.tif")
    seen = done(i2i("info", "z.ome.tif", "--json")).json
    assert (seen["height"], seen["width"], seen["channels"], seen["dtype"]) == (30, 40, 2, "uint16")
    assert seen["planes"] == [["z", 3]] and seen["pixel_size"] == [0.25, 0.5] and seen["channel_names"] == ["DAPI", "GFP"]
    text = done(i2i("info", "z.ome.tif")).out
    assert "0.5 x 0.25 um" in text and "2: DAPI, GFP" in text and "3 along z: 3 (0 .. 2)" in text


def test_info_tells_levels_with_their_numbers_and_the_tiling(i2i, folder):
    with tifffile.TiffWriter(folder / "p.tif") as file:
        file.write(picture(256, 300), tile=(64, 128), subifds=1)
        file.write(picture(128, 150), tile=(64, 128), subfiletype=1)
    text = done(i2i("info", "p.tif")).out
    assert "levels      0: 300 x 256, 1: 150 x 128" in text and "tiling      128 x 64" in text
    assert done(i2i("info", "p.tif", "--json")).json["tiling"] == [64, 128]


def test_info_notes_what_had_to_be_assumed(i2i, folder):
    save("a.png").rename(folder / "a.tif")
    assert done(i2i("info", "a.tif")).err == "note: named .tif but its content is PNG: read as PNG\n"
    refused(i2i("info", "none.tif"), 1, "none.tif: no such file")


_ODD = Path(__file__).parents[3] / "shared/data/odd-images"


@pytest.mark.skipif(not _ODD.is_dir(), reason="the collection of odd images is not here")
def test_info_reads_or_names_every_odd_image(i2i):
    for path in sorted(_ODD.iterdir()):
        if path.suffix == ".md":
            continue
        result = i2i("info", path, "--json")
        if result.code:
            refused(result, 1, f"error: {path}: ")
        else:
            assert min(result.json["height"], result.json["width"], result.json["channels"]) > 0
    slide = done(i2i("info", _ODD / "CMU-1-Small-Region.svs", "--json")).json
    assert (slide["width"], slide["height"]) == (2220, 2967) and round(slide["pixel_size"][0], 3) == 0.499


# -------------------------------------------------------------------------------------------------------- doctor, demo


def test_doctor_tells_what_there_is(i2i, folder):
    facts = done(i2i("doctor", "--json")).json["facts"]
    assert {"python", "torch", "device", "cores", "memory", "codecs", "cache", "offline", "plugins"} <= set(facts)
    assert facts["cache"].startswith(str(folder)) and facts["offline"].startswith("yes")
    assert done(i2i("doctor")).out.splitlines()[0].split()[0] == "python"


def test_doctor_names_the_extras_that_are_missing_and_what_they_are_for(i2i, monkeypatch):
    from i2i.cli import doctor

    find = doctor.find_spec
    monkeypatch.setattr(doctor, "find_spec", lambda name: None if name in ("tiffslide", "onnxruntime") else find(name))
    told = done(i2i("doctor", "--json")).json
    assert told["facts"]["extras"] == "openvino, tensorboard"
    for name in ("slides", "onnx", "bioimageio"):
        (line,) = [line for line in told["advice"] if f"pip install 'i2i-engine[{name}]'" in line]
        assert line.startswith("for ")


def test_the_demo_makes_a_page_that_holds_its_pictures_and_lines_that_make_them(i2i, folder, monkeypatch):
    result = done(i2i("demo", "shown", "--json"))
    pictures = result.json["pictures"]
    page = (folder / "shown/index.html").read_text("utf-8")
    assert pictures and all((folder / picture).exists() for picture in pictures)
    sources = re.findall(r'src="([^"]*)"', page)
    lines = re.findall("<pre>(.*?)</pre>", page)
    assert len(lines) == len(pictures)
    assert len(sources) == sum(2 + line.count("--style") for line in lines) and all(
        source.startswith("data:image/png;base64,") for source in sources
    )
    assert not re.search(r'(href|src)="(?!data:)|url\(|https?://|<script', page)
    assert "shown/index.html" in result.err
    assert all(load(folder / picture).max() > 5 for picture in pictures)
    monkeypatch.chdir("shown")
    (line,) = [line for line in lines if line.startswith("i2i segment nuclei.png ")]
    before = load("nuclei-segment.png")
    done(i2i(*line.split()[1:]))
    assert np.array_equal(before, load("nuclei-segment.png"))


def test_a_demo_where_a_file_is_in_the_way_is_refused(i2i, folder):
    (folder / "file").touch()
    refused(i2i("demo", "file"), 1, "file: cannot be made")
    assert files(folder) == ["file"]


def test_plans_and_reports_are_plain_json(i2i):
    save("a.png")
    text = done(i2i("segment", "a.png", "--dry-run", "--json")).out
    assert json.loads(text)["runs"][0]["model"] == "nuclei-fluo"


# ----------------------------------------------------------------------------------------------------------- completion


@pytest.mark.parametrize(
    ("words", "found", "missing"),
    [("seg", "segment", "stylize"), ("segment --mem", "--memory", "--tile"), ("train instances --ba", "--backbone", "--rate"),
     ("models e", "export", "list"), ("segment --precision b", "bf16", "fp32"),
     ("segment --model nuclei-b", "nuclei-brightfield", "nuclei-fluo")],
)  # fmt: skip
def test_a_shell_is_told_the_words_that_fit(i2i, monkeypatch, words, found, missing):
    monkeypatch.setenv("_I2I_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", f"i2i {words}")
    monkeypatch.setenv("COMP_CWORD", str(len(words.split())))
    told = done(i2i()).out.split()
    assert found in told and missing not in told


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish", "powershell"])
def test_the_script_of_a_shell_asks_i2i(i2i, shell):
    text = done(i2i("completion", shell)).out
    assert "_I2I_COMPLETE" in text and "i2i" in text
    assert done(i2i("completion", shell, "--json")).json["script"] == text.strip()
    refused(i2i("completion", "tcsh"), 2, "tcsh", "bash, zsh")


def test_the_script_of_bash_completes_in_bash(i2i, folder):
    (folder / "script").write_text(done(i2i("completion", "bash")).out, "utf-8")
    ask = '. ./script; COMP_WORDS=(i2i sty); COMP_CWORD=1; _i2i_completion i2i; echo "${COMPREPLY[@]}"'
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    told = subprocess.run(["bash", "-c", ask], capture_output=True, text=True, check=True, env=os.environ | {"PATH": path})
    assert told.stdout.strip() == "stylize", told.stderr

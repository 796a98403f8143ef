"""The plan of a run: what is declared, what is allowed, and nothing of the moment."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from i2i import memory, planner
from i2i.contracts import DensePredictor, Footprint, ImageSpec, Predictor, Runtime
from i2i.errors import UsageError
from i2i.geometry import Region
from i2i.options import RunOptions
from i2i.planner import BASE_BYTES, LEAST_BYTES, Plan, budget, grid_of, make_plan, parse_size
from tests import toys

EXACT = Footprint(halo=90, multiple_of=16)
WHOLE = Footprint(halo=32, multiple_of=8, merge="blend", norm_scope="image")
SLIDE = ImageSpec(100_000, 80_000, 3)
PHOTO = ImageSpec(600, 800)


def plan(spec: ImageSpec = SLIDE, footprint: Footprint = EXACT, bytes_each=1, weight=1024, kind="dense", **options) -> Plan:
    """A plan for ``bytes_each`` bytes of canvas a pixel, of a network that takes ``weight`` bytes for each pixel of a window."""
    predictor: Predictor = DensePredictor()
    predictor.footprint, predictor.window_bytes, predictor.kind = footprint, weight, kind
    return make_plan(spec, predictor, bytes_each, RunOptions(**{"memory": "2GB", **options}), Runtime())


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch):
    """Sets how much memory the machine has."""

    def set_total(size: float) -> None:
        monkeypatch.setattr(planner, "total_memory", lambda: int(size))

    return set_total


# ------------------------------------------------------------------------------------------------------------- memory


@pytest.mark.parametrize(
    ("text", "size"),
    [("2GB", 2e9), ("1500 MiB", 1500 * 2**20), ("2g", 2e9), ("1.5 TB", 1.5e12), ("3000000000", 3e9), (" 2gib ", 2**31)],
)
def test_sizes_are_read_as_they_are_written(text: str, size: float) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "GB", "-2GB", "2XB", "2 G B", "1e9", "two", "2GB 3GB", "1,5GB"])
def test_what_is_no_size_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(UsageError, match="expected a size such as 2GB") as caught:
        parse_size(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["1GB", "1499MB", "0", "1GiB"])
def test_a_budget_below_what_the_libraries_take_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=f"--memory {text}: below 1.5GB"):
        budget(RunOptions(memory=text))
    assert budget(RunOptions(memory="1500MB")) == LEAST_BYTES


def test_the_default_budget_is_half_of_the_machines_memory_and_at_least_2_gigabytes(machine) -> None:
    machine(64e9)
    assert budget(RunOptions()) == 32e9
    machine(2.5e9)
    assert budget(RunOptions()) == 2e9


@pytest.mark.parametrize(
    "files",
    [
        {"/proc/self/cgroup": "0::/\n", "/sys/fs/cgroup/memory.max": "3000000000\n"},
        {"/proc/self/cgroup": "0::/user/job7\n", "/sys/fs/cgroup/user/job7/memory.max": "3000000000\n"},
        {
            "/proc/self/cgroup": "0::/user/job7\n",
            "/sys/fs/cgroup/user/job7/memory.max": "max\n",
            "/sys/fs/cgroup/user/memory.max": "3000000000\n",
        },
        {
            "/proc/self/cgroup": "5:cpu:/\n4:memory:/jobs/7\n0::/\n",
            "/sys/fs/cgroup/memory/jobs/7/memory.limit_in_bytes": "3000000000\n",
            "/sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
        },
        {"/proc/self/cgroup": "4:memory:/docker/name:7\n", "/sys/fs/cgroup/memory/memory.limit_in_bytes": "3000000000\n"},
    ],
    ids=["container", "own", "above", "version 1", "version 1 container"],
)
def test_the_limit_of_a_control_group_counts_where_it_is_less(monkeypatch: pytest.MonkeyPatch, files: dict[str, str]) -> None:
    def read(path: Path, *_: object) -> str:
        if str(path) not in files:
            raise FileNotFoundError
        return files[str(path)]

    monkeypatch.setattr(Path, "read_text", read)
    monkeypatch.setattr(memory.os, "sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 4_000_000}.get)
    assert memory.total_memory() == 3_000_000_000
    files.update({name: "max\n" for name in files if "fs" in name})
    assert memory.total_memory() == 4096 * 4_000_000
    files.clear()
    assert memory.total_memory() == 4096 * 4_000_000


def test_a_plan_depends_on_the_total_memory_and_not_on_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(memory.os, "sysconf", lambda name: asked.append(name) or 4096)
    plan(memory="auto")
    assert asked and not any("AV" in name for name in asked)


def test_a_plan_does_not_depend_on_the_machine_when_a_budget_is_given(machine) -> None:
    machine(4e9)
    small = plan(memory="8GB")
    machine(900e9)
    assert plan(memory="8GB") == small


# ------------------------------------------------------------------------------------------------------------ windows


@given(
    st.integers(1, 50_000), st.integers(1, 50_000), st.integers(0, 200), st.sampled_from([1, 8, 16, 24]),
    st.sampled_from(["zero", "mirror"]), st.integers(1, 4000), st.sampled_from(["1.5GB", "4GB", "64GB"]), st.integers(1, 4),
)  # fmt: skip
@settings(derandomize=True, deadline=None, max_examples=100)
def test_a_plan_keeps_its_budget(height, width, halo, stride, border, weight, memory, jobs) -> None:
    try:
        made = plan(ImageSpec(height, width), Footprint(halo, stride, border=border), weight=weight, memory=memory, jobs=jobs)
    except UsageError as error:
        assert "--memory" in str(error)
        return
    grid = made.grid(ImageSpec(height, width), Footprint(halo, stride, border=border))
    window = grid.window_shape[0] * grid.window_shape[1] * weight
    assert made.memory <= parse_size(memory)
    assert BASE_BYTES + jobs * made.batch * window <= made.memory
    assert grid.image == Region(0, 0, height, width)


def test_more_memory_gives_larger_windows() -> None:
    sides = [plan(weight=2000, memory=memory).tile[0] for memory in ("1.5GB", "3GB", "20GB")]
    assert sides == sorted(sides) and sides[0] < sides[-1]


def test_a_window_that_was_asked_for_is_taken_as_it_is() -> None:
    assert plan(tile="333").tile == (333, 333)


def test_a_window_that_is_too_small_is_refused_with_the_least_that_works() -> None:
    with pytest.raises(UsageError, match="--tile: a window of 100 pixels is too small: at least 208 are needed"):
        plan(tile="100")
    assert plan(tile="208").tile == (208, 208)


@pytest.mark.parametrize("tile", ["0", "-5", "big", "1.5", ""])
def test_what_is_no_side_of_a_window_is_refused(tile: str) -> None:
    with pytest.raises(UsageError, match=r"--tile .*: expected auto or a whole number"):
        plan(tile=tile)


def test_a_network_that_looks_at_all_it_sees_gets_the_whole_image_when_it_fits() -> None:
    made = plan(PHOTO, WHOLE)
    assert made.exact and made.tile == (600, 800)
    odd = plan(replace(PHOTO, height=601), replace(WHOLE, border="mirror"))
    assert odd.tile == (608 + 64, 800 + 64)
    assert odd.grid(replace(PHOTO, height=601), replace(WHOLE, border="mirror")).tile_count == 1


def test_where_it_does_not_fit_the_plan_says_that_tiling_is_not_exact() -> None:
    made = plan(SLIDE, WHOLE)
    assert not made.exact and made.tile[0] <= 2048
    assert plan(SLIDE, EXACT).exact


def test_a_network_with_one_window_gets_that_window() -> None:
    fixed = Footprint(halo=16, multiple_of=8, fixed_tile=128)
    for spec in (SLIDE, PHOTO, ImageSpec(5, 5)):
        made = plan(spec, fixed)
        assert made.tile == (128, 128)
        assert made.grid(spec, fixed).window_shape == (128, 128)


def test_too_little_memory_for_any_window_is_refused_with_the_cure() -> None:
    with pytest.raises(UsageError, match="--memory: too small for one window of this model, .*; raise it") as caught:
        plan(weight=50_000)
    assert "\n" not in str(caught.value)


def test_a_small_image_needs_memory_for_itself_only() -> None:
    assert plan(ImageSpec(40, 60), weight=50_000).exact


def test_a_halo_beyond_the_largest_window_is_named_for_what_it_is() -> None:
    deep = Footprint(halo=1536, multiple_of=256)
    with pytest.raises(UsageError, match="--memory: too small for one window of this model, which sees 1536 pixels around each"):
        plan(SLIDE, deep)
    assert plan(SLIDE, deep, memory="64GB").tile[0] > 2 * 1536
    assert plan(SLIDE, deep, tile="4096", memory="40GB").tile == (4096, 4096)
    assert plan(PHOTO, deep).exact, "the whole image in one window needs no halo"


@pytest.mark.parametrize("asked", [{"tile": "2048"}, {"tile": "512", "batch": "64"}])
def test_what_was_asked_for_and_breaks_the_budget_is_refused(asked: dict[str, str]) -> None:
    with pytest.raises(UsageError, match="need about .* GB; give .* or more --memory") as caught:
        plan(memory="2GB", **asked)
    assert next(iter(reversed(asked))) in str(caught.value)
    assert plan(memory="40GB", **asked).memory < 40e9


def test_windows_that_waste_little_are_preferred() -> None:
    """Of a halo of 96 on each side, a window of 512 keeps 39 % and one of 1024 66 %."""
    assert plan(memory="16GB").tile[0] >= 1024
    assert plan(ImageSpec(300, 200), memory="16GB").tile[0] <= 1024


# ------------------------------------------------------------------------------------------- batches, blocks, threads


def test_a_batch_is_about_a_megapixel_and_never_more_than_there_are_windows() -> None:
    assert plan(tile="256", footprint=Footprint(), weight=1).batch == 16
    assert plan(ImageSpec(256, 512), tile="256", footprint=Footprint(), weight=1).batch == 2
    assert plan(tile="4096", weight=1).batch == 1
    assert plan(tile="256", batch="3").batch == 3
    with pytest.raises(UsageError, match="--batch 0"):
        plan(batch="0")


def test_a_batch_shrinks_with_the_memory() -> None:
    assert plan(tile="256", footprint=Footprint(), weight=1000, memory="1.5GB").batch < 16


def test_blocks_are_about_a_thousand_pixels_and_whole_cores() -> None:
    made = plan(tile="256", footprint=Footprint())
    assert made.cores == 4
    assert made.grid(SLIDE, Footprint()).block_shape == (1024, 1024)
    assert plan(tile="4096", weight=1).cores == 1


def test_large_results_grow_on_disk_small_ones_in_memory() -> None:
    assert plan(SLIDE).canvas == "disk"
    assert plan(PHOTO).canvas == "memory"
    assert plan(PHOTO, kind="image").canvas == "disk", "an iterative method always keeps its state"
    assert plan(ImageSpec(10_000, 10_000), bytes_each=1).canvas == "memory"
    assert plan(ImageSpec(10_000, 10_000), bytes_each=9).canvas == "disk"
    assert plan(ImageSpec(10_000, 10_000), Footprint(scale=4)).canvas == "disk", "the output's pixels count"


def test_a_backend_that_takes_more_than_there_is_is_named() -> None:
    runtime, predictor = Runtime(backend="openvino"), toys.Convolution()
    with pytest.raises(UsageError, match="--backend openvino: needs more than 1.5 GB; give more --memory, or --backend torch"):
        make_plan(ImageSpec(4000, 4000), predictor, 5, RunOptions(memory="1.5GB"), runtime)


def test_jobs_share_the_budget_and_the_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planner, "available_cores", lambda: 8)
    assert [plan(PHOTO, jobs=jobs, memory="16GB").threads for jobs in (1, 2, 3, 16)] == [8, 4, 2, 1]
    with pytest.raises(UsageError, match="--jobs 16: too many for 2.0 GB; give fewer, or more --memory"):
        plan(PHOTO, jobs=16)
    alone, together = plan(weight=2000, memory="4GB"), plan(weight=2000, memory="4GB", jobs=4)
    assert together.tile < alone.tile
    assert plan(ImageSpec(10_000, 10_000), jobs=4).canvas == "disk", "four canvases are four times as large"


def test_a_plan_survives_json_as_it_stands() -> None:
    made = plan()
    assert Plan.from_mapping(json.loads(json.dumps(made.as_mapping()))) == made


def test_the_least_window_of_a_footprint_is_enforced_wherever_a_grid_is_made() -> None:
    with pytest.raises(UsageError, match="--tile: a window of 9 pixels"):
        grid_of(SLIDE, EXACT, (9, 9))

"""Images of several planes: each is an image of its own, with its own statistics and labels; all share one plan and canvas."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from i2i.canvas import Canvas, Layer
from i2i.contracts import Array, Exported, ImageSpec, ObjectFilter, Objects, Predictor, Source
from i2i.engine import Job, Progress, Snapshot, run_job
from i2i.engine.objects import ObjectsOutcome
from i2i.filters import filtered
from i2i.formats.views import View
from i2i.geometry import Region
from i2i.verify import verify


@dataclass(frozen=True)
class PlaneCanvas:
    """What of a canvas belongs to one plane: the names of its layers and stages begin with the plane's number."""

    canvas: Canvas
    plane: int

    def _name(self, name: str) -> str:
        return f"p{self.plane:04d}/{name}"

    def layer(self, name: str, spec: ImageSpec, chunk: tuple[int, int], origin: tuple[int, int] = (0, 0)) -> Layer:
        return self.canvas.layer(self._name(name), spec, chunk, origin)

    def done(self, stage: str) -> frozenset[int]:
        return self.canvas.done(self._name(stage))

    def mark(self, stage: str, block: int) -> None:
        self.canvas.mark(self._name(stage), block)

    def store(self, stage: str, block: int, arrays: Mapping[str, Array]) -> None:
        self.canvas.store(self._name(stage), block, arrays)

    def fetch(self, stage: str, block: int) -> dict[str, Array] | None:
        return self.canvas.fetch(self._name(stage), block)

    def close(self) -> None:
        """The canvas is its owner's."""

    def remove(self) -> None:
        """The same."""


@dataclass(frozen=True)
class PlaneResults:
    """A source whose planes are those of several sources of one plane, of the same size, channels and dtype."""

    results: Sequence[Source]
    axes: tuple[tuple[str, int], ...]

    @property
    def spec(self) -> ImageSpec:
        return replace(self.results[0].spec, planes=self.axes)

    def read(self, region: Region, plane: int = 0, level: int = 0) -> Array:
        """See :class:`i2i.contracts.Source`; ``level`` can only be 0."""
        return self.results[plane].read(region)

    def close(self) -> None:
        """Nothing is open."""


@dataclass(frozen=True)
class Done:
    """What all planes gave. ``objects``: of all planes, and ``most`` the highest label of one; None where there are none.
    ``by_plane``: the objects of each of several planes, by its name; ``found``: of each plane what gives all that a detector
    knows of its objects; ``frames``: the pictures for an animation of an image of one plane."""

    result: Source
    objects: int | None
    most: int | None
    computed: int
    reused: int
    warnings: list[str]
    by_plane: Mapping[str, int] = field(default_factory=dict)
    found: Sequence[Callable[[], Objects]] = ()
    frames: Callable[[], Iterator[Array]] | None = None


def plane_names(spec: ImageSpec) -> tuple[str, ...]:
    """Such as ``t=0,z=3``, in C order; for an image of one plane an empty name."""
    if spec.plane_names:
        return spec.plane_names
    names = [""]
    for axis, length in spec.planes:
        names = [f"{name},{axis}={i}".lstrip(",") for name in names for i in range(length)]
    return tuple(names)


def plane_positions(spec: ImageSpec) -> list[dict[str, int]]:
    """Where each plane lies in the image's file, such as ``{"t": 0, "z": 3}``; of a file of one plane ``{}``."""
    parts = [[part.partition("=") for part in name.split(",") if part] for name in plane_names(spec)]
    return [dict(spec.chosen) | {axis: int(number) for axis, _, number in each} for each in parts]


def plane_jobs(
    job: Job, predictors: Sequence[Predictor], snapshot: Callable[[str], Snapshot] = lambda plane: lambda step, picture: None
) -> list[Job]:
    """A job for each plane of the job's source, with the predictor that was prepared for it. ``snapshot`` gives what takes the
    pictures on the way, for the plane's name."""
    if len(predictors) == 1:
        return [replace(job, source=View(job.source), predictor=predictors[0], snapshot=snapshot(""))]
    return [
        replace(
            job,
            source=View(job.source, plane),
            predictor=predictors[plane],
            canvas=PlaneCanvas(job.canvas, plane),
            progress=_named(job.progress, name),
            snapshot=snapshot(name),
        )
        for plane, name in enumerate(plane_names(job.source.spec))
    ]


def _named(progress: Progress, name: str) -> Progress:
    return lambda stage, share: progress(f"{name} {stage}", share)


def run_planes(jobs: Sequence[Job], spec: ImageSpec) -> Done:
    """Do all planes of an image of ``spec``, one after the other. Their results lie along its axes."""
    outcomes = [run_job(job) for job in jobs]
    counts = [outcome.objects for outcome in outcomes if outcome.objects is not None]
    of_detectors = [outcome for outcome in outcomes if isinstance(outcome, ObjectsOutcome)]
    names = plane_names(spec)
    named = zip(names, outcomes, strict=True)
    return Done(
        result=PlaneResults([outcome.result for outcome in outcomes], spec.planes),
        objects=sum(counts) if counts else None,
        most=max([outcome.highest for outcome in of_detectors] or counts, default=None),
        computed=sum(outcome.computed for outcome in outcomes),
        reused=sum(outcome.reused for outcome in outcomes),
        warnings=[f"{name}: {text}".lstrip(": ") for name, outcome in named for text in outcome.warnings],
        by_plane=dict(zip(names, counts, strict=True)) if counts and len(jobs) > 1 else {},
        found=[outcome.found for outcome in of_detectors if outcome.found],
        frames=outcomes[0].frames,
    )


def for_exporters(
    source: Source, result: Source, done: Done, own_masks: bool, every: Source | None = None, **told: Any
) -> Exported:
    """What exporters are given of an image and its result. ``own_masks``: whether those of a detector are on the result's grid;
    ``told``: the other fields, the same for each plane. What is known of the objects of several planes is fetched for one plane
    at a time."""
    positions = plane_positions(source.spec)

    def one(plane: int) -> Exported:
        objects = done.found[plane]() if done.found else None
        if objects and not own_masks:
            objects = replace(objects, masks=None)
        seen = View(every, plane) if every else None
        return Exported(View(source, plane), View(result, plane), objects=objects, plane=positions[plane], every=seen, **told)

    if len(positions) == 1:
        return replace(one(0), frames=done.frames)
    return Exported(source, result, planes=lambda: map(one, range(len(positions))), **told)


def kept_objects(done: Done, rule: ObjectFilter) -> Done:
    """The same with the objects that the rule keeps, in each plane by itself; their numbers are consecutive again."""
    if not rule.asked or done.objects is None:
        return done
    result, counts = filtered(done.result, list(done.by_plane.values()) or [done.objects], rule)
    by_plane = dict(zip(done.by_plane, counts, strict=True)) if done.by_plane else {}
    return replace(done, result=result, objects=sum(counts), most=max(counts), by_plane=by_plane)


def verify_planes(jobs: Sequence[Job], count: int) -> float:
    """The largest difference that :func:`i2i.verify.verify` finds at ``count`` places, spread over the planes."""
    places = Counter(place * len(jobs) // count for place in range(count))
    return max(verify(jobs[plane], here) for plane, here in places.items())

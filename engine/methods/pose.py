"""People found in pictures: `Frame`s are their skeletons; the settings of `Done` hold the keypoints as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from time import perf_counter

from engine.checkpoints.manager import Models
from engine.methods import posing
from engine.requests import Done, Event, Frame, PoseRequest, Progress, within
from engine.vision.keypoints import pose


def find(models: Models, request: PoseRequest) -> Iterator[Event]:
    started, found, skeletons = perf_counter(), {}, []
    for i, picture in enumerate(request.pictures):
        n = len(request.pictures)
        look = posing.detected(models, picture, request.detector, request.rescue, request.model)
        people = yield from within(look, i / n, (i + 1) / n)
        found[f"pose_{'ab'[i]}"] = pose.write(people, picture.size)
        skeletons.append(pose.drawn(people, picture.size))
        yield Frame(i, skeletons[-1])
    yield Progress(1.0, "done")
    yield Done(tuple(skeletons), request.settings() | found, perf_counter() - started, 0)

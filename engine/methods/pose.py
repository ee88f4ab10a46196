"""People in pictures: who is there, and the skeletons that steer the frames between two pictures.

Wang & Golland 2023 (arXiv 2307.12560) §4.3; methods.md §1.5.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from PIL.Image import Image

from engine.context import Advance, Context, Output, Steps, noise_source, walk
from engine.diffusion.control import ControlInput
from engine.diffusion.guidance import classifier_free
from engine.diffusion.model import LatentDiffusion
from engine.requests import Frame, InterpolateRequest, PoseRequest, Progress
from engine.vision import images
from engine.vision.keypoints import pose, skeleton

People = tuple[pose.Person, ...]
# The photograph that is made of a drawing, within the ranges of the paper's scripts (methods.md §1.5).
T0, GUIDANCE, SCALE, CANNY, STEPS = 0.85, 15.0, 0.55, (180, 350), 20


def find(context: Context, r: PoseRequest) -> Steps:
    """`Frame`s are the skeletons; the settings of the output hold the keypoints as JSON."""
    found, skeletons = {}, []
    for i, picture in enumerate(r.pictures):
        people = yield from detect(context, picture, r.detector, r.rescue, r.model)
        found[f"pose_{'ab'[i]}"] = pose.write(people, picture.size)
        skeletons.append(skeleton.draw(people, picture.size))
        yield Frame(i, skeletons[-1])
    return Output(skeletons, found)


@dataclass(frozen=True)
class Poses:
    """The people of both pictures in the frame, and how they steer what lies between."""

    a: People
    b: People
    keep: str
    scale: float
    size: tuple[int, int]

    def control(self, places: Sequence[float]) -> ControlInput:
        """The skeletons at ``places``, 0 … 1 of the way, and how strongly each counts."""
        people = [pose.people_at(self.a, self.b, t, self.keep) for t in places]
        found = bool(self.a), bool(self.b)
        scales = [pose.scale_at(t, self.scale, found) if p else 0.0 for t, p in zip(places, people, strict=True)]
        blocks = [np.asarray(skeleton.draw(p, self.size)) for p in people]
        return ControlInput(torch.from_numpy(np.stack(blocks)).permute(0, 3, 1, 2).float() / 255, torch.tensor(scales))


def find_both(
    context: Context, r: InterpolateRequest, size: tuple[int, int]
) -> Generator[Advance | Progress, None, tuple[Poses | None, dict[str, Any], list[str]]]:
    """The people of both pictures, given or looked for: what steers frames of ``size``, the settings with which the
    same pictures come without the detector, and notes."""
    if r.pose == "off":
        return None, {}, []
    found: list[People] = []
    for text, picture, name in ((r.pose_a, r.a, "pose_a"), (r.pose_b, r.b, "pose_b")):
        if text:
            found.append(pose.read(text, name, picture.size))
        elif r.pose == "given":
            found.append(())
        else:
            found.append((yield from detect(context, picture, r.pose, r.pose_rescue, r.model)))
    a, b = (pose.frame(p, o.size, size, r.fit) for p, o in zip(found, (r.a, r.b), strict=True))
    said = {"pose_a": pose.write(found[0], r.a.size), "pose_b": pose.write(found[1], r.b.size)}
    nobody = [n for n, p in zip(("the first picture", "the last"), found, strict=True) if not p]
    notes = [f"nobody was found in {' or '.join(nobody)}, so poses do not steer there"] if nobody else []
    return Poses(a, b, r.pose_people, r.pose_scale, size) if a or b else None, said, notes


def detect(
    context: Context, picture: Image, which: str, rescue: str = "", model: str = ""
) -> Generator[Advance | Progress, None, People]:
    """The people in a picture, remembered by its content; where there is nobody, those of a photograph made of it."""
    key = which, rescue and model, rescue, images.digest(picture)
    found = context.get("people", key)
    if found is None:
        yield Advance("looking for people")
        detector = yield from context.detector(which)
        found = detector.people(picture)
        if not found and rescue:
            other = context.model if context.loaded else (yield from context.load(model, ("canny",)))
            photo = yield from photograph(other, picture, rescue)
            found = unframe(detector.people(photo), picture.size, photo.size)
        context.put("people", key, found)
    return found


def unframe(people: People, picture: tuple[int, int], frame: tuple[int, int]) -> People:
    """People of a frame (fitted, see `pose.frame`) where they are in the whole picture."""
    (w, h), (fw, fh) = picture, frame
    scale = max(fw / w, fh / h)
    sw, sh = w * scale, h * scale
    left, top = (fw - sw) / 2, (fh - sh) / 2
    return tuple(
        pose.Person(tuple(j and ((j[0] * fw - left) / sw, (j[1] * fh - top) / sh) for j in p.joints)) for p in people
    )


def photograph(model: LatentDiffusion, picture: Image, words: str) -> Generator[Advance, None, Image]:
    """A photograph of what a drawing shows: SDEdit at `T0`, held by the drawing's edges (methods.md §1.5).

    A poor one will often do: it is only looked at by the detector. Without a canny ControlNet its lines are not held.
    """
    import cv2

    size = images.frame_size(picture, "fit", model.size, model.multiple)
    fitted = images.fit_frame(picture, size, "fit")
    edges = cv2.Canny(cv2.cvtColor(np.asarray(fitted), cv2.COLOR_RGB2GRAY), *CANNY)
    block = torch.from_numpy(np.repeat(edges[None, None], 3, 1)).float() / 255
    control = {"canny": ControlInput(block, SCALE)} if model.resident.has("canny") else None
    z = model.encode(images.to_tensor([fitted]))
    rows = [replace(c, control=control) for c in classifier_free(*model.embed([words], [""]).split(1), GUIDANCE)]
    sigmas = model.schedule.sigmas_from_strength(T0, STEPS)
    x = z + sigmas[0] * noise_source(z.shape[1:], [(0, 7)], model.device)()
    doing = "making a photograph of it, to find people there"
    x = yield from walk(model.denoiser(rows), x, sigmas, doing)
    return images.to_pictures(model.decode(x))[0]

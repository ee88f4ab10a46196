"""Pose guidance for two pictures: whose keypoints they are, and the skeletons that steer the frames between them.

Wang & Golland 2023 (arXiv 2307.12560) §4.3; methods.md §1.5.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor

from engine.checkpoints.manager import Models, located
from engine.checkpoints.resolve import DETECTORS, fetching
from engine.diffusion.control import Hint
from engine.diffusion.model import Network, Row, guided
from engine.diffusion.sampling import sample, gaussian, generator
from engine.requests import Progress
from engine.vision import images
from engine.vision.keypoints import pose
from engine.vision.keypoints.detectors import Detector
from engine.vision.keypoints.pose import Person

People = tuple[Person, ...]
# The photograph that is made of a drawing, within the ranges of the paper's scripts (methods.md §1.5).
T0, GUIDANCE, SCALE, CANNY, STEPS = 0.85, 15.0, 0.55, (180, 350), 20


@dataclass(frozen=True)
class Poses:
    """The people of both pictures in the frame, and how they steer what lies between."""

    a: People
    b: People
    keep: str
    scale: float
    size: tuple[int, int]

    def hint(self, places: Sequence[float]) -> Hint:
        """The skeletons at ``places``, 0 … 1 of the way, and how strongly each counts."""
        people = [pose.along(self.a, self.b, t, self.keep) for t in places]
        found = bool(self.a), bool(self.b)
        scales = [pose.scale_at(t, self.scale, found) if p else 0.0 for t, p in zip(places, people, strict=True)]
        blocks = [np.asarray(pose.drawn(p, self.size)) for p in people]
        return Hint(torch.from_numpy(np.stack(blocks)).permute(0, 3, 1, 2).float() / 255, torch.tensor(scales))


def detected(
    models: Models, picture: Image, which: str, rescue: str = "", model: str = ""
) -> Generator[Progress, None, People]:
    """The people in a picture, remembered by its content; where there is nobody, those of a photograph made of it."""
    key = ("people", which, rescue and model, rescue, images.digest(picture))
    found = models.memo.get(key)
    if found is None:
        yield Progress(0.0, "looking for people")
        detector = yield from _detector(models, which)
        found = detector.people(picture)
        if not found and rescue:
            net = yield from models.loading(model, ("canny",))
            photo = yield from photographed(net, picture, rescue)
            found = _unframed(detector.people(photo), picture.size, photo.size)
        models.memo.put(key, found, 4096)
    return found


def _unframed(people: People, picture: tuple[int, int], frame: tuple[int, int]) -> People:
    """People of a frame (fitted, see `pose.framed`) where they are in the whole picture."""
    (w, h), (fw, fh) = picture, frame
    scale = max(fw / w, fh / h)
    sw, sh = w * scale, h * scale
    left, top = (fw - sw) / 2, (fh - sh) / 2
    return tuple(
        Person(tuple(j and ((j[0] * fw - left) / sw, (j[1] * fh - top) / sh) for j in p.joints)) for p in people
    )


def _detector(models: Models, which: str) -> Generator[Progress, None, Detector]:
    known = models.tools.get(("detector", which))
    if known is None:
        extra = DETECTORS[which]
        yield from fetching([(extra.about, extra.source)])
        known = Detector(which, located(extra), models.device.type)
        models.tools.put(("detector", which), known, known.bytes)
    return known


def photographed(net: Network, picture: Image, words: str) -> Generator[Progress, None, Image]:
    """A photograph of what a drawing shows: SDEdit at `T0`, held by the drawing's edges (methods.md §1.5).

    A poor one will often do: it is only looked at by the detector. Without a canny ControlNet its lines are not held.
    """
    import cv2

    size = images.frame_size(picture, "fit", net.size, net.multiple)
    fitted = images.fitted(picture, size, "fit")
    edges = cv2.Canny(cv2.cvtColor(np.asarray(fitted), cv2.COLOR_RGB2GRAY), *CANNY)
    block = torch.from_numpy(np.repeat(edges[None, None], 3, 1)).float() / 255
    hints = {"canny": Hint(block, SCALE)} if "canny" in net.controls else None
    z = net.encode(images.to_tensor([fitted]))
    cond, uncond = net.embed([words, ""]).split(1)
    rows = [Row(r.embeds, r.weight, hints=hints) for r in guided(cond, uncond, GUIDANCE)]
    levels = net.below(T0, STEPS)
    x: Tensor = z + levels[0] * gaussian(z.shape[1:], [generator(0, 7)]).to(z)
    for i, state in enumerate(sample(net.field(rows), x, levels), 1):
        x = state.x
        yield Progress(i / (len(levels) - 1), "making a photograph of it, to find people there")
    return images.to_pictures(net.decode(x))[0]

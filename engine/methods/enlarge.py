"""*Enlarge*: what was made, larger; one picture after the other, a detail of it first."""

from __future__ import annotations

from engine.context import Advance, Context, Output, Steps
from engine.requests import EnlargeRequest, Frame, within
from engine.vision.enlarge import Enlarger, detail
from engine.vision.enlarge import enlarge as enlarged


def enlarge(context: Context, r: EnlargeRequest) -> Steps:
    """The preview is a detail of the middle picture, before | after; `Frame`s are the results. None is kept here."""
    models, middle = context.models, r.total // 2
    net = models.tool(("enlarge",), lambda: Enlarger(models.device, models.dtype))
    picture = detail(net, r.pictures[middle], r.scale)
    yield Advance("looking at a detail", frames=(middle,), pictures=(picture,))
    sizes = [p.width * p.height for p in r.pictures]
    for i, given in enumerate(r.pictures):
        doing = "enlarging" if r.total == 1 else f"enlarging picture {i + 1} of {r.total}"
        low, high = (sum(sizes[:n]) / sum(sizes) for n in (i, i + 1))
        picture = yield from within(enlarged(net, given, r.scale, doing), low, high)
        yield Frame(i, picture)
    return Output((), {"width": picture.width, "height": picture.height})

"""Which part becomes which: the map of `engine.methods.align` as arrows over both pictures, without making anything."""

from __future__ import annotations

import torch
from PIL.Image import Image
from torch import Tensor

from engine.context import Advance, Context, Output, Steps
from engine.diffusion import warp
from engine.methods import align
from engine.requests import MatchRequest
from engine.vision import images

ACROSS = 10  # arrows along the longer side
CELL, LONGER = 8, 512  # pixels of a latent's cell, of the frame's longer side, where no network says so


def match(context: Context, r: MatchRequest) -> Steps:
    """No frames: the settings of the output hold ``arrows`` (`MatchRequest`)."""
    if r.loads:
        model = context.model
        frame = images.frame_size(r.a, r.fit, r.size or model.size, model.multiple)
        z = context.encode([images.fit_frame(p, frame, r.fit) for p in (r.a, r.b)])
        words = model.embed([r.prompt, r.prompt_b or r.prompt])
        found = yield from align.find(context, r, (r.a, r.b), [(0, 1)], z, words)
        moves, notes = found.warps[0], found.notes
    else:
        yield Advance("looking at the points")
        frame = images.frame_size(r.a, r.fit, r.size or LONGER, CELL)
        put = align.in_frame(r.points[0] if r.points else (), r.a, r.b, frame, r.fit)
        moves = warp.of_points(put, (frame[1] // CELL, frame[0] // CELL))
        notes = align.said(r, "from picture 1 to 2", sum(map(len, r.points)), len(put), moves, None)
    return Output((), {"arrows": arrows(moves, r.a, r.b, frame, r.fit)}, notes=notes)


def arrows(moves: warp.Warp, a: Image, b: Image, frame: tuple[int, int], fit: str) -> list[list[float]]:
    """Where places all over the frame come from and go to, in fractions of the pictures; those inside both."""
    rows, columns = (max(1, round(ACROSS * n / max(frame))) for n in frame[::-1])
    start = warp.centres((rows, columns)).flatten(0, 1)
    end = moves(start)
    trust = torch.ones(len(start), 1) if moves.trust is None else warp.sampled(moves.trust[None], start)
    whole = torch.cat([given(start, a.size, frame, fit), given(end, b.size, frame, fit)], 1)
    inside = ((whole >= 0) & (whole <= 1)).all(1)
    return [[round(v, 4) for v in row] for row in torch.cat([whole, trust.to(whole)], 1)[inside].tolist()]


def given(p: Tensor, picture: tuple[int, int], frame: tuple[int, int], fit: str) -> Tensor:
    """Positions (n, 2) in a frame → in the picture as it was given: the way back from `align.shown`."""
    at = align.shown(torch.tensor([[0.0, 0], [1, 1]], dtype=p.dtype), picture, frame, fit)
    return (p - at[0]) / (at[1] - at[0])

"""Requests of any values: each is valid or an EngineError, in the schema and on a network, and nothing else."""

import math
import os
import random
import warnings

import pytest
from conftest import done, picture
from PIL import Image

from engine.requests import METHODS, Done, EngineError, fields_of, pictures_of, settle
from engine.requests.finish import Finish, finish_of
from engine.requests.plainly import plainly

TEXTS = [
    "",
    " ",
    "a rose",
    "(red:1.3) [x",
    "((((",
    "<lora:x:2>",
    "`steps`",
    "é🌹",
    "\0",
    "\ud800",
    "-1",
    "0,5",
    "1e999",
    "nan",
]
TEXTS += ["../../etc/passwd", "x" * 20_000, "9" * 5_000 + "x", "[" * 2_000, "{}", "[[[0.1, 0.2, 0.3, 0.4]]]", "flora"]
NUMBERS = [0, 1, -1, 2, 3, 4, 5, 9, 16, 0.5, 0.25, 1e-9, 1e18, -1e18, 2**31, 2**32, 2**64, 10**400, 10**5000]
NUMBERS += [math.nan, math.inf, -math.inf, True, False, 7.0, 24.0]
OTHERS = [None, [], (), {}, {"a": 1}, [None], [[1, 2]], [["x"]], ((1, 2),), b"", b"x", object(), [[[[[]]]]], {1}]
LAYERS = [(m, s) for m in ("RGB", "RGBA", "L", "P", "1", "I;16", "CMYK", "LA") for s in ((64, 64), (1, 900), (96, 32))]
PICTURES = [Image.new(m, s, 1 if m in ("L", "P", "1", "I;16") else 0) for m, s in LAYERS]
PICTURES += [picture(i, (64, 64)) for i in (0, 1)] * 8 + [Image.new("RGBA", (64, 64), (9, 9, 9, 200))] * 8


def wild(rng, f):
    """Any value for a field, more often one that nearly fits."""
    if f.spec.layer:
        one = [rng.choice(PICTURES) for _ in range(rng.choice((0, 1, 2, 2, 3, 13)))]
        return rng.choice([one, tuple(one), rng.choice(PICTURES), rng.choice(OTHERS)])
    own = [*f.spec.choices] + [v for v in (f.spec.low, f.spec.high) if math.isfinite(v)] + [f.default]
    pool = rng.choice((own, own, own, NUMBERS, TEXTS, OTHERS))
    value = rng.choice(pool)
    return [value] * rng.choice((1, 2, 700)) if f.type is tuple and rng.random() < 0.5 else value


def asked(rng, request):
    """Values of a request by name: fitting pictures mostly, a few fields of any value, now and then a strange name."""
    values = {}
    for n, f in pictures_of(request).items():
        fit = picture(2, (64, 64)) if "RGB" in f.spec.layer.split(" or ") else Image.new(f.spec.layer, (64, 64), 255)
        if f.spec.layer == "RGBA":
            fit = PICTURES[-1]
        if f.default is not None or rng.random() < 0.5:
            values[n] = (fit, fit) if f.default != () and f.type is tuple else () if f.type is tuple else fit
        if rng.random() < 0.08:
            values[n] = wild(rng, f)
    own = list(fields_of(request).values())
    values |= {f.name: wild(rng, f) for f in rng.sample(own, rng.randrange(min(4, len(own)) + 1))}
    return values | ({"nonsense": 1} if rng.random() < 0.01 else {})


def made(request, values):
    """The request, or None where it is refused; what else is raised comes through."""
    try:
        found = request(**settle(request, values))
        assert found.settings() and found.total >= 1
        return found
    except EngineError as e:
        said = str(e)
        assert " must " in said and "\n" not in said and len(said) < 1000, said
        assert said.encode() and plainly(e).encode()
        return None


def test_ten_thousand_requests_through_the_schema():
    rng, fit = random.Random(23), 0
    for i in range(10_000):
        request = METHODS[rng.choice(list(METHODS))]
        values = asked(rng, request)
        try:
            fit += made(request, values) is not None
        except Exception as e:
            pytest.fail(f"number {i}, {request.method}: {type(e).__name__}: {e} of {str(values)[:600]}")
    assert 1000 < fit < 9000  # both happen


def test_films_of_any_values():
    rng = random.Random(24)
    for i in range(2_000):
        own = list(fields_of(Finish).values())
        values = {f.name: wild(rng, f) for f in rng.sample(own, rng.randrange(1, 5))}
        try:
            finish_of(values)
        except EngineError as e:
            assert " must " in str(e)
        except Exception as e:
            pytest.fail(f"number {i}: {type(e).__name__}: {e} of {str(values)[:600]}")


SMALL = {
    "steps": 4,
    "frames": 3,
    "size": 64,
    "lora_steps": 1,
    "lora_rank": 2,
    "lora_draws": 1,
    "count": 1,
    "repeats": 1,
}
CAPS = {"candidates": 2, "invert_steps": 2}
COUNT = int(os.environ.get("CHRYSALIS_FUZZ", 60))  # of requests through the engine; CI has no time for all 200
EASY = ("interpolate", "morph", *("draw", "edit") * 3)


def small(rng, request, tiny):
    """A request that is soon done: cheap where it costs, anything within its range elsewhere."""
    values = {}
    for n, f in pictures_of(request).items():
        if f.default is None and rng.random() < 0.5:
            continue
        size = rng.choice(((64, 64), (64, 64), (96, 64), (40, 80))) if f.spec.layer == "RGB" else (64, 64)
        one = {"RGBA": PICTURES[-1], "L": Image.new("L", (64, 64), 200)}.get(f.spec.layer) or picture(
            rng.randrange(9), size
        )
        values[n] = (one, picture(3, size)) if f.type is tuple and f.default != () else () if f.type is tuple else one
    for n, f in rng.sample(sorted(fields_of(request).items()), 5):
        s = f.spec
        if s.choices:
            values[n] = rng.choice(list(s.choices))
        elif f.type in (int, float) and math.isfinite(s.high):
            values[n] = rng.choice((s.low, s.high, f.default, s.low + (s.high - s.low) * rng.random()))
            values[n] = int(values[n]) if f.type is int else values[n]
        elif f.type is bool:
            values[n] = rng.random() < 0.5
        elif f.type is str:
            values[n] = rng.choice(TEXTS[:8])
    values |= {n: v for n, v in SMALL.items() if n in fields_of(request)} | {
        "model": str(tiny),
        "seed": rng.randrange(99),
    }
    values |= {n: min(v, values.get(n, v)) for n, v in CAPS.items() if n in fields_of(request)}
    return values | ({"sheet": "none"} if request.method == "draw" else {})


def test_requests_through_the_engine(tiny, models):
    rng, ends = random.Random(25), {"done": 0, "refused": 0}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for i in range(COUNT):
            request = METHODS[rng.choice(EASY)]
            values = small(rng, request, tiny)
            try:
                found = made(request, values)
                if found is None:
                    ends["refused"] += 1
                    continue
                result = done(models, found)
                assert isinstance(result, Done) and len(result.frames) == found.total
                ends["done"] += 1
            except EngineError as e:
                assert " must " in str(e), e
                ends["refused"] += 1
            except Exception as e:
                shown = {n: v for n, v in values.items() if not isinstance(v, Image.Image | tuple)}
                pytest.fail(f"number {i}, {request.method}: {type(e).__name__}: {e} of {shown}")
    assert min(ends.values()) > COUNT / 8, ends

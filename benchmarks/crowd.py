"""A crowd of seeded visitors: they stay, cancel, vanish, reload, draw live, download and send broken files.

Every job has a seed and a colour of its own, of which a part of its result must be to the last bit: the photograph
outside of what may change, the end of a film.
"""

from __future__ import annotations

import base64
import io
import json
import threading
import zipfile
from collections import Counter
from random import Random
from time import monotonic, sleep
from typing import Any

from PIL import Image, ImageDraw

from benchmarks.visits import Refused, Site, Visitor, ended

SIDE = 64
STROKES = 10  # a second
ACTS = {"ask": 50, "live": 18, "reload": 12, "broken": 20}  # of a hundred jobs
FATES = {"stay": 60, "cancel": 24, "vanish": 16}
SEEDS = 1000  # a job's own: its number times this, and what it has of strokes


def colour(n: int) -> tuple[int, int, int]:
    """One of 4096, the neighbours far from each other: JPEG changes it by less than half of the way to another."""
    n = n * 1151 % 4096
    return 8 + 16 * (n // 256), 8 + 16 * (n // 16 % 16), 8 + 16 * (n % 16)


def png(picture: Image.Image) -> bytes:
    block = io.BytesIO()
    picture.save(block, "PNG")
    return block.getvalue()


def dot(at: int = 32) -> Image.Image:
    """Paint in the middle: the corners of a photograph under it stay."""
    layer = Image.new("RGBA", (SIDE, SIDE))
    ImageDraw.Draw(layer).ellipse((at - 4, 28, at + 4, 36), (200, 40, 40, 255))
    return layer


def corner(block: bytes) -> tuple[int, ...]:
    """A picture's, or that of the first one in a zip."""
    if block[:2] == b"PK":
        with zipfile.ZipFile(io.BytesIO(block)) as z:
            block = z.read(sorted(z.namelist())[0])
    return Image.open(io.BytesIO(block)).convert("RGB").getpixel((1, 1))  # type: ignore[return-value]


class Crowd:
    """Who visits one studio, and what came of it."""

    def __init__(self, site: Site, model: str, seed: int):
        self.site, self.model, self.seed = site, model, seed
        self.ends, self.lost, self.crossed = Counter[str](), list[str](), list[str]()
        self.sent, self.stopped = dict[int, float](), dict[int, float]()  # seed → when
        self._lock, self._next = threading.Lock(), 0

    def run(self, jobs: int, visitors: int, until: float = float("inf")) -> None:
        """So many jobs more, by so many visitors at once."""
        last = self._next + jobs
        crowd = [threading.Thread(target=self.visit, args=(last, until)) for _ in range(visitors)]
        for visitor in crowd:
            visitor.start()
        for visitor in crowd:
            visitor.join()

    def visit(self, last: int, until: float) -> None:
        while monotonic() < until:
            with self._lock:
                n = self._next
                if n >= last:
                    return
                self._next += 1
            rng = Random(f"{self.seed} {n}")
            act = rng.choices([*ACTS], [*ACTS.values()])[0]
            try:
                with Visitor(self.site) as who:
                    end = getattr(self, act)(n, rng, who)
            except (Exception, StopIteration) as e:
                end = "lost"
                self.lost.append(f"{n} {act}: {type(e).__name__} {str(e)[:300]}")
            with self._lock:
                self.ends[end] += 1

    # ---- what they do

    def ask(self, n: int, rng: Random, who: Visitor) -> str:
        """A method by its endpoint; whoever cancels or vanishes does it at any stage."""
        method, fate = rng.choice(["interpolate", "morph", "draw", "edit"]), rng.choices([*FATES], [*FATES.values()])[0]
        after = rng.choice([-1, 0, 1, 2, 4, 8])  # messages
        event = self.site.named[method]
        data = self.site.given(event, **self.request(method, n, rng, who))
        found = self.follow(n * SEEDS, who, event, data, fate, after)
        if not isinstance(found, list):
            return found
        labels = [self.site.components[i]["props"]["label"] for i in event["outputs"]]
        out = dict(zip(labels, found, strict=True))
        self.check(n, who.download(out["zip"] if "zip" in out else out["pictures"][0]), out["report"]["seed"])
        return "done"

    def request(self, method: str, n: int, rng: Random, who: Visitor) -> dict[str, Any]:
        own: dict[str, Any] = {"seed": n * SEEDS, "size": SIDE, "steps": 4, "model": self.model}
        flat = who.upload(png(Image.new("RGB", (SIDE, SIDE), colour(n))))
        other = who.upload(png(Image.new("RGB", (SIDE, SIDE), colour(n + 2048))))
        if method == "interpolate":
            return own | {"a": flat, "b": other, "frames": 3}
        if method == "morph":
            learnt = {"lora": rng.choice(["mix", "none"]), "lora_steps": 2, "lora_rank": 2}
            return own | learnt | {"pictures": [flat, other], "frames": 3, "exact_ends": True}
        if method == "draw":
            pace = rng.choice([{}, {"sampler": "live", "steps": 2}])
            return own | pace | {"photo": flat, "strokes": who.upload(png(dot()))}
        mask = Image.new("L", (SIDE, SIDE))
        mask.paste(255, (24, 24, 40, 40))
        return own | {"guide": flat, "mask": who.upload(png(mask))}

    def live(self, n: int, rng: Random, who: Visitor) -> str:
        """Strokes on the page, ten a second, of which the newest is drawn when the one before is; then the rest."""
        event, turns, leaves = self.site.event("draw-canvas", "live"), rng.randint(6, 14), rng.random() < 0.2
        self.arrive(who)
        with who.alive():
            flat = who.upload(png(Image.new("RGB", (SIDE, SIDE), colour(n))))
            began, turn = monotonic(), 0
            while turn < turns:
                turn = max(turn + 1, min(turns, int((monotonic() - began) * STROKES)))
                sleep(max(0.0, began + turn / STROKES - monotonic()))
                if leaves and turn > turns // 2:
                    return self.follow(n * SEEDS + turn, who, event, self.page(n, turn, flat, "live"), "vanish", 0)
                self.seen(n, who, event, self.page(n, turn, flat, "live"), turn)
                self.ends["strokes"] += 1
            if rng.random() < 0.4:  # the hand goes on before the picture in full is there
                wake = {"event_data": {"turn": turn + 1}}
                name = who.join(event, self.page(n, turn, flat, "rest"))
                who.call(self.site.event("draw-canvas", "wake"), [None], **wake)
                self.end(who, name)
                turn += 1
            self.seen(n, who, event, self.page(n, turn, flat, "rest"), turn)
        return "done"

    def reload(self, n: int, rng: Random, who: Visitor) -> str:
        """Make on the page, which goes away meanwhile; the next one takes it up. Or Stop, or nobody comes back."""
        make, token, fate = (
            self.site.event("draw-make", "click", 24),
            secret(rng),
            rng.choice(["back", "back", "stop", "gone"]),
        )
        self.arrive(who, token)
        flat = who.upload(png(Image.new("RGB", (SIDE, SIDE), colour(n))))
        data = self.page(n, 0, flat, "change")
        with who.alive():
            if fate == "stop":
                return self.follow(n * SEEDS, who, make, data, "stop", rng.choice([0, 1, 3]))
            end = self.follow(n * SEEDS, who, make, data, "vanish", rng.choice([0, 1, 3]))
        if fate == "gone" or end == "done":
            return "vanished"
        with Visitor(self.site) as back:
            self.arrive(back, secret(rng), token)
            with back.alive():
                event = self.site.event("visit", "draw")
                found = self.end(back, back.join(event, [None]))
                file = self.site.told(event, found, "draw-png")
                self.check(n, back.download(file), n * SEEDS)
        return "done"

    def broken(self, n: int, rng: Random, who: Visitor) -> str:
        """Each is answered by a sentence, and not by "something went wrong"."""
        call, flat = self.site.named["interpolate"], who.upload(png(Image.new("RGB", (SIDE, SIDE), colour(n))))
        whole = self.request("interpolate", n, rng, who)
        text, half = who.upload(b"no picture"), who.upload(png(Image.effect_noise((SIDE, SIDE), 90))[:900])
        wrong: list[dict[str, Any]] = [{"frames": 4}, {"a": text}, {"a": half}, {"model": "nonsense"}, {"seed": 1.5}]
        wrong += [{"steps": 10**9}, {"size": -1}, {"a": None}, {"a": flat | {"path": "/etc/hostname"}}, {"fit": "x"}]
        wrong += [{"prompt": "(" * 9999}, {"a": flat | {"path": flat["path"] + "/../../x"}}]
        change = rng.choice(wrong)
        try:
            name = who.join(call, self.site.given(call, **(whole | change)))
            self.end(who, name)
        except Refused as e:
            if e.status < 500 and e.words and "omething went wrong" not in e.words:
                return "refused"
            raise
        if "prompt" in change:  # which is long, and no more
            return "done"
        raise AssertionError(f"broken input was taken: {[*change]}")

    # ---- how

    def arrive(self, who: Visitor, token: str = "", before: str = "") -> None:
        who.call(self.site.named["come"], [{"token": token or secret(Random()), "before": before}])

    def page(self, n: int, turn: int, photo: dict[str, Any], phase: str) -> list[Any]:
        """What the Draw tab sends."""
        url = "data:image/png;base64," + base64.b64encode(png(dot(20 + turn % 20))).decode()
        canvas = {"width": SIDE, "height": SIDE, "photo": photo, "layers": {"strokes": url}, "turn": turn}
        own = {"draw_seed": n * SEEDS + turn, "draw_size": SIDE, "draw_steps": 4, "draw_network": self.model}
        event = self.site.event("draw-canvas", "live")
        return self.site.given(event, draw_canvas=canvas | {"phase": phase}, **own)

    def follow(self, seed: int, who: Visitor, event: Any, data: list[Any], fate: str, after: int) -> Any:
        """One event until its end, or until the visitor has seen enough; what it gave, or how it ended."""
        self.sent[seed] = monotonic()
        name, seen, over = who.join(event, data), -1, False
        with who.stream() as messages:
            while True:
                if fate != "stay" and seen >= after and not over:
                    over, self.stopped[seed] = True, monotonic()
                    if fate == "vanish":
                        del self.stopped[seed]  # it is noticed in time, not at once
                        return "vanished"
                    if fate == "stop":
                        who.call(self.site.event("draw-stop", "click", 1), [None])
                    else:
                        who.cancel(event, name)
                message = next(messages)
                if message.get("event_id", name) != name:
                    continue
                found = ended(message)
                if found is not None:
                    return "cancelled" if over else found if fate == "stay" else "done"
                seen += message["msg"] == "process_generating"

    def end(self, who: Visitor, name: str) -> list[Any]:
        with who.stream() as messages:
            for message in messages:
                if message.get("event_id") == name and (found := ended(message)) is not None:
                    return found
        raise EOFError("the stream ended before the event")

    def seen(self, n: int, who: Visitor, event: Any, data: list[Any], turn: int) -> None:
        """A stroke, and the picture that follows it."""
        self.sent[n * SEEDS + turn] = monotonic()
        found = self.end(who, who.join(event, data))
        cells = json.loads(self.site.told(event, found, "draw-viewer"))["cells"]
        source = cells[0]["src"]
        if source.startswith("data:"):
            block = base64.b64decode(source.partition(",")[2])
            near = max(abs(a - b) for a, b in zip(corner(block), colour(n), strict=True))
            if near > 7:
                self.crossed.append(f"{n} live {near}")
        else:
            self.check(n, who.download(source), n * SEEDS)

    def check(self, n: int, block: bytes, seed: int) -> None:
        if corner(block) != colour(n) or seed != n * SEEDS:
            self.crossed.append(f"{n}: {corner(block)} instead of {colour(n)}, seed {seed}")


def secret(rng: Random) -> str:
    return f"{rng.getrandbits(192):048x}"

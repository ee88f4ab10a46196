"""Measures a flora in all of its uses, part by part, and writes its model card with sheets of samples.

Every part's figures are kept in ``WORK/report/<hash of what it reads>/<part>.json``, so that a report that was cut off
goes on, and reports of two floras stand beside each other. After a change of the code remove that folder.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from training import figures
from training.figures import Figures
from training.loop import FLORA, WORK
from training.samples import hashed

ORDER = "copies words drawn renoised few ways said sliders strangers inversion speed metric clip unconditional"
PARTS: dict[str, Callable[[figures.Bench], Figures]] = {n: torch.no_grad()(getattr(figures, n)) for n in ORDER.split()}
BESIDE = {"few": ("live",), "speed": ("live",), "said": ("clip",), "clip": ("clip",)}  # what else a part reads


def kept(folder: Path, quick: bool, part: str) -> Path:
    """Where a part's figures are kept: they hold as long as the weights that it reads are the same."""
    known = hashed(folder, ("unet", "vae", "text_encoder", "scheduler", *BESIDE.get(part, ())))
    return WORK / "report" / f"{known}{'-quick' * quick}" / f"{part}.json"


def gathered(folder: Path, quick: bool) -> dict[str, Figures]:
    """What is kept of a flora, by part; of the quick report where the whole one lacks a part: it says its pictures."""
    places = {part: (kept(folder, quick, part), kept(folder, True, part)) for part in PARTS}
    found = {part: f for part, two in places.items() if (f := next(filter(Path.exists, two), None))}
    return {part: json.loads(f.read_text(encoding="utf8")) for part, f in found.items()}


def table(found: dict[str, Figures], other: dict[str, Figures]) -> str:
    """Both floras' figures as a table in Markdown."""
    lines = ["| part | measure | before | now |", "|---|---|---|---|"]
    for part, key in {(p, k): 0 for f in (found, other) for p, own in f.items() for k in own}:
        both = [f"{f[part][key]:.4g}" if key in f.get(part, {}) else "–" for f in (other, found)]
        lines.append(f"| {part} | {key} | {both[0]} | {both[1]} |")
    return "\n".join(lines)


def light_rows(found: dict[str, dict[str, float]]) -> str:
    """What `training.light` has measured, as rows of the card."""
    if not found:
        return ""
    psnr, slopes, colour = (" / ".join(str(told[k]) for told in found.values()) for k in ("psnr", "slopes", "colour"))
    return (
        f"| light decoder | PSNR | {psnr} dB | to the whole decoder's pictures of latents of photographs / few-step "
        f"drawings / guesses at noisy ones |\n| | slopes | {slopes} | of the whole decoder's |\n"
        f"| | mean colours | {colour} | distance from the whole decoder's, of 255 |\n"
    )


def card(b: figures.Bench, found: dict[str, Figures]) -> str:
    seen: dict = {k: v for own in found.values() for k, v in own.items()}
    seen |= {f"{part}_pictures": own["pictures"] for part, own in found.items() if "pictures" in own}
    spent = json.loads((FLORA / "training.json").read_text(encoding="utf8"))
    many = {name: f"{v['samples']:,} pictures in " if "samples" in v else "" for name, v in spent.items()}
    said = [f"{name} {many[name]}{v['minutes']:.0f} minutes" for name, v in spent.items()]
    numbers = [b.rows[i].file.split("f-")[1].split("_")[0] for i in b.shown]
    seen["photographs"] = ", ".join(f"[{n}](https://www.flickr.com/photo.gne?id={n})" for n in numbers)
    seen["light"] = light_rows(spent.get("light", {}).get("measures", {}))
    seen |= {"compute": "; ".join(said), "prompts": "; ".join(figures.TEXTS), "reference": figures.REFERENCE}
    return (Path(__file__).parent / "card.md").read_text(encoding="utf8").format(**seen)


def report(folder: Path = FLORA, quick: bool = False, only: str = "", other: Path | None = None) -> dict[str, Figures]:
    """Measures what is not yet kept, and returns all that is; once nothing lacks of this tree's flora, its card."""
    paths = {name: kept(folder, quick, name) for name in PARTS}
    place = FLORA if folder == FLORA else kept(folder, quick, "").parent
    b = figures.Bench(folder.resolve(), place / "sheets", quick, other)
    for name in [only] if only else PARTS:
        if not (path := paths[name]).exists():
            begun = time.time()
            found = {k: round(v, 5) for k, v in PARTS[name](b).items()}
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(found | {"seconds": round(time.time() - begun)}), encoding="utf8")
            print(f"{name}: {path.read_text(encoding='utf8')}", flush=True)
    found = gathered(folder, quick)
    if folder == FLORA and len(found) == len(PARTS) and b.net.resident.has("live"):
        (FLORA / "measures.json").write_text(json.dumps({"quick": quick} | found, indent=1) + "\n", encoding="utf8")
        (FLORA / "README.md").write_text(card(b, found), encoding="utf8")
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m training report", description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON object on the last line")
    parser.add_argument("--quick", action="store_true", help="a fifth of the pictures")
    parser.add_argument("--only", default="", choices=["", *PARTS], metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--model", type=Path, default=FLORA, help="a flora's folder, if not this tree's")
    parser.add_argument("--compare", type=Path, help="a flora's folder: its figures beside, as kept, and its crops")
    args = parser.parse_args(arguments)
    found = report(args.model, args.quick, args.only, args.compare)
    print(table(found, gathered(args.compare, args.quick) if args.compare else {}))
    if args.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()

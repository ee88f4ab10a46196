"""Fields that several requests have."""

from typing import Annotated

from PIL.Image import Image

from engine.requests.spec import Spec, advanced, results

CFG = "guidance scale, CFG: 1 is off; 7.5 suits Stable Diffusion, 1.5 to 3 flora"
GUIDANCE = Spec("Follow the words", "how strictly; much of it is harsh", 0, 20, 0.1, term=CFG)
DICE = "a throw of the dice; the same number gives the same pictures, -1 a new one"
SEED = Annotated[int, Spec("Seed", DICE, 0, 2**32 - 1, 1, group="make")]
SIZE = Annotated[int, advanced("Longer side", "in pixels; 0: what suits the network", 0, 1536, 8, beside=True)]
FITS = {"fit": "as the first picture", "crop": "square, edges cut off", "pad": "square, all of it"}
FIT = Annotated[str, advanced("Shape", "of all the frames", choices=FITS)]
NETWORK = "a name, a diffusers folder or a .safetensors file; then LoRAs: sd15 + /loras/ink.safetensors:0.8"
MODEL = Annotated[str, Spec("Network", NETWORK, group="network", term="model, checkpoint")]
PROMPT = Annotated[
    str, Spec("In words", "what they show, e.g. a red tulip (may stay empty)", group="words", term="prompt")
]
NEGATIVE = Annotated[str, advanced("Not wanted", "what the pictures should not show", term="negative prompt")]
SAMPLERS = {"ddim": "careful: all the steps", "live": "quick: four steps or fewer"}
SAMPLER = Annotated[
    str, advanced("Pace", "quick is rougher", choices=SAMPLERS, term="sampler: DDIM, or few-step weights (LCM-LoRA)")
]
CHANCE = advanced("Chance", "on the way; at 0 only the seed decides", 0, 1, 0.05, term="η: fresh noise; 0 DDIM, 1 DDPM")
COUNT = Annotated[int, results("Results", "how many; each has the next seed", 1, 16, 1)]
FEATHER = Annotated[
    int,
    advanced(
        "Soft edge", "pixels, inside the part that may change", 0, 128, 1, beside=True, term="feather of the mask"
    ),
]
LIGHT = "what is made takes its colours at the seam; a part in new colours keeps them"
MATCH = Annotated[bool, advanced("match the photograph's light", LIGHT)]
BEFORE = {"match": False}  # what files say that are older than a field
MASK = Annotated[Image | None, Spec("Mask", "white (or alpha) where it may change, grey for less", layer="L")]
PHOTO = Annotated[Image | None, Spec("photo", "the photograph that is edited; the rest of it is kept", layer="RGB")]

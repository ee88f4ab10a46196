"""Fields that several requests have."""

from typing import Annotated

from PIL.Image import Image

from engine.requests.spec import Spec, advanced, results

GUIDANCE = Spec("Guidance", "how strictly the words, if any, are followed; 1 is off", 0, 20, 0.1)
SEED = Annotated[
    int, Spec("Seed", "the same seed gives the same pictures; -1 is a new one", 0, 2**32 - 1, 1, group="make")
]
SIZE = Annotated[int, advanced("Longer side", "in pixels; 0 is the network's own", 0, 1536, 8, beside=True)]
FITS = {"fit": "proportions of the first", "crop": "square, cropped", "pad": "square, whole"}
FIT = Annotated[str, advanced("Frame", "how pictures of other proportions are shown", choices=FITS)]
NETWORK = "a name, a diffusers folder or a .safetensors file; then LoRAs: sd15 + /loras/ink.safetensors:0.8"
MODEL = Annotated[str, Spec("Network", NETWORK, group="network")]
PROMPT = Annotated[str, Spec("In words", "what they show, e.g. a red tulip (may stay empty)", group="words")]
NEGATIVE = Annotated[str, advanced("Not wanted", "what the pictures should not show")]
SAMPLERS = {"ddim": "DDIM, all the steps", "live": "live: four steps or fewer"}
SAMPLER = Annotated[str, advanced("Sampler", "live takes the few-step weights", choices=SAMPLERS)]
COUNT = Annotated[int, results("Results", "with this seed, the next, and so on", 1, 16, 1)]
FEATHER = Annotated[int, advanced("Soft edge", "pixels inside the part that may change", 0, 128, 1, beside=True)]
LIGHT = "what is made takes its colours at the seam; a part in new colours keeps them"
MATCH = Annotated[bool, advanced("match the photograph's light", LIGHT)]
BEFORE = {"match": False}  # what files say that are older than a field
MASK = Annotated[Image | None, Spec("Mask", "white (or alpha) where it may change, grey for less", layer="L")]
PHOTO = Annotated[Image | None, Spec("photo", "the photograph that is edited; the rest of it is kept", layer="RGB")]

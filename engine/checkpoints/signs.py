"""The table of kinds: networks, parts of networks and LoRAs, each with its signs and the verdict.

Signs are expressions searched in the lines that `kinds` makes of a file or a folder.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple


class Kind(NamedTuple):
    """``said``: as in "got …"; ``signs``: one of them is enough; ``family``: the verdict, what belongs to it
    (`catalogue.FAMILIES`), "" where it is refused."""

    said: str
    signs: tuple[str, ...]
    family: str = ""


# The first row with a sign counts, so what is told by little stands last.
KINDS = (
    Kind("a FLUX network", ("^class (Flux|Chroma)", r"^has .*(double_blocks|single_transformer_blocks)\.")),
    Kind("a Stable Diffusion 3 network", ("^class (StableDiffusion3|SD3)", r"^has .*joint_blocks\.")),
    Kind("a network for films", ("^class .*(Video|UNet3D|Spatio|Motion|Animate)", "^has .*(time_stack|temporal_tr)")),
    Kind("an unCLIP network", ("^class StableUnCLIP", "^labels proj", r"^has noise_augmentor\.")),
    Kind("a Kandinsky network", ("^class Kandinsky", "^adds image")),
    Kind("a Stable Cascade network", ("^class (StableCascade|Wuerstchen)", "^has .*clip_txt_mapper")),
    Kind("a DeepFloyd IF network", ("^class IF[A-Z]", "^inputs [36]$")),
    Kind(
        "a transformer",
        ("^part (transformer|prior)$", r"^has (model\.diffusion_model\.)?(transformer_blocks|blocks)\.0\."),
    ),
    Kind("SDXL's refiner", ("^words 1280$", r"^has conditioner\.embedders\.0\.model\.")),
    Kind("a network with EDM's noise, as Playground v2.5 and CosXL have", ("^noise EDM", "^has edm_")),
    Kind(
        "a ControlNet",
        ("^class ControlNet.*Model", r"^has (control_model|controlnet_\w+|.*input_hint_block|zero_convs)\."),
    ),
    Kind(
        "an adapter",
        ("^class (T2I|IP|Multi)Adapter", r"^has ((adapter\.)?body\.\d\.(in_conv|block1|resn)|image_proj|ip_adapter)"),
    ),
    Kind("a network for inpainting", ("^class PaintByExample", "^inputs 9$")),
    Kind("a network guided by depth", ("^inputs 5$",)),
    Kind("a network that enlarges", ("^inputs 7$",)),
    Kind("one that takes a picture beside the noise, as InstructPix2Pix does", ("^inputs 8$",)),
    Kind("one that takes a picture for words", ("^class .*ImageVariation",)),
    Kind("a GLIGEN network", ("^attention gated", r"^has .*position_net\.")),
    Kind("one with another UNet than Stable Diffusion's", ("^unet (?!UNet2DConditionModel$)",)),
    Kind("one with another VAE than Stable Diffusion's", ("^vae (?!Autoencoder(KL|DC)$)",)),
    Kind("one with another text encoder than CLIP's", ("^text (?!CLIPText)",)),
    Kind("one whose VAE has latents of another size", ("^differ latents",)),
    Kind("one with the VAE of Stable Diffusion 1 or 2", (r"^adds text_time$[\s\S]*^scale 0\.18215$",)),
    Kind("one with SDXL's VAE", (r"^adds (?!text_time)[\s\S]*^scale 0\.13025$",)),
    Kind("SDXL", ("^adds text_time$", r"^inputs 4$[\s\S]*^words 2048$"), "sdxl"),
    Kind("flora", (r"^inputs 12$[\s\S]*^words 192$",), "flora"),
    Kind("Stable Diffusion 1", (r"^inputs 4$[\s\S]*^words 768$",), "sd1"),
    Kind("Stable Diffusion 2", (r"^inputs 4$[\s\S]*^words 1024$",), "sd2"),
)
# Files and folders that are no network, or a part of one.
FILES = (
    Kind("a LoRA", (r"^has .*(lora[_.]|hada_w|lokr_w|oft_blocks|on_input$)", "^file (adapter_model|.*lora_weights)")),
    Kind("averaged weights (EMA) alone", ("^has (model_)?ema[._]",)),
    Kind("a textual inversion", ("^has (emb_params|string_to_param|clip_[lg]|<.+>)", "^file learned_embeds")),
    Kind("a network that only enlarges pictures", (r"^has (conv_first|model\.0|.*(rdb1|RDB1|conv_up1))\.",)),
    Kind("a VAE alone", ("^class Autoencoder", r"^has (first_stage_model\.)?(encoder|decoder)\.conv_in\.")),
    Kind("a UNet alone", ("^class UNet2D", r"^has (unet\.)?(down_blocks|conv_in)\.")),
    Kind(
        "a CLIP alone",
        (
            "^class CLIP",
            r"^has (cond_stage_model\.)?(text_model|text_projection|vision_model|visual|transformer)\b",
        ),
    ),
)
LORAS = (
    Kind("one for FLUX", ("^has .*(double_blocks|single_transformer_blocks|single_blocks)[_.]",)),
    Kind("one for Stable Diffusion 3", ("^has .*joint_blocks[_.]",)),
    Kind("one for films", ("^has .*(temporal|motion_modules)",)),
    Kind(
        "one for a transformer",
        (
            r"^has (base_model\.model\.)?(transformer|diffusion_model)\.(?!(input|middle|output)_|time_|label_|out\.)",
            "^has lora_transformer_",
        ),
    ),
    Kind("a LoHa", ("^has .*hada_",)),
    Kind("a LoKr", ("^has .*lokr_",)),
    Kind("an OFT", ("^has .*(oft|boft)_",)),
    Kind("a GLoRA", (r"^has .*\.[ab][12]\.weight$",)),
    Kind("an (IA)³", ("^has .*(on_input$|ia3)",)),
    Kind("the full differences of layers", (r"^has .*\.diff(_b)?$",)),
    Kind(
        "one for SDXL",
        (
            "^has lora_te2_",
            r"^has text_encoder_2\.",
            "^has lora_unet_(input|output|middle)_block",
            "^has lora_.*transformer_blocks_[1-9]",
            r"^has .*transformer_blocks\.[1-9].*lora",
        ),
        "sdxl",
    ),
)
# For LoRAs: networks by the width of their words.
WIDTHS = {192: "flora", 768: "Stable Diffusion 1", 1024: "Stable Diffusion 2", 2048: "SDXL", 1280: "SDXL's refiner"}
# The names of a LoRA's tensors: of which text encoder it is, if of one, its layer, what of it.
KEY = re.compile(
    r"(?:base_model\.model\.)?"
    r"(?:unet\.|lora_unet_|diffusion_model\.|(text_encoder(?:_2)?\.|lora_te[12]?_|(?=text_model\.)))?"
    r"(?:base_model\.model\.)?(.+?)"
    r"(?:\.(alpha|dora_scale)"
    r"|[._]lora(?:_linear_layer)?[._](A|B|down|up|mid|magnitude_vector)(?:\.default\w*)?(?:\.weight)?)"
)
SECOND = ("text_encoder_2.", "lora_te2_")  # what the second text encoder's begin with
# The layers of UNets and text encoders into which words go: they tell how wide these are.
INWARD = re.compile(r"(attn2[._]to_k|self_attn[._][qkv]_proj|mlp[._]fc1)$")


def tell(lines: Iterable[str], table: tuple[Kind, ...]) -> Kind | None:
    return _tell("\n".join(lines), table)


@lru_cache(32)  # every live stroke asks, and the names of SDXL's tensors are many
def _tell(text: str, table: tuple[Kind, ...]) -> Kind | None:
    return next((kind for kind in table if any(re.search(s, text, re.MULTILINE) for s in kind.signs)), None)

"""The embedded network's files: plain diffusers and transformers load them, and they are small."""

from itertools import chain

import pytest
import torch
from conftest import ROOT
from diffusers import AutoencoderDC, DDIMScheduler, UNet2DConditionModel
from safetensors import safe_open
from transformers import CLIPTextModel, CLIPTokenizer

pytestmark = pytest.mark.slow
FLORA = ROOT / "assets/models/flora"
MB = 10**6


def test_every_weight_is_bfloat16_and_every_file_and_the_folder_small():
    files = [f for f in FLORA.rglob("*") if f.is_file()]
    assert all(f.stat().st_size <= 95 * MB for f in files) and sum(f.stat().st_size for f in files) <= 170 * MB
    assert not [f for f in files if f.suffix in (".bin", ".ckpt", ".pkl", ".pt", ".pth")]
    for part in ("unet", "vae", "text_encoder"):
        (file,) = (FLORA / part).glob("*.safetensors")
        with safe_open(file, "pt") as f:
            kinds = {f.get_slice(name).get_dtype() for name in f.keys()}  # noqa: SIM118, it is no dict
        assert kinds == {"BF16"}, file


@torch.no_grad()
def test_plain_diffusers_and_transformers_load_it_and_it_makes_a_picture():
    unet = UNet2DConditionModel.from_pretrained(FLORA / "unet")
    vae = AutoencoderDC.from_pretrained(FLORA / "vae")
    text = CLIPTextModel.from_pretrained(FLORA / "text_encoder", dtype=torch.float32)
    tokenizer = CLIPTokenizer.from_pretrained(FLORA / "tokenizer")
    scheduler = DDIMScheduler.from_pretrained(FLORA / "scheduler")
    config = scheduler.config
    assert (config.prediction_type, config.timestep_spacing) == ("v_prediction", "trailing")
    assert config.rescale_betas_zero_snr and scheduler.alphas_cumprod[-1] == 0
    assert all(p.isfinite().all() for p in chain(unet.parameters(), vae.parameters(), text.parameters()))
    scheduler.set_timesteps(4)
    assert scheduler.timesteps[0] == 999  # pure noise
    length = text.config.max_position_embeddings
    ids = tokenizer("a red rose", padding="max_length", max_length=length, truncation=True, return_tensors="pt")
    words = text(ids.input_ids).last_hidden_state
    x, drawings = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0)), torch.zeros(1, 8, 16, 16)
    for t in scheduler.timesteps:
        x = scheduler.step(unet(torch.cat([x, drawings], 1), t, words).sample, t, x).prev_sample
    picture = vae.decode(x / vae.config.scaling_factor).sample
    assert picture.shape == (1, 3, 128, 128) and 0.1 < picture.std() < 1 and picture.abs().mean() < 1

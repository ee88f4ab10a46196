"""Training of *flora*, the embedded network: ``python -m training autoencoder|unet|export|report``."""

"""Training of *flora*, the embedded network: ``python -m training all``; see training/README.md."""

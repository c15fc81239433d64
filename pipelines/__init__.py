"""The commands: python -m pipelines.<name>."""

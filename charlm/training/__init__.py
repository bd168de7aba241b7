"""The training loop: windows and a model in, optimization steps out; without paths and output."""

"""Probes of what a model has learned, and of what its states and gradients do."""

"""Probes of what a model has learned: agreement, gradients."""

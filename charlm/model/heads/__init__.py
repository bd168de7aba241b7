"""Heads: from features to labels, and from the features of a source to those of its target."""

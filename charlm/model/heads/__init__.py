"""Heads: from the features of a sequence to labels."""

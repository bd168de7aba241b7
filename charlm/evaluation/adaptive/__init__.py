"""Scores of models that adapt while they read: dynamic evaluation, cache, n-grams, mixing."""

"""Novelty of a text: how much of it is in the training text, and how much of it repeats itself.

Texts are compared as the model writes them: in UTF-8, normalized like the tokenizer normalizes,
with a line end after each record. Models of words, subwords, characters and bytes are thus compared
alike. All figures are exact.
"""

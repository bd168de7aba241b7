"""A trained model, and what it can be asked: to write, and to be scored."""

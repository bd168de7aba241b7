"""From a run and a text to scores."""

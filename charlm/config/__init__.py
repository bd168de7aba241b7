"""The configuration: one file per section (every default), load, mistakes."""

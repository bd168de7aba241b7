"""Constraints on sampled text: banned text, a limit on copying, a regular expression."""

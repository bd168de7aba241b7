"""Constraints on generated text: banned text, a limit on copying, a regular expression."""

"""Automatic settings: from facts about a text, a device and a budget to a configuration."""

"""The configuration: schema (every default), load (YAML and overrides), mistakes, show."""

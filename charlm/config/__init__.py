"""The configuration: schema (every default), load (YAML and overrides), show (a commented YAML)."""

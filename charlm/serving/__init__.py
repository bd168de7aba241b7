"""Serve trained runs over HTTP: the web page and the completions API."""

"""Corpora that any Python installation can build without a download.

Three are collected from the installation itself: the documentation, the source code and the names
of the Unicode characters. They depend on the version of Python, and on nothing else. Two are
generated, so that the memory of a network can be measured: sentences of a small grammar, and
strings of bits with their parity. The others are pairs for tasks.
"""

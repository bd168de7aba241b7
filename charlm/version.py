"""The version of charlm."""

VERSION = "0.1.0"

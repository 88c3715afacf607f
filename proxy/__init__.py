"""Reelway: the gateway that keeps video-generation code working."""

__version__ = "0.1.0"

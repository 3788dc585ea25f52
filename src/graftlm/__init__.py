"""Graft an XLM-R encoder into an mBART, and measure whether it helped."""

__version__ = "0.1.0"

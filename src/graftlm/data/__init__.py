"""Rows of text and of pairs, the tokens made of them, and the batches made of those."""

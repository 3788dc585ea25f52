"""The graft: carrying what a donor (XLM-R) learned into a host (mBART)."""

"""Validation of other implementations: every layer of a port judged on its own input."""

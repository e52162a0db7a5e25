"""Frozen towers: loading, and the parts of them that maps need."""

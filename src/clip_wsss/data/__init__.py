"""Data sets, their annotations and vocabularies."""

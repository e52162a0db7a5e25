"""Counts, figures, intervals and differences."""

"""Pseudo masks from maps, and mask refinements."""

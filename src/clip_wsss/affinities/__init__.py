"""Refinement of maps on the grid."""

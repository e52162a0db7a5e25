"""Refinement of full-resolution scores by the image: one file a method."""

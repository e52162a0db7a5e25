"""Texts of the classes, and templates ranked by sharpness."""

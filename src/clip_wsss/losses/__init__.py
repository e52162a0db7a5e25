"""Losses of the pixels of a batch: one file a method."""

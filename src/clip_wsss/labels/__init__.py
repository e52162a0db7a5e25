"""Makers of labels in every step of a training: one file a method."""

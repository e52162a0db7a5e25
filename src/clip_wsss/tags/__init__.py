"""Image-level labels predicted by a frozen CLIP, for data sets that have none."""

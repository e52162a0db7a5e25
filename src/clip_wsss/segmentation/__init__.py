"""Segmentation training and prediction with MMSegmentation, through its registries."""

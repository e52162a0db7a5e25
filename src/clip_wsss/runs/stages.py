"""What is measured, in the order of the pipeline."""

MAP_STAGES = ("initial", "refined")  # maps, scored at a background power
LABEL_STAGES = (*MAP_STAGES, "mask")  # labels of one split, so comparable with one another
TRAINED = ("labels", "segmentation")  # by a training, so one a seed: its own labels, predictions
SCORED = (*LABEL_STAGES, *TRAINED)

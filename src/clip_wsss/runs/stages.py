"""What is measured, in the order of the pipeline."""

MAP_STAGES = ("initial", "refined")  # maps, scored at a background power
LABEL_STAGES = (*MAP_STAGES, "mask")  # labels of one split, so comparable with one another
# The group of a run whose node is measured.
GROUP_OF = {"initial": "cam", "refined": "affinity", "mask": "masks"}
TRAINED = ("labels", "segmentation")  # by a training, so one a seed: its own labels, predictions
SCORED = (*LABEL_STAGES, *TRAINED)

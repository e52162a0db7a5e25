"""The public data sets: downloaded, checked, and laid out as a VOC devkit below data/."""

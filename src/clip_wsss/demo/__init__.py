"""The embedded demo: emoji scenes in VOC layout and the small CLIP trained on their captions."""

"""WeCLIP: a decoder on a frozen CLIP, trained on pseudo labels made in every step.

docs/weclip.md has the facts. `clip_wsss.labels` makes the pseudo labels;
`decoder`, `segmentor` and `data` are what MMEngine builds; importing them, after
`clip_wsss.segmentation`, registers them.
"""

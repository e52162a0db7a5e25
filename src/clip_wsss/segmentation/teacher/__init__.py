"""CLIP as a teacher (CLIP-ZSS, arXiv 2310.02296): what a frozen CLIP adds to a training.

Our reading of the paper's formulas; docs/zero-shot.md lists the assumptions.
"""

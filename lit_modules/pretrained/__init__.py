"""Pretrained weights: read, name, save and lengthen them; `lit_modules.weights` is public."""

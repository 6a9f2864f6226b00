"""Redundancy suppression distillation: a strong vision model's skill in a small one of another architecture."""

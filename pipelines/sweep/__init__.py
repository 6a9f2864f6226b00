"""Sweeps: a grid of params, each cell of it a DVC experiment in a git clone of its own."""

"""Prefect flows. They start stages through DVC and never repeat the graph."""

"""Several runs side by side: how their params and results differ."""

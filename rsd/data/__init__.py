"""Where images come from, what a view of an image is, and how batches are served."""

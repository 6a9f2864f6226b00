"""`rsd start`: from a folder of images to a run that fits them."""

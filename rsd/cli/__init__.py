"""The command `rsd`. Its modules declare arguments and print; the rooms above do the work."""

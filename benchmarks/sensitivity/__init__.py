"""What stands on docs/sensitivity.md: students, tables and pictures of the sweep `sensitivity`."""

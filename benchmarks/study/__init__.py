"""What stands on docs/study.md: students, tables and pictures of the sweep `study`."""

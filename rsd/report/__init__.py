"""What a person looks at after a run."""

from rsd.machine.extras import needs

needs("report", "altair", "vl_convert", "pandas", "scipy")

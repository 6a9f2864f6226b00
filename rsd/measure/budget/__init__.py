"""Which student is the best under a latency budget on a device: `rsd budget`."""

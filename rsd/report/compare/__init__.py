"""Several runs side by side: what differs in what was chosen, and in what came of it."""

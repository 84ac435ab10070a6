"""`vilbert compare`: two feature sets of the same images, where they differ, and why."""

"""`vilbert compare`: how two feature sets of the same images differ, and why."""

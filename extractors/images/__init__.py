"""Image files read down to what their decoder needs, before any decoder has run."""

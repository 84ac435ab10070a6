"""What to process: readers of the published file formats, and the manifest they become."""

"""Feature maps of image encoders: a feature of any box, and patches or grid cells as regions."""

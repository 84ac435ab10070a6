"""Image to regions: decoding, Faster R-CNN detectors, box selection and their weights."""

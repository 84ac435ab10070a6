"""The shapes data set: generated scenes with annotations in the published formats."""

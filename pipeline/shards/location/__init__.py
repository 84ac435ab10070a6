"""The location of a data set: a folder on a disk or in an object store, with a single writer."""

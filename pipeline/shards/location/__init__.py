"""Where a data set is stored: a folder on a disk or in an object store, with one writer."""

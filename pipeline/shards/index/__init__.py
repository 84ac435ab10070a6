"""Side files: what other tools read of a data set's folder. One module per file or group of files."""

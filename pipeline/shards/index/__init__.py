"""Side files with which other tools open a data set's folder. One module per file or group of files."""

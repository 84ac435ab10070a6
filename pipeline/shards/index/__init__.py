"""Side files, with which other tools read a data set's folder. One module per file or group of files."""

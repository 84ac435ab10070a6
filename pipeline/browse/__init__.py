"""`vilbert browse`: explore data sets in a web page served on the loopback address."""

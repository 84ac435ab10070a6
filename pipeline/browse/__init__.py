"""`vilbert browse`: look at data sets in a web page that this machine serves to itself."""

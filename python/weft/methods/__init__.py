"""One file a paper: what tables, read-outs, gates or tokens a layer gets at a step."""

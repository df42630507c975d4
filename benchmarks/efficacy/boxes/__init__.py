"""Whether boxes put the objects of a prompt where they should be, in joint attention."""

"""Whether each of the five tasks does what it says."""

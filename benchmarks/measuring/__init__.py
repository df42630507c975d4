"""How time and memory are measured, and the record of where; what a method adds to an image, and what reuse saves."""

"""Training of soft tokens: contrast, AGSM."""

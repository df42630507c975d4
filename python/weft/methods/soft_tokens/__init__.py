"""SoftREPA: learnt text tokens that layers see beside the prompt."""

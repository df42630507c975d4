"""Whether soft tokens make a model follow its prompts, and at what price."""

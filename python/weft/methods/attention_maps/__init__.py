"""What a word looks at: attention maps of tokens, read while the model runs."""

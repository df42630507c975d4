"""One file a command: a dataclass of its options and the function that carries it out; parsed by ``command_line``."""

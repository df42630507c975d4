"""The public functions. Each package holds one op: its contract, checks, choice of backend and registration."""

from weft._names import public_names

__getattr__, __dir__, __all__ = public_names(__name__, __file__)

# at once: an exported program finds its operators in torch.ops.weft after `import weft.ops`
for _name in __all__:
    __getattr__(_name)

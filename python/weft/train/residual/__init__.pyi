from .fit import CAPTION as CAPTION
from .fit import ResidualConfig as ResidualConfig
from .fit import fit_residual as fit_residual

from .config import CAPTION as CAPTION
from .config import ResidualConfig as ResidualConfig
from .fit import fit_residual as fit_residual

from .control import LocalizedResiduals as LocalizedResiduals
from .residual import Residual as Residual

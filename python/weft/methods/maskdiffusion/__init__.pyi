from .control import MaskDiffusion as MaskDiffusion
from .settings import MODES as MODES
from .settings import MaskDiffusionSettings as MaskDiffusionSettings

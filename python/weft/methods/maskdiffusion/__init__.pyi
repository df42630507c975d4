from .control import MaskDiffusion as MaskDiffusion
from .joint_settings import JOINT as JOINT
from .joint_settings import JointSettings as JointSettings
from .settings import MODES as MODES
from .settings import MaskDiffusionSettings as MaskDiffusionSettings

from . import evaluation as evaluation
from . import ops as ops
from . import shapes as shapes
from . import testing as testing
from . import train as train
from ._dispatch import backend as backend
from ._errors import BackendUnavailableError as BackendUnavailableError
from .attach import Attachment as Attachment
from .attach import attach as attach
from .attach import detach as detach
from .methods.attention_maps import AttentionMaps as AttentionMaps
from .methods.maskdiffusion import MaskDiffusion as MaskDiffusion
from .methods.powerpaint import TaskBranch as TaskBranch
from .methods.powerpaint import TaskPrompts as TaskPrompts
from .methods.residuals import LocalizedResiduals as LocalizedResiduals
from .methods.residuals import Residual as Residual
from .methods.soft_tokens import SoftTokens as SoftTokens
from .train.distribution import FakeToFake as FakeToFake
from .train.distribution import FakeToReal as FakeToReal

__version__: str

from . import regions as regions
from .attention import Edit as Edit
from .attention import attention as attention
from .contrastive_loss import Columns as Columns
from .contrastive_loss import contrastive_loss as contrastive_loss
from .lowrank_linear import lowrank_linear as lowrank_linear
from .pairwise_error import bounded_logit as bounded_logit
from .pairwise_error import pairwise_error as pairwise_error

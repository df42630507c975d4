from . import regions as regions
from ._attention_edit import Edit as Edit
from ._contrastive_loss_columns import Columns as Columns
from .attention import attention as attention
from .contrastive_loss import contrastive_loss as contrastive_loss
from .lowrank_linear import lowrank_linear as lowrank_linear
from .pairwise_error import bounded_logit as bounded_logit
from .pairwise_error import pairwise_error as pairwise_error

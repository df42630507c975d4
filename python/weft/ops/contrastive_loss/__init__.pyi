from .columns import Columns as Columns
from .columns import as_segment as as_segment
from .op import contrastive_loss as contrastive_loss
from .op import contrastive_loss_parts as contrastive_loss_parts
